"""Instructions of the native stages, one call each, by callgrind: python benches/instructions.py [--check]

They do not depend on what else the machine does. `--check` fails where a stage takes more than the file of limits says
(`benches/instructions.json`), by 15 %; `--write` renews that file. Needs cargo and valgrind; without valgrind it says
so and ends well, so that it may stand in a script that runs anywhere. Counts are those of AVX2: valgrind has no
AVX-512.
"""

import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
LIMITS = Path(__file__).with_suffix(".json")
STAGES = ("shapes", "boxes", "normals", "colors", "fit_colors", "rasterize", "render")
TOLERANCE = 1.15


def built() -> str:
    """Build the benchmark and return the path of its executable."""
    command = ["cargo", "bench", "--quiet", "--locked", "--package", "wm3dr-core", "--bench", "instructions"]
    options = ["--no-run", "--message-format=json"]
    done = subprocess.run([*command, *options], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    return next(m["executable"] for m in messages if m.get("executable"))


def instructions(executable: str, stage: str) -> int:
    """Count one call of a stage."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"--callgrind-out-file={folder}/out"
        command = ["valgrind", "--tool=callgrind", "--toggle-collect=*measured*", out, executable, stage]
        done = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None or int(found[1]) == 0:
        raise RuntimeError(f"callgrind counted nothing in {stage!r}: {done.stderr}")
    return int(found[1])


@click.command()
@click.option("--check", is_flag=True, help="Fail where a stage takes more than its limit.")
@click.option("--write", is_flag=True, help="Write what was counted as the new limits.")
def main(check: bool, write: bool) -> None:
    """Count, print, compare."""
    if shutil.which("valgrind") is None or platform.machine() != "x86_64":
        print("instructions are not counted: that needs valgrind and an x86-64 processor")
        return
    executable = built()
    counts = {stage: instructions(executable, stage) for stage in STAGES}
    limits = json.loads(LIMITS.read_text()) if LIMITS.exists() else {}
    slow = []
    for stage, count in counts.items():
        ratio = count / limits[stage] if stage in limits else 1.0
        print(f"{stage:10} {count / 1e6:8.2f} million, {ratio:.3f} of the recorded")
        if ratio > TOLERANCE:
            slow.append(stage)
    if write:
        LIMITS.write_text(json.dumps(counts, indent=2) + "\n")
    if check and slow:
        sys.exit(f"more instructions than recorded: {', '.join(slow)}")


if __name__ == "__main__":
    main()
