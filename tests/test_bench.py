"""`wm3dr bench`: planted faces are all found, whatever the contract version; the table and the chart show them."""

import numpy as np
import pytest
from builders import planted_encoder, planted_encoder_of_pixels, planted_encoder_with_head
from click.testing import CliRunner

import wm3dr
from wm3dr import bench
from wm3dr.cli import main


@pytest.mark.parametrize("make", [planted_encoder, planted_encoder_with_head, planted_encoder_of_pixels])
def test_planted_faces_are_where_and_as_high_as_planted(tmp_path, face_model, make):
    planted = bench.PlantedEncoder(make(tmp_path / "encoder.onnx", face_model), threads=1)
    planted.plant(face_model, 6, (256, 160))  # less than LARGEST apart
    model = wm3dr.Reconstructor(planted, face_model, threads=1)
    result = model.reconstruct(np.zeros((160, 256, 3), np.uint8))
    assert len(result) == 6
    centers = np.array([face.center for face in result])
    assert np.ptp(centers[:, 0]) > 120 and np.ptp(centers[:, 1]) > 60
    heights = [face.box[3] - face.box[1] for face in result]
    assert 0.7 < np.median(heights) / (bench.FILL * 160 / 2) < 1.4  # identities and poses differ


def test_too_many_faces_are_refused(encoder, face_model):
    with pytest.raises(ValueError, match="'faces' is 100: they would be 6 px apart in 64 x 64"):
        bench.measure(encoder, face_model, counts=[100], size=64, repeats=1)


def test_measure(encoder, face_model):
    first, second = bench.measure(encoder, face_model, counts=[1, 4], size=128, repeats=2, threads=1)
    assert (first.faces, second.faces) == (1, 4)
    assert 0 < first.stages["encode"] < first.rendered and first.stages["render"] > 0
    assert bench.table([first, second]).splitlines()[3].startswith("| 4 | ")


def test_command(encoder, face_model, tmp_path):
    pytest.importorskip("matplotlib", reason="the chart needs matplotlib")
    face_model_file = tmp_path / "face.safetensors"
    from builders import synthetic_face_model

    synthetic_face_model(face_model_file)
    chart = tmp_path / "chart.png"
    arguments = ["bench", "--faces", "1,3", "--size", "96", "--repeats", "1", "--threads", "1", "--provider", "cpu"]
    files = ["--encoder", str(encoder), "--face-model", str(face_model_file), "--chart", str(chart)]
    outcome = CliRunner().invoke(main, arguments + files)
    assert outcome.exit_code == 0, outcome.output
    assert "| 3 | " in outcome.output and "ms from import to the first result" in outcome.output
    assert chart.stat().st_size > 10_000


@pytest.mark.parametrize("faces", ["1,x", "-1"])
def test_command_refuses_what_is_no_number(faces):
    outcome = CliRunner().invoke(main, ["bench", "--faces", faces])
    assert outcome.exit_code == 2 and "is no " in outcome.output
