"""The released models: as CHECKSUMS says, fitting each other, and small enough for the wheel."""

import hashlib
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
