"""Measure the table of ray.md, one process against Ray's actors: `python docs/measure_ray.py FOLDER`.

Both read the same files and write the same rows as Parquet, in turn, several times, so that what else runs on the
machine falls on both. Ray's time is that of a whole job, and that of a job of two photos (the start and the end of the
actors) is given apart; the one process has its models open.
"""

import argparse
import logging
import os
import shutil
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import pyarrow.parquet as pq
import ray

import wm3dr
from wm3dr.files import PHOTO_SUFFIXES
from wm3dr.ray import ReconstructBatch, reconstruct_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, metavar="FOLDER")
    parser.add_argument("--copies", type=int, default=3, help="times that every photo of the folder is done")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        names = copied(options.photos, root / "photos", options.copies)
        few = copied(options.photos, root / "few", 1)[:2]
        for name in set(os.listdir(root / "few")) - set(few):
            (root / "few" / name).unlink()

        one = {
            threads: ReconstructBatch(folder=str(root / "photos"), threads=threads)
            for threads in sorted({1, options.actors})
        }
        for actor in one.values():
            actor({"path": names[:1]})
        os.environ.setdefault("RAY_worker_niceness", "0")  # that of the one process; Ray's own is 15
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        begin = time.perf_counter()
        ray.init(num_cpus=options.actors, object_store_memory=300_000_000, include_dashboard=False, log_to_driver=False)
        started = time.perf_counter() - begin
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", category=UserWarning)  # two photos do not keep two actors busy

        seconds: dict[str, list[float]] = {}
        for turn in range(options.rounds):
            for threads, actor in one.items():
                begin = time.perf_counter()
                rows = actor({"path": names})
                pq.write_table(rows, root / f"{turn}.parquet", compression="zstd")
                seconds.setdefault(f"one process, threads={threads}", []).append(time.perf_counter() - begin)
            for label, folder in (("", "photos"), (", two photos", "few")):
                job = {"actors": options.actors, "threads": 1, "batch_size": options.batch_size}
                (part,) = reconstruct_folder(str(root / folder), str(root / f"job{turn}{folder}"), **job)
                seconds.setdefault(f"Ray, actors={options.actors}, threads=1{label}", []).append(part.seconds)
                if not label:
                    assert part.errors == 0 and part.faces == sum(len(row) for row in rows["faces"].to_pylist())
                    n_faces = part.faces
        ray.shutdown()
    print(f"wm3dr {wm3dr.__version__}, ray {ray.__version__}, {os.cpu_count()} hardware threads")
    print(f"{options.rounds} rounds, {len(names)} photos, {n_faces} faces; ray.init {started:.1f} s")
    for what, times in seconds.items():
        middle = statistics.median(times)
        rate = "" if "two" in what else f", {len(names) / middle:.2f} photos/s"
        print(f"{what}: median {middle:.1f} s ({min(times):.1f} to {max(times):.1f}){rate}")


def copied(source: Path, target: Path, copies: int) -> list[str]:
    """Copy the photos of a folder `copies` times; return their new names."""
    target.mkdir()
    for path in sorted(path for path in source.iterdir() if path.suffix.lower() in PHOTO_SUFFIXES):
        for copy in range(copies):
            shutil.copy(path, target / f"{copy}_{path.name}")
    return sorted(path.name for path in target.iterdir())


if __name__ == "__main__":
    main()
