"""Bodies of the functions of a model that stand for its blocks (`fuse_blocks`): the nodes that a block is made of.

Between blocks tensors are uint8 with the channels last; a body transposes what it reads and what it gives, and
onnxruntime drops the transpositions where bodies meet.
"""

from __future__ import annotations

import onnx
from onnx import helper

DOMAIN = "wm3dr"
LAST, FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
"""Permutations that put the channels last and first."""
PARTS = ("weight", "weight_scale", "weight_zero_point", "bias", "bias_scale", "bias_zero_point")
"""Constants of a convolution, in the order of a function's inputs; the scale and zero point of its result follow."""
SCALES = ("scale", "zero_point")
DEPTHWISE_ATTRIBUTES = ("group", "kernel_shape", "pads", "strides")
STEM_ATTRIBUTES = ("cells", "columns")


def block_function(kind: str, opset: int) -> onnx.FunctionProto:
    """Write the body of a kind of block: the nodes that it replaces, between tensors with their channels last."""
    if kind in _OTHERS:
        return _OTHERS[kind](opset)
    convolutions = {
        "Pointwise": ["project"],
        "Separable": ["depthwise", "project"],
        "StemSeparable": ["depthwise", "project"],
        "InvertedResidual": ["expand", "depthwise", "project"],
        "InvertedResidualAdd": ["expand", "depthwise", "project"],
    }[kind]
    inputs = ["x", "x_scale", "x_zero_point"]
    nodes = [
        helper.make_node("Transpose", ["x"], ["x_first"], perm=FIRST),
        helper.make_node("DequantizeLinear", ["x_first", "x_scale", "x_zero_point"], ["x_float"]),
    ]
    attributes = list(DEPTHWISE_ATTRIBUTES) if "depthwise" in convolutions else []
    current = "x_float"
    if kind.startswith("Stem"):
        inputs += [f"stem_{part}" for part in (*PARTS, *SCALES)]
        attributes += STEM_ATTRIBUTES
        nodes, current = _stem_nodes(), "stem_float"
    for name in convolutions:
        own, scales = [f"{name}_{part}" for part in PARTS], [f"{name}_{part}" for part in SCALES]
        inputs += [*own, *scales]
        convolution = helper.make_node("Conv", [current, f"{name}_w", f"{name}_b"], [f"{name}_out"])
        if name == "depthwise":
            for attribute in DEPTHWISE_ATTRIBUTES:
                reference = convolution.attribute.add()
                reference.name = reference.ref_attr_name = attribute
                reference.type = onnx.AttributeProto.INT if attribute == "group" else onnx.AttributeProto.INTS
        nodes += [
            helper.make_node("DequantizeLinear", own[:3], [f"{name}_w"], axis=0),
            helper.make_node("DequantizeLinear", own[3:], [f"{name}_b"], axis=0),
            convolution,
            helper.make_node("QuantizeLinear", [f"{name}_out", *scales], [f"{name}_quantized"]),
            helper.make_node("DequantizeLinear", [f"{name}_quantized", *scales], [f"{name}_float"]),
        ]
        current = f"{name}_float"
    quantized = f"{convolutions[-1]}_quantized"
    if kind.endswith("Add"):
        scales = [f"sum_{part}" for part in SCALES]
        inputs += scales
        quantized = "sum_quantized"
        nodes += [
            helper.make_node("Add", [current, "x_float"], ["sum"]),
            helper.make_node("QuantizeLinear", ["sum", *scales], [quantized]),
        ]
    else:
        nodes.pop()
    nodes.append(helper.make_node("Transpose", [quantized], ["y"], perm=LAST))
    imports = [helper.make_opsetid("", opset)]
    return helper.make_function(DOMAIN, kind, inputs, ["y"], nodes, imports, attributes)


def _stem_nodes() -> list[onnx.NodeProto]:
    """From pixels `x` (B, H, W, 3) to the first map `stem_float`: the convolution over cells of `pixel_graph`."""
    own, scales = [f"stem_{part}" for part in PARTS], [f"stem_{part}" for part in SCALES]
    shapes = []
    for name in STEM_ATTRIBUTES:
        shape = helper.make_node("Constant", [], [f"{name}_shape"])
        reference = shape.attribute.add()
        reference.name, reference.ref_attr_name = "value_ints", name
        reference.type = onnx.AttributeProto.INTS
        shapes.append(shape)
    geometry = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [0, 0, 1, 1], "group": 1}
    return [
        *shapes,
        helper.make_node("Reshape", ["x", "cells_shape"], ["x_cells"]),
        helper.make_node("Transpose", ["x_cells"], ["x_first"], perm=FIRST),
        helper.make_node("DequantizeLinear", ["x_first", "x_scale", "x_zero_point"], ["x_float"]),
        helper.make_node("DequantizeLinear", own[:3], ["stem_w"], axis=0),
        helper.make_node("DequantizeLinear", own[3:], ["stem_b"], axis=0),
        helper.make_node("Conv", ["x_float", "stem_w", "stem_b"], ["stem_out"], **geometry),
        helper.make_node("QuantizeLinear", ["stem_out", *scales], ["stem_cells"]),
        helper.make_node("Transpose", ["stem_cells"], ["stem_last"], perm=LAST),
        helper.make_node("Reshape", ["stem_last", "columns_shape"], ["stem_columns"]),
        helper.make_node("Transpose", ["stem_columns"], ["stem_first"], perm=FIRST),
        helper.make_node("DequantizeLinear", ["stem_first", *scales], ["stem_float"]),
    ]


_SUMMANDS = [f"{name}{part}" for name in ("fine", "coarse") for part in ("", "_scale", "_zero_point")]
_SUM = [*_SUMMANDS, "y_scale", "y_zero_point"]


def _sum_nodes(coarse: str) -> list[onnx.NodeProto]:
    """Add `fine` and the float tensor `coarse`, channels first, and round the sum."""
    return [
        helper.make_node("DequantizeLinear", ["fine_first", *_SUMMANDS[1:3]], ["fine_float"]),
        helper.make_node("Add", ["fine_float", coarse], ["sum"]),
        helper.make_node("QuantizeLinear", ["sum", "y_scale", "y_zero_point"], ["quantized"]),
        helper.make_node("Transpose", ["quantized"], ["y"], perm=LAST),
    ]


def _upsample_function(opset: int) -> onnx.FunctionProto:
    """Write the body of the sum of a map and a doubled one: doubling by copies, as `pixel_graph` does it."""

    def constant(name: str, *values: int) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [name], value_ints=list(values))

    nodes = [
        *(constant(f"axis{k}", k) for k in (0, 2, 3)),
        constant("rest", -1),
        constant("row", 0, 0, 1, -1),
        helper.make_node("Concat", ["coarse"] * 2, ["twice"], axis=3),  # (B, h, w, 2 C)
        helper.make_node("Reshape", ["twice", "row"], ["row_of"]),  # (B, h, 1, 2 w C)
        helper.make_node("Concat", ["row_of"] * 2, ["rows"], axis=2),  # (B, h, 2, 2 w C)
        helper.make_node("Shape", ["fine"], ["shape"]),
        *(helper.make_node("Gather", ["shape", f"axis{k}"], [f"size{k}"]) for k in (0, 2, 3)),
        helper.make_node("Concat", ["size0", "rest", "size2", "size3"], ["to"], axis=0),
        helper.make_node("Reshape", ["rows", "to"], ["doubled"]),  # (B, 2 h, 2 w, C)
        helper.make_node("Transpose", ["fine"], ["fine_first"], perm=FIRST),
        helper.make_node("Transpose", ["doubled"], ["doubled_first"], perm=FIRST),
        helper.make_node("DequantizeLinear", ["doubled_first", *_SUMMANDS[4:6]], ["doubled_float"]),
        *_sum_nodes("doubled_float"),
    ]
    return helper.make_function(DOMAIN, "UpsampleAdd", _SUM, ["y"], nodes, [helper.make_opsetid("", opset)])


def _resize_function(opset: int) -> onnx.FunctionProto:
    """Write the body of the sum of a map and a coarser one, resized to it by repetition."""
    scale, zero_point = _SUMMANDS[4:6]
    nodes = [
        helper.make_node("Transpose", ["fine"], ["fine_first"], perm=FIRST),
        helper.make_node("Transpose", ["coarse"], ["coarse_first"], perm=FIRST),
        helper.make_node("Shape", ["fine_first"], ["shape"]),
        helper.make_node("DequantizeLinear", ["coarse_first", scale, zero_point], ["coarse_float"]),
        helper.make_node(
            "Resize",
            ["coarse_float", "", "", "shape"],
            ["resized"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        helper.make_node("QuantizeLinear", ["resized", scale, zero_point], ["resized_quantized"]),
        helper.make_node("DequantizeLinear", ["resized_quantized", scale, zero_point], ["resized_float"]),
        *_sum_nodes("resized_float"),
    ]
    return helper.make_function(DOMAIN, "ResizeAdd", _SUM, ["y"], nodes, [helper.make_opsetid("", opset)])


def _pool_function(opset: int) -> onnx.FunctionProto:
    """Write the body of the mean of 2 x 2 pixels."""
    pool = helper.make_node(
        "AveragePool", ["x_float"], ["mean"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, count_include_pad=1
    )
    nodes = [
        helper.make_node("Transpose", ["x"], ["x_first"], perm=FIRST),
        helper.make_node("DequantizeLinear", ["x_first", "x_scale", "x_zero_point"], ["x_float"]),
        pool,
        helper.make_node("QuantizeLinear", ["mean", "y_scale", "y_zero_point"], ["quantized"]),
        helper.make_node("Transpose", ["quantized"], ["y"], perm=LAST),
    ]
    inputs = ["x", "x_scale", "x_zero_point", "y_scale", "y_zero_point"]
    return helper.make_function(DOMAIN, "AveragePool", inputs, ["y"], nodes, [helper.make_opsetid("", opset)])


def _heatmap_function(opset: int) -> onnx.FunctionProto:
    """Write the body of the heatmap's last layers, up to the sigmoid: (B, h, w, C) uint8 -> logits (B, 1, h, w)."""
    own, scales = [f"hidden_{part}" for part in PARTS], [f"hidden_{part}" for part in SCALES]
    nodes = [
        helper.make_node("Transpose", ["x"], ["x_first"], perm=FIRST),
        helper.make_node("DequantizeLinear", ["x_first", "x_scale", "x_zero_point"], ["x_float"]),
        helper.make_node("DequantizeLinear", own[:3], ["w"], axis=0),
        helper.make_node("DequantizeLinear", own[3:], ["b"], axis=0),
        helper.make_node("Conv", ["x_float", "w", "b"], ["hidden"]),
        helper.make_node("QuantizeLinear", ["hidden", *scales], ["quantized"]),
        helper.make_node("DequantizeLinear", ["quantized", *scales], ["hidden_float"]),
        helper.make_node("Conv", ["hidden_float", "weight", "bias"], ["y"]),
    ]
    inputs = ["x", "x_scale", "x_zero_point", *own, *scales, "weight", "bias"]
    return helper.make_function(DOMAIN, "Heatmap", inputs, ["y"], nodes, [helper.make_opsetid("", opset)])


_OTHERS = {
    "UpsampleAdd": _upsample_function,
    "ResizeAdd": _resize_function,
    "AveragePool": _pool_function,
    "Heatmap": _heatmap_function,
}
