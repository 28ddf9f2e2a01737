"""The released models: as CHECKSUMS says, fitting each other, and small enough for the wheel."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import wm3dr
from wm3dr.doctor import examine, read_checksums
from wm3dr.files import CHECKSUMS, DEFAULT_ENCODER, DEFAULT_FACE_MODEL, MODELS_FOLDER

MODELS = Path(__file__).parents[1] / "models"


@pytest.fixture(autouse=True)
def released():
    for path in (DEFAULT_ENCODER, DEFAULT_FACE_MODEL):
        if not path.is_file():
            pytest.skip(f"the installed package carries no {path.name}")


def test_checksums():
    expected = read_checksums(CHECKSUMS)
    assert {DEFAULT_ENCODER.name, DEFAULT_FACE_MODEL.name} <= set(expected)
    for name, sha256 in expected.items():
        if (MODELS_FOLDER / name).exists():
            assert hashlib.sha256((MODELS_FOLDER / name).read_bytes()).hexdigest() == sha256, name


def test_the_package_carries_the_models_of_the_repository():
    for path in (DEFAULT_ENCODER, DEFAULT_FACE_MODEL):
        assert path.read_bytes() == (MODELS / path.name).read_bytes()
    assert sum(path.stat().st_size for path in MODELS_FOLDER.iterdir()) < 40_000_000  # the wheel: 45 MB


def test_the_default_models_open_and_the_doctor_is_content():
    model = wm3dr.Reconstructor()
    assert model.face_model.widths == {"identity": 80, "expression": 53, "albedo": 80}
    assert (model.face_model.n_vertices, model.face_model.n_triangles) == (35764, 70768)
    assert examine().problems == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")
def test_resident_memory_after_one_photo():
    photo = Path(__file__).parents[1] / "docs/photos/solvay_1927.jpg"
    code = (
        f"import wm3dr; r = wm3dr.reconstruct({str(photo)!r}); assert len(r) and r[0].vertices.size\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmRSS')).split()[1])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=os.sep)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 350 * 1024
