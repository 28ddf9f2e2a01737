"""Contract version 3: rewriting a quantized graph changes no value; what cannot be rewritten is refused."""

import base64

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from synthetic import write_synthetic_model
from test_export import checkpoint

from wm3dr.encoder import Encoder
from wm3dr_training import pixel_graph, quantize
from wm3dr_training.export import export_checkpoint
from wm3dr_training.layers import FaceModel

STEM = "the first convolution is not quantized, 3 x 3 with stride 2"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same weights and scales by contract versions 2 and 3."""
    folder = tmp_path_factory.mktemp("pixels")
    write_synthetic_model(folder / "model.safetensors")
    checkpoint(folder / "best.pt", FaceModel.load(folder / "model.safetensors"), "efficientnet_lite0")
    export_checkpoint(folder / "best.pt", folder / "model.safetensors", folder / "float.onnx")
    rng = np.random.default_rng(0)
    images = [rng.integers(60, 190, (64, 96, 3), np.uint8)]  # neither 0 nor 255: the range is not left to the photos
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize, "has_blocks", lambda model: False)  # test_fuse_blocks.py
        quantize.quantize(folder / "float.onnx", folder / "3.onnx", images)
        patch.setattr(quantize, "take_pixels_as_they_are", lambda model: None)
        quantize.quantize(folder / "float.onnx", folder / "2.onnx", images)
    return folder


@pytest.mark.parametrize("shape", [(1, 64, 96), (2, 96, 32), (1, 160, 224)])
def test_values_are_the_same(files, shape):
    before, after = (Encoder(files / f"{version}.onnx", threads=1) for version in "23")
    assert (before.contract.version, after.contract.version) == ("2", "3")
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
    (heatmap, maps), (heatmap_3, maps_3) = before.predict(pixels), after.predict(pixels)
    assert maps_3.dtype == np.uint8 and np.ptp(maps_3) > 20
    np.testing.assert_allclose(heatmap_3, heatmap, atol=1e-6)
    cells = np.array([[0, 0], [shape[1] // 8 - 1, shape[2] // 8 - 1], [2, 1]], np.int32)
    for one, one_3 in zip(maps, maps_3, strict=True):
        np.testing.assert_allclose(after.rows(one_3, cells), before.rows(one, cells), rtol=1e-5, atol=1e-5)


def test_doubled_maps_are_copies(files):
    """All but the Resize whose size depends on the photo's are gone."""
    kinds = {v: [node.op_type for node in onnx.load(str(files / f"{v}.onnx")).graph.node] for v in "23"}
    assert kinds["2"].count("Resize") == 3 and kinds["3"].count("Resize") == 1


def normalising(mean, std):
    nodes = [helper.make_node("Sub", ["image", "mean"], ["a"]), helper.make_node("Div", ["a", "std"], ["b"])]
    constants = [
        numpy_helper.from_array(np.float32(v).reshape(1, -1, 1, 1), n) for n, v in (("mean", mean), ("std", std))
    ]
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["B", 3, "H", "W"])
    out = helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, ["B", 3, "H", "W"])
    return helper.make_model(helper.make_graph(nodes, "normalising", [image], [out], constants))


def test_pixel_parameters():
    name, scale, zero_point = pixel_graph.pixel_parameters(normalising([127], [128]))
    assert (name, scale, zero_point) == ("b", 1 / 128, 127)
    assert pixel_graph.pixel_parameters(normalising([127.5], [127.5])) is None  # grey does not map to 0
    assert pixel_graph.pixel_parameters(normalising([124, 116, 104], [58, 57, 57])) is None


def test_what_cannot_be_rewritten_is_refused(files):
    with pytest.raises(ValueError, match="the normalised image is not quantized"):
        pixel_graph.take_pixels_as_they_are(onnx.load(str(files / "float.onnx")))
    model = onnx.load(str(files / "2.onnx"))
    stem = next(node for node in model.graph.node if node.op_type == "Conv")
    attribute = next(a for a in stem.attribute if a.name == "pads")
    attribute.CopyFrom(helper.make_attribute("pads", [1, 1, 1, 1]))
    with pytest.raises(ValueError, match=STEM):
        pixel_graph.take_pixels_as_they_are(model)
    model = onnx.load(str(files / "2.onnx"))
    first = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == first.input[1])
    scale.CopyFrom(numpy_helper.from_array(np.float32(0.009), scale.name))
    with pytest.raises(ValueError, match=r"scale 0\.00\d+ and zero point 127 .* do not give its pixels"):
        pixel_graph.take_pixels_as_they_are(model)


def test_the_head_reads_8_bits(files):
    metadata = {entry.key: entry.value for entry in onnx.load(str(files / "3.onnx")).metadata_props}
    head = onnx.load_from_string(base64.b64decode(metadata["head"]))
    assert head.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
