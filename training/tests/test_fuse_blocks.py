"""Blocks of an int8 encoder as functions of the model: the same bits, whoever computes them."""

import json

import numpy as np
import onnx
import pytest
from onnx.inliner import inline_local_functions
from synthetic import write_synthetic_model
from test_export import checkpoint

from wm3dr import _native
from wm3dr.encoder import BLOCKS, Encoder
from wm3dr_training import quantize
from wm3dr_training.export import export_checkpoint
from wm3dr_training.fuse_blocks import fuse_blocks, has_blocks
from wm3dr_training.layers import FaceModel

EFFICIENTNET_LITE0 = {
    "StemSeparable": 1,
    "InvertedResidual": 6,
    "InvertedResidualAdd": 9,
    "Separable": 6,
    "Pointwise": 3,
    "Heatmap": 1,
    "ResizeAdd": 1,
    "UpsampleAdd": 2,
    "AveragePool": 1,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same encoder with its nodes as they are, and with functions."""
    folder = tmp_path_factory.mktemp("blocks")
    write_synthetic_model(folder / "model.safetensors")
    rng = np.random.default_rng(0)
    images = [np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)]
    checkpoint(folder / "best.pt", FaceModel.load(folder / "model.safetensors"), "efficientnet_lite0")
    export_checkpoint(folder / "best.pt", folder / "model.safetensors", folder / "float.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize, "has_blocks", lambda model: False)
        quantize.quantize(folder / "float.onnx", folder / "nodes.onnx", images)
    quantize.quantize(folder / "float.onnx", folder / "blocks.onnx", images)
    return folder


def test_all_of_the_default_backbone_is_in_blocks(files):
    model = onnx.load(str(files / "blocks.onnx"))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata[BLOCKS]) == EFFICIENTNET_LITE0
    kinds = [node.op_type for node in model.graph.node]
    assert {kind: kinds.count(kind) for kind in EFFICIENTNET_LITE0} == EFFICIENTNET_LITE0
    assert set(kinds) - set(EFFICIENTNET_LITE0) <= {"Transpose", "Sigmoid"}
    before = onnx.load(str(files / "nodes.onnx"))
    inlined = [node.op_type for node in inline_local_functions(model).graph.node]
    for kind in ("Conv", "Add", "QuantizeLinear", "AveragePool"):
        of_shapes = 2 if kind == "Add" else 0  # additions that computed the sizes of doubled maps
        assert inlined.count(kind) == [node.op_type for node in before.graph.node].count(kind) - of_shapes


@pytest.mark.parametrize("own_kernels", [False, True])
def test_values_are_the_same(files, own_kernels):
    if own_kernels and not _native.has_quantized_kernels():
        pytest.skip("the processor has no AVX-512 VNNI")
    nodes = Encoder(files / "nodes.onnx", threads=2)
    blocks = Encoder(files / "blocks.onnx", threads=2, own_kernels=own_kernels)
    assert blocks.kernels == ("wm3dr" if own_kernels else "onnxruntime")
    rng = np.random.default_rng(1)
    for shape in ((1, 64, 96), (2, 160, 32), (1, 224, 224)):  # 7 by 7 cells before the pooling: an odd map
        pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
        (heatmap, maps), (heatmap_of_blocks, maps_of_blocks) = nodes.predict(pixels), blocks.predict(pixels)
        assert np.ptp(maps) > 20
        np.testing.assert_array_equal(maps_of_blocks, maps)
        np.testing.assert_array_equal(heatmap_of_blocks, heatmap)


def test_what_has_no_blocks_is_refused(files):
    model = onnx.load(str(files / "float.onnx"))
    assert not has_blocks(model)
    with pytest.raises(ValueError, match="no quantized depthwise convolution followed by a pointwise one"):
        fuse_blocks(model)
