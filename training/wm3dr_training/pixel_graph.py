"""An int8 encoder (QDQ) by contract version 3: the same numbers, sooner, from the pixels themselves.

onnxruntime computes 8-bit convolutions with the channels last. The rewrites follow from that, and change no value:

* the normalised image, rounded to 8 bits, *is* the photo (`pixel_parameters`), so the graph takes (B, H, W, 3) uint8;
* the first convolution has three channels, and gathers its 27 numbers per output one pixel at a time. Four pixels of a
  row are twelve channels of one cell, without moving a byte, and the convolution a wider one with a kernel of 3 x 2
  cells that yields the two outputs of a cell at once, its weights the old ones and zeros (`fold_columns`);
* onnxruntime repeats pixels one by one; doubling rows and columns are two copies (`repeat_by_copies`);
* the features go out as they are; the head of the metadata takes them so (`return_features`).
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

FOLDED = 4
"""Pixels of a row that become one cell; 4 is faster than 2 and 8."""
_ARITHMETIC = {"Sub": np.subtract, "Add": np.add, "Mul": np.multiply, "Div": np.divide}


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def repeats_pixels(resize: onnx.NodeProto) -> bool:
    """Whether a Resize takes pixel ⌊i / scale⌋ for pixel i."""
    wanted = {"mode": b"nearest", "coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor"}
    return wanted.items() <= attributes_of(resize).items()


class Graph:
    """Who makes and who uses a tensor."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.proto = model.graph
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def maker(self, tensor: str) -> onnx.NodeProto | None:
        return next((node for node in self.proto.node if tensor in node.output), None)

    def users(self, tensor: str) -> list[onnx.NodeProto]:
        return [node for node in self.proto.node if tensor in node.input]

    def array(self, tensor: str) -> NDArray[np.generic]:
        return numpy_helper.to_array(self.constants[tensor])

    def quantized_by(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """Return the QuantizeLinear that alone uses a node's result, if there is one."""
        users = self.users(node.output[0])
        return users[0] if len(users) == 1 and users[0].op_type == "QuantizeLinear" else None

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        self.proto.initializer.append(self.constants[name])
        return name

    def insert(self, before: onnx.NodeProto, nodes: list[onnx.NodeProto]) -> None:
        place = list(self.proto.node).index(before)
        for k, node in enumerate(nodes):
            self.proto.node.insert(place + k, node)

    def normalised(self) -> tuple[str, NDArray[np.float32], list[onnx.NodeProto]]:
        """Follow the image through arithmetic with constants: last tensor, its value (3, 256) at each pixel value, and
        the nodes.
        """
        name, passed = "image", []
        value = np.broadcast_to(np.arange(256, dtype=np.float32), (1, 3, 1, 256))
        while True:
            users = self.users(name)
            if len(users) != 1 or users[0].op_type not in _ARITHMETIC or users[0].input[1] not in self.constants:
                return name, value[0, :, 0], passed
            value = _ARITHMETIC[users[0].op_type](value, self.array(users[0].input[1])).astype(np.float32)
            name = users[0].output[0]
            passed.append(users[0])


def pixel_parameters(model: onnx.ModelProto) -> tuple[str, np.float32, np.uint8] | None:
    """Find the quantization under which the normalised image, rounded to 8 bits, is the image.

    Parameters
    ----------
    model : ModelProto
        Float encoder that takes `image` (B, 3, H, W).

    Returns
    -------
    tensor, scale, zero_point
        Of the normalised image. None where there is no such quantization: channels are normalised differently, or grey
        values do not map to 0 exactly.
    """
    name, values, _ = Graph(model).normalised()
    scale = np.float32((values[0, 255] - values[0, 0]) / 255)
    if scale <= 0:
        return None
    zero_point = np.clip(np.round(-values[0, 0] / scale), 0, 255)
    if not (np.clip(np.round(values / scale) + zero_point, 0, 255) == np.arange(256)).all():
        return None
    return name, scale, np.uint8(zero_point)


def take_pixels_as_they_are(model: onnx.ModelProto) -> None:
    """Turn an int8 encoder of contract version 2, quantized with `pixel_parameters`, into version 3, in place.

    Raises
    ------
    ValueError
        The graph is not of that kind.
    """
    graph = Graph(model)
    _take_pixels(graph)
    fold_columns(graph)
    repeat_by_copies(graph)
    scale, zero_point = return_features(graph)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    head = onnx.load_from_string(base64.b64decode(metadata["head"]))
    _take_quantized(head, scale, zero_point)
    metadata |= {"wm3dr_version": "3", "head": base64.b64encode(head.SerializeToString()).decode()}
    helper.set_model_props(model, metadata)
    del model.graph.value_info[:]
    onnx.checker.check_model(model)


def _take_pixels(graph: Graph) -> None:
    """Feed `image` (B, H, W, 3) uint8 to what read the quantized image."""
    name, values, passed = graph.normalised()
    users = graph.users(name)
    if len(users) != 1 or users[0].op_type != "QuantizeLinear":
        raise ValueError("the normalised image is not quantized")
    quantize = users[0]
    scale, zero_point = (graph.array(quantize.input[k]) for k in (1, 2))
    if not (np.clip(np.round(values / scale) + zero_point, 0, 255) == np.arange(256)).all():
        raise ValueError(f"scale {scale} and zero point {zero_point} of the normalised image do not give its pixels")
    for node in [*passed, quantize]:
        graph.proto.node.remove(node)
    graph.insert(
        graph.proto.node[0], [helper.make_node("Transpose", ["image"], [quantize.output[0]], perm=[0, 3, 1, 2])]
    )
    inputs = [value for value in graph.proto.input if value.name != "image"]
    del graph.proto.input[:]
    graph.proto.input.extend(
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3]), *inputs]
    )


def fold_columns(graph: Graph) -> None:
    """Let the first convolution (3 x 3, stride 2) read `FOLDED` pixels of a row as the channels of one.

    Output column j reads the pixels 2j, 2j + 1, 2j + 2 (padding right and below, as TensorFlow pads even sides). Of the
    cell c = (4c … 4c + 3), outputs 2c and 2c + 1 read the cells c and c + 1.
    """
    planes = graph.users("image")[0]
    reader = graph.users(planes.output[0])[0]  # DequantizeLinear
    stem = graph.users(reader.output[0])[0]
    attributes = attributes_of(stem)
    wanted = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1], "dilations": [1, 1], "group": 1}
    makers = [graph.maker(name) for name in stem.input[1:]]
    (quantize,) = graph.users(stem.output[0])
    if (
        stem.op_type != "Conv"
        or any(attributes.get(key) != value for key, value in wanted.items())
        or [node.op_type if node else None for node in makers] != ["DequantizeLinear"] * 2
        or quantize.op_type != "QuantizeLinear"
    ):
        raise ValueError(
            f"the first convolution is not quantized, 3 x 3 with stride 2 and pads 0, 0, 1, 1: {attributes}"
        )
    weight, bias = makers
    kernel = graph.array(weight.input[0])
    filters, channels, rows, columns = kernel.shape
    outputs = FOLDED // 2
    wide = np.zeros((outputs * filters, FOLDED * channels, rows, 2), kernel.dtype)
    for output in range(outputs):
        for column in range(columns):
            cell, pixel = divmod(2 * output + column, FOLDED)
            place = slice(pixel * channels, (pixel + 1) * channels)
            wide[output * filters : (output + 1) * filters, place, :, cell] = kernel[:, :, :, column]
    weight.input[0] = graph.constant("folded_weight", wide)
    for node, first in ((weight, 1), (bias, 0)):
        for k in range(first, len(node.input)):
            node.input[k] = graph.constant(f"folded_{node.input[k]}", np.tile(graph.array(node.input[k]), outputs))
    del stem.attribute[:]
    changed = wanted | {"kernel_shape": [rows, 2], "strides": [2, 1]}
    stem.attribute.extend(helper.make_attribute(key, value) for key, value in changed.items())
    cells = graph.constant("folded_cells", np.array([0, 0, -1, FOLDED * channels]))
    graph.insert(planes, [helper.make_node("Reshape", ["image", cells], ["image_cells"])])
    planes.input[0] = "image_cells"
    after = graph.users(quantize.output[0])
    names = [f"{quantize.output[0]}_{kind}" for kind in ("cells", "columns", "planes")]
    unfolded = graph.constant("unfolded_columns", np.array([0, 0, -1, filters]))
    graph.insert(
        after[0],
        [
            helper.make_node("Transpose", [quantize.output[0]], [names[0]], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", [names[0], unfolded], [names[1]]),
            helper.make_node("Transpose", [names[1]], [names[2]], perm=[0, 3, 1, 2]),
        ],
    )
    for node in after:
        node.input[0] = names[2]


def repeat_by_copies(graph: Graph) -> None:
    """Replace every Resize that doubles height and width by repetition, between quantized tensors, by two Concat."""
    for node in [node for node in graph.proto.node if node.op_type == "Resize"]:
        reader = graph.maker(node.input[0])
        sink = graph.quantized_by(node)
        doubles = (
            len(node.input) == 3
            and node.input[2] in graph.constants
            and graph.array(node.input[2]).tolist() == [1, 1, 2, 2]
            and repeats_pixels(node)
        )
        if not doubles or sink is None or reader is None or reader.op_type != "DequantizeLinear":
            continue
        own, its = ([graph.array(name) for name in n.input[1:]] for n in (reader, sink))
        if own != its:
            continue  # repeated in another scale
        at = f"{node.name}_"
        zero, three = (graph.constant(f"{at}axis{k}", np.array([k])) for k in (0, 3))
        rest = graph.constant(f"{at}rest", np.array([-1]))
        row = graph.constant(f"{at}row", np.array([0, 0, 1, -1]))
        nodes = [
            helper.make_node("Transpose", [reader.input[0]], [at + "last"], perm=[0, 2, 3, 1]),
            helper.make_node("Concat", [at + "last"] * 2, [at + "twice"], axis=3),  # (B, H, W, 2 C)
            helper.make_node("Reshape", [at + "twice", row], [at + "row_of"]),  # (B, H, 1, 2 W C)
            helper.make_node("Concat", [at + "row_of"] * 2, [at + "rows"], axis=2),  # (B, H, 2, 2 W C)
            helper.make_node("Shape", [at + "last"], [at + "shape"]),
            helper.make_node("Gather", [at + "shape", zero], [at + "batch"]),
            helper.make_node("Gather", [at + "shape", three], [at + "channels"]),
            helper.make_node("Gather", [at + "shape", graph.constant(f"{at}axis2", np.array([2]))], [at + "columns"]),
            helper.make_node("Add", [at + "columns"] * 2, [at + "doubled"]),
            helper.make_node("Concat", [at + "batch", rest, at + "doubled", at + "channels"], [at + "to"], axis=0),
            helper.make_node("Reshape", [at + "rows", at + "to"], [at + "all"]),  # (B, 2 H, 2 W, C)
            helper.make_node("Transpose", [at + "all"], [sink.output[0]], perm=[0, 3, 1, 2]),
        ]
        graph.insert(node, nodes)
        graph.proto.node.remove(node)
        graph.proto.node.remove(sink)


def return_features(graph: Graph) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return `features` quantized, channels last (B, h, w, F); gives their scale and zero point."""
    reader = graph.maker("features")
    if reader is None or reader.op_type != "DequantizeLinear":
        raise ValueError("the features are not quantized")
    for node in graph.users("features"):
        node.input[:] = ["features_float" if name == "features" else name for name in node.input]
    reader.output[0] = "features_float"
    graph.proto.node.append(helper.make_node("Transpose", [reader.input[0]], ["features"], perm=[0, 2, 3, 1]))
    output = next(value for value in graph.proto.output if value.name == "features")
    width = output.type.tensor_type.shape.dim[1].dim_value
    output.CopyFrom(
        helper.make_tensor_value_info("features", TensorProto.UINT8, ["batch", "rows", "columns", width or "features"])
    )
    scale, zero_point = (graph.array(name) for name in reader.input[1:3])
    return scale, zero_point


def _take_quantized(head: onnx.ModelProto, scale: NDArray[np.float32], zero_point: NDArray[np.uint8]) -> None:
    """Let a head read `features` (M, F) uint8, in place."""
    graph = Graph(head)
    for node in graph.users("features"):
        node.input[:] = ["features_float" if name == "features" else name for name in node.input]
    names = [graph.constant("features_scale", scale), graph.constant("features_zero_point", zero_point)]
    graph.insert(head.graph.node[0], [helper.make_node("DequantizeLinear", ["features", *names], ["features_float"])])
    head.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    onnx.checker.check_model(head)
