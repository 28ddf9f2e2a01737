"""The encoder's contract and the execution providers; onnxruntime distributions are faked, sessions are real."""

import re

import numpy as np
import pytest
from builders import LAYOUT, N_COEFFICIENTS, planted_encoder, planted_rows

import wm3dr
from wm3dr import encoder as encoder_module
from wm3dr.encoder import Encoder


def pretend(monkeypatch, versions, available=None):
    monkeypatch.setattr(encoder_module, "installed_runtimes", lambda: versions)
    if available is not None:
        import onnxruntime

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)


def test_contract(encoder, face_model):
    contract = Encoder(encoder).contract
    assert [list(pair) for pair in contract.layout] == LAYOUT
    assert contract.n_coefficients == N_COEFFICIENTS
    assert contract.slices()["rotation"] == slice(12, 15)
    assert (contract.stride, contract.focal, contract.peak_window, contract.peak_threshold) == (8, 1015.0, 5, 0.5)
    assert contract.face_model_sha256 == face_model.sha256
    contract.check_face_model(face_model)


def test_predict(encoder):
    pixels = np.zeros((2, 64, 96, 3), np.uint8)
    pixels[1, 8:16, 16:24, :2] = 255, 102
    heatmap, coefficients = Encoder(encoder).predict(pixels)
    assert heatmap.shape == (2, 1, 8, 12) and coefficients.shape == (2, N_COEFFICIENTS, 8, 12)
    assert heatmap[1, 0, 1, 2] == pytest.approx(1.0) and heatmap.sum() == pytest.approx(1.0)
    base, slope = planted_rows()
    np.testing.assert_allclose(coefficients[1, :, 1, 2], base + 0.4 * slope, atol=1e-6)


def test_an_encoder_with_other_outputs_is_refused(tmp_path, face_model):
    import onnx

    path = planted_encoder(tmp_path / "encoder.onnx", face_model)
    model = onnx.load(path)
    model.graph.output.pop()
    onnx.save(model, path)
    with pytest.raises(wm3dr.ModelError, match=r"are not {'image': 'float'} and {'heatmap': 'float', 'coe"):
        Encoder(path)


def test_an_encoder_that_breaks_its_stride_is_refused(tmp_path, face_model):
    path = planted_encoder(tmp_path / "encoder.onnx", face_model, stride="16")
    with pytest.raises(wm3dr.ModelError, match=r"'heatmap' \(1, 1, 8, 8\) .* are not"):
        Encoder(path).predict(np.zeros((1, 64, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("pixels", "error", "message"),
    [
        (np.zeros((1, 64, 64, 3), np.float32), TypeError, "'pixels' has dtype float32, not uint8"),
        (np.zeros((1, 3, 64, 64), np.uint8), ValueError, r"'pixels' has shape \(1, 3, 64, 64\), not \(B, H, W, 3\)"),
        (np.zeros((64, 64, 3), np.uint8), ValueError, r"not \(B, H, W, 3\)"),
        (np.zeros((1, 64, 48, 3), np.uint8), ValueError, "multiples of 32"),
    ],
)
def test_what_is_no_input_is_refused(encoder, pixels, error, message):
    with pytest.raises(error, match=message):
        Encoder(encoder).predict(pixels)


def test_cuda_without_cuda_raises(encoder, monkeypatch):
    pretend(monkeypatch, {"onnxruntime": "1.20"}, ["CPUExecutionProvider"])
    cuda = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    with pytest.raises(RuntimeError, match=r"asks for CUDAExecutionProvider, .*pip install 'onnxruntime-gpu\[cuda"):
        Encoder(encoder, providers=cuda)
    with pytest.warns(RuntimeWarning, match="asks for CUDAExecutionProvider"):
        fallen_back = Encoder(encoder, providers=cuda, allow_fallback=True)
    assert fallen_back.provider == "CPUExecutionProvider"


def test_cuda_that_does_not_start_raises(encoder, monkeypatch):
    """The CUDA build on a machine without a GPU: onnxruntime warns and takes the CPU."""
    import onnxruntime

    pretend(monkeypatch, {"onnxruntime-gpu": "1.20"}, ["CUDAExecutionProvider", "CPUExecutionProvider"])
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda m, o, providers: session(m, o, providers=["CPUExecutionProvider"])
    )
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    with pytest.raises(RuntimeError, match="CUDAExecutionProvider could not start"):
        Encoder(encoder, providers=["CUDAExecutionProvider"])
    with pytest.warns(RuntimeWarning, match="CUDAExecutionProvider could not start"):
        assert Encoder(encoder, providers=["CUDAExecutionProvider"], allow_fallback=True).provider == (
            "CPUExecutionProvider"
        )
    with pytest.warns(RuntimeWarning, match="CUDAExecutionProvider could not start"):
        Encoder(encoder)  # the default was not asked for, but it is said


def test_two_runtimes_are_detected(encoder, monkeypatch):
    pretend(monkeypatch, {"onnxruntime": "1.20", "onnxruntime-gpu": "1.20"})
    repair = re.escape(encoder_module.CUDA_COMMAND)
    with pytest.warns(RuntimeWarning, match=f"onnxruntime and onnxruntime-gpu are installed together.*{repair}"):
        Encoder(encoder, providers=["CPUExecutionProvider"])
    pretend(monkeypatch, {"onnxruntime": "1.20", "onnxruntime-gpu": "1.20"}, ["CPUExecutionProvider"])
    with pytest.raises(RuntimeError, match=f"installed together.*{repair}"):
        Encoder(encoder, providers=["CUDAExecutionProvider"])


def test_one_runtime_is_no_conflict():
    assert encoder_module.installed_runtimes()
    assert len(encoder_module.installed_runtimes()) > 1 or encoder_module.runtime_conflict() is None


def test_providers_with_options(encoder):
    providers = [("CPUExecutionProvider", {})]
    assert Encoder(encoder, providers=providers).provider == "CPUExecutionProvider"


def test_providers_of_an_open_encoder_cannot_be_changed(encoder, face_model):
    opened = Encoder(encoder)
    assert wm3dr.Reconstructor(opened, face_model).encoder is opened
    with pytest.raises(ValueError, match="'providers' cannot be changed"):
        wm3dr.Reconstructor(opened, face_model, providers=["CPUExecutionProvider"])
