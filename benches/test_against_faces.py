"""The comparison with detect, crop and regress: both ways find the same faces; CUDA that is not there is an error."""

import against_faces
import numpy as np
import pytest
from click.testing import CliRunner
from conventional import Conventional
from scenes import face_model

from wm3dr import bench


@pytest.fixture(scope="module")
def planted():
    try:
        encoder = bench.PlantedEncoder(providers=["CPUExecutionProvider"], threads=1)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    encoder.plant(face_model(), 4, (512, 512))
    return encoder


def test_crops_one_by_one_and_in_one_batch_are_the_same(planted):
    pipeline = Conventional(planted, bench.Encoder(planted.path, threads=1), face_model(), 1, 512)
    photo = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    one_by_one, batched = pipeline(photo, batched=False), pipeline(photo, batched=True)
    assert len(one_by_one) == len(batched) == 4
    np.testing.assert_allclose(one_by_one.landmarks, batched.landmarks, atol=1e-2)


def test_every_way_is_measured():
    curves, found = against_faces.measure(None, face_model(), [1, 4], 256, 1, 1, None)
    assert found == {1: 1, 4: 4}
    assert set(curves) == {
        against_faces.PLAIN,
        against_faces.RENDERED,
        against_faces.ONE_BY_ONE,
        against_faces.BATCHED,
    }
    assert "| wm3dr | " in against_faces.table(curves)


def test_cuda_that_is_not_there_is_an_error(monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    outcome = CliRunner().invoke(against_faces.main, ["--provider", "cuda", "--faces", "1", "--repeats", "1"])
    assert outcome.exit_code == 1
    assert "asks for CUDAExecutionProvider, but onnxruntime offers ['CPUExecutionProvider']" in outcome.output
