"""Exported files: parity with torch, contract metadata, sizes, refusal; the public API decodes them as torch does."""

import hashlib
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from synthetic import write_synthetic_model

import wm3dr
from wm3dr_training import export
from wm3dr_training.checkpoint import save_checkpoint
from wm3dr_training.cli import main
from wm3dr_training.config import TrainConfig
from wm3dr_training.decoder import decode
from wm3dr_training.encoder import BACKBONES, Encoder
from wm3dr_training.layers import FaceModel


@pytest.fixture(scope="module")
def face_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    write_synthetic_model(path)
    return path, FaceModel.load(path)


def checkpoint(path, face_model, backbone="mobilenetv4_conv_small"):
    """A checkpoint of an encoder with random weights that finds faces everywhere."""
    torch.manual_seed(1)
    encoder = Encoder(backbone, face_model.layout, face_model.blendshapes)
    torch.nn.init.normal_(encoder.coefficients[-1].weight, std=0.02)
    torch.nn.init.normal_(encoder.heatmap[-1].weight, std=0.5)
    torch.nn.init.constant_(encoder.heatmap[-1].bias, 1.0)
    common = {"face_model": "", "labels": "", "sources": ("synthetic",), "iterations": 1}
    config = TrainConfig(stage=1, backbone=backbone, **common)
    save_checkpoint(path, config, face_model, {"average": encoder.state_dict(), "step": 5, "measures": {"nme51": 3.25}})
    return encoder.eval()


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_files_agree_with_torch(tmp_path, face_model, backbone):
    path, model = face_model
    checkpoint(tmp_path / "best.pt", model, backbone)
    summary = export.export_checkpoint(tmp_path / "best.pt", path, tmp_path / "e.onnx")
    assert summary["parity"] <= 1e-3 and summary["bytes"] == (tmp_path / "e.onnx").stat().st_size
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.pt", "e.onnx"]
    contract = wm3dr.Reconstructor(tmp_path / "e.onnx", path, threads=1).encoder.contract
    assert contract.layout == tuple(model.layout.groups)
    assert (contract.rotation_frame, contract.focal, contract.stride) == ("ray", 1015.0, 8)
    assert contract.training["measures"] == {"nme51": 3.25} and contract.training["steps"] == 5
    assert "research and non-commercial" in contract.licence


def mean_of_neighbours(encoder, features, row: int, column: int) -> torch.Tensor:
    """Row (1, C) of a peak: the mean over the cells around it, lateral offsets counted from the peak's cell."""
    height, width = features.shape[2:]
    rows = []
    for i in range(max(row - 1, 0), min(row + 2, height)):
        for j in range(max(column - 1, 0), min(column + 2, width)):
            own = encoder.rows_at(features, torch.tensor([0]), torch.tensor([[i, j]]))[0].clone()
            own[-3:-1] += 8.0 * torch.tensor([j - column, i - row])
            rows.append(own)
    return torch.stack(rows).mean(0, keepdim=True)


def test_the_public_api_decodes_what_torch_decodes(tmp_path, face_model):
    path, model = face_model
    encoder = checkpoint(tmp_path / "best.pt", model)
    export.export_checkpoint(tmp_path / "best.pt", path, tmp_path / "e.onnx")
    photo = np.random.default_rng(0).integers(0, 255, (96, 160, 3), dtype=np.uint8)
    result = wm3dr.Reconstructor(tmp_path / "e.onnx", path, threads=1).reconstruct(photo)
    assert len(result) >= 1
    with torch.no_grad():
        features = encoder.features(torch.from_numpy(photo).permute(2, 0, 1)[None].float())
        scores = torch.sigmoid(encoder.heatmap(features))[0, 0]
        for face in result.faces:
            column, row = np.floor(face.center / 8).astype(int)
            cells = torch.tensor([[row, column]])
            rows = mean_of_neighbours(encoder, features, row, column)
            faces = decode(rows, cells, torch.tensor([[80.0, 48.0]]), model.layout)
            assert face.score == pytest.approx(float(scores[row, column]), abs=1e-4)
            points = faces.points_px(model.landmark_rows())[0].numpy()
            assert np.abs(face.landmarks - points).max() < 1e-2 * np.ptp(points)


def test_float16_halves_the_file_and_decodes_nearly_the_same(tmp_path, face_model):
    path, model = face_model
    checkpoint(tmp_path / "best.pt", model)
    arguments = ["export", str(tmp_path / "best.pt"), "--face-model", str(path)]
    summaries = []
    for name, option in (("whole.onnx", []), ("half.onnx", ["--float16"])):
        done = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / name), *option])
        assert done.exit_code == 0, done.output
        summaries.append(json.loads(done.output))
    whole, half = summaries
    assert half["bytes"] < 0.6 * whole["bytes"]  # the head in the metadata stays as it is
    assert half["sha256"] == hashlib.sha256((tmp_path / "half.onnx").read_bytes()).hexdigest() != whole["sha256"]
    assert 0 < whole["parity"] < half["parity"] < export.PARITY_FLOAT16
    photo = np.random.default_rng(0).integers(0, 255, (96, 160, 3), dtype=np.uint8)
    first, second = (
        wm3dr.Reconstructor(tmp_path / name, path, threads=1).reconstruct(photo) for name in ("whole.onnx", "half.onnx")
    )
    assert len(first) == len(second) >= 1
    for a, b in zip(first.faces, second.faces, strict=True):
        assert np.abs(a.landmarks - b.landmarks).max() < 0.02 * np.ptp(a.landmarks)
    both = CliRunner().invoke(main, [*arguments, "-o", "x.onnx", "--float16", "--int8", "i.onnx", "--data", "."])
    assert both.exit_code == 2 and "leave --float16 out" in both.output


def test_weights_beyond_float16_are_refused(tmp_path, face_model):
    path, model = face_model
    encoder = checkpoint(tmp_path / "best.pt", model)
    state = torch.load(tmp_path / "best.pt", weights_only=True)
    state["average"]["heatmap.0.weight"] = encoder.heatmap[0].weight.detach() * 1e7
    torch.save(state, tmp_path / "best.pt")
    with pytest.raises(ValueError, match=r"beyond float16"):
        export.export_checkpoint(tmp_path / "best.pt", path, tmp_path / "e.onnx", float16=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.pt"]


def test_a_graph_that_disagrees_is_not_written(tmp_path, face_model, monkeypatch):
    path, model = face_model
    checkpoint(tmp_path / "best.pt", model)
    monkeypatch.setattr(export, "parity", lambda *_: 0.5)
    outcome = CliRunner().invoke(
        main, ["export", str(tmp_path / "best.pt"), "-o", str(tmp_path / "e.onnx"), "--face-model", str(path)]
    )
    assert outcome.exit_code == 1 and "differs from torch by 5.00e-01" in outcome.output
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.pt"]


def test_export_command_prints_its_summary_and_names_missing_files(tmp_path, face_model):
    path, model = face_model
    checkpoint(tmp_path / "best.pt", model)
    arguments = ["-o", str(tmp_path / "e.onnx"), "--face-model", str(path)]
    done = CliRunner().invoke(main, ["export", str(tmp_path / "best.pt"), *arguments])
    assert done.exit_code == 0 and json.loads(done.output)["stage"] == 1
    missing = CliRunner().invoke(main, ["export", str(tmp_path / "no.pt"), *arguments])
    assert missing.exit_code == 1 and "no.pt does not exist" in missing.output
    lonely = CliRunner().invoke(
        main, ["export", str(tmp_path / "best.pt"), *arguments, "--int8", str(tmp_path / "i.onnx")]
    )
    assert lonely.exit_code == 2 and "--int8 needs --data" in lonely.output


def test_padding_becomes_constant(face_model):
    _, model = face_model
    torch.manual_seed(0)
    encoder = Encoder("efficientnet_lite0", model.layout, model.blendshapes).eval()
    image = 255 * torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        for mine, its in zip(encoder(image), export.with_static_padding(encoder)(image), strict=True):
            torch.testing.assert_close(mine, its)
