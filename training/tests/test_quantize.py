"""Static int8 files: near the float file, a quarter of its size, same contract; what stays float."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx.inliner import inline_local_functions
from synthetic import SHARED, write_synthetic_model
from test_export import checkpoint

import wm3dr
from wm3dr.image import network_input
from wm3dr_training import quantize
from wm3dr_training.data.records import MissingDataError
from wm3dr_training.export import export_checkpoint
from wm3dr_training.layers import FaceModel


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_synthetic_model(folder / "model.safetensors")
    checkpoint(folder / "best.pt", FaceModel.load(folder / "model.safetensors"), "efficientnet_lite0")
    export_checkpoint(folder / "best.pt", folder / "model.safetensors", folder / "float.onnx")
    rng = np.random.default_rng(0)
    # smooth photos of different sizes
    images = [
        np.kron(rng.integers(0, 255, (h // 16, w // 16, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        for h, w in ((96, 128), (160, 96), (64, 64))
    ]
    quantize.quantize(folder / "float.onnx", folder / "int8.onnx", images)
    return folder, images


def test_int8_is_near_the_float_file_and_small(files):
    folder, images = files
    a, b = (
        wm3dr.Reconstructor(folder / f"{kind}.onnx", folder / "model.safetensors", threads=1)
        for kind in ("float", "int8")
    )
    assert (folder / "int8.onnx").stat().st_size < 0.35 * (folder / "float.onnx").stat().st_size
    assert (a.encoder.contract.version, b.encoder.contract.version) == ("2", "3")
    assert replace(a.encoder.contract, version="3") == b.encoder.contract
    for image in images:
        pixels = network_input(image, 640).pixels
        (heat, maps), (heat8, maps8) = a.encoder.predict(pixels), b.encoder.predict(pixels)
        assert np.abs(heat - heat8).mean() < 0.1
        cells = np.array([[1, 2], [3, 4]], np.int32)
        rows, rows8 = a.encoder.rows(maps[0], cells), b.encoder.rows(maps8[0], cells)
        assert np.abs(rows - rows8).mean() < 0.35 * np.abs(rows).mean()


def test_what_stays_float(files):
    folder, _ = files
    graph = onnx.load(str(folder / "float.onnx")).graph
    kept = set(quantize.float_nodes(onnx.load(str(folder / "float.onnx"))))
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
    floats = [name for name in convolutions if name in kept]
    assert len(floats) == 1 and "heatmap.2" in floats[0]
    assert all(node.name in kept for node in graph.node if node.op_type in ("Shape", "Sigmoid", "Sub", "Div"))
    written = inline_local_functions(onnx.load(str(folder / "int8.onnx"))).graph
    weights = {tensor.name: tensor for tensor in written.initializer}
    scales = [node for node in written.node if node.op_type == "DequantizeLinear" and node.input[0] in weights]
    eight_bit = [n for n in scales if weights[n.input[0]].data_type == onnx.TensorProto.INT8]
    assert len(eight_bit) == len(convolutions) - len(floats)
    assert all(len(weights[n.input[1]].dims) == 1 for n in eight_bit)  # one scale per output channel


def test_no_photos_no_calibration(files, tmp_path):
    folder, _ = files
    with pytest.raises(ValueError, match=r"'images' is empty: calibration needs photos"):
        quantize.quantize(folder / "float.onnx", tmp_path / "x.onnx", [])
    with pytest.raises(ValueError, match=r"int8\.onnx is quantized already: pass the float32 file"):
        quantize.quantize(folder / "int8.onnx", tmp_path / "x.onnx", [np.zeros((32, 32, 3), np.uint8)])
    with pytest.raises(MissingDataError, match="helen_train"):
        quantize.calibration_images(tmp_path, 2, 0)
    assert not list(tmp_path.iterdir())


def test_calibration_photos_are_of_the_training_split():
    if not (SHARED / "data" / "helen_train.zip").exists():
        pytest.skip(f"no {SHARED}: the photos are not here")
    images = quantize.calibration_images(SHARED / "data", 3, 2)
    assert len(images) == 5 and all(image.dtype == np.uint8 and image.ndim == 3 for image in images)
    assert images[-1].shape == (480, 640, 3)
