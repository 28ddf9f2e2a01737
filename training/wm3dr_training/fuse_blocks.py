"""An int8 encoder of contract version 3 whose blocks are functions of the model: same numbers, one kernel a block.

A block of a mobile network (expand, depthwise convolution, project, sum) is a dozen nodes of the QDQ graph. Each becomes
one node of the domain `wm3dr` that calls a *function of the model*, whose body are those nodes. Any runtime of ONNX
inlines the bodies; where `wm3dr` has registered its kernels with onnxruntime (`rust/core/src/quantized`), one of them
does the whole block, row by row in the cache. Between blocks tensors are uint8 with the channels last.

    python -m wm3dr_training.fuse_blocks MODEL.onnx OUT.onnx        (quantize.py does it for every new encoder)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click
import onnx
from onnx import helper

from wm3dr.encoder import BLOCKS
from wm3dr_training.pixel_graph import Graph

DOMAIN = "wm3dr"
_LAST, _FIRST = [0, 2, 3, 1], [0, 3, 1, 2]  # channels last, channels first
_PARTS = ("weight", "weight_scale", "weight_zero_point", "bias", "bias_scale", "bias_zero_point")
_SCALES = ("scale", "zero_point")
_STEM = ["Reshape", "Transpose", "DequantizeLinear", "Conv", "QuantizeLinear", "Transpose", "Reshape", "Transpose"]
_DOUBLED = ["Transpose", "Reshape", "Concat", "Reshape", "Concat", "Transpose"]
"""How a doubled map is made, last node first."""


@dataclass(frozen=True)
class _Convolution:
    """Convolution between two quantized tensors, with the nodes that belong to it alone."""

    node: onnx.NodeProto
    source: onnx.NodeProto
    """DequantizeLinear of its input."""
    sink: onnx.NodeProto
    """QuantizeLinear of its output."""
    constants: list[str]
    """Names of `_PARTS`."""

    @property
    def input(self) -> str:
        return self.source.input[0]

    @property
    def output(self) -> str:
        return self.sink.output[0]

    def attribute(self, name: str) -> object:
        return next(helper.get_attribute_value(a) for a in self.node.attribute if a.name == name)

    @property
    def pointwise(self) -> bool:
        return self.attribute("kernel_shape") == [1, 1] and self.attribute("group") == 1

    @property
    def depthwise(self) -> bool:
        return self.attribute("group") != 1


@dataclass(frozen=True)
class _Block:
    """Convolutions in their order, and the sum with the block's input, if there is one."""

    kind: str
    convolutions: list[_Convolution]
    add: onnx.NodeProto | None = None

    @property
    def sink(self) -> onnx.NodeProto:
        """QuantizeLinear of the block's output."""
        return self.convolutions[-1].sink if self.add is None else self.add


def fuse_blocks(model: onnx.ModelProto) -> dict[str, int]:
    """Replace blocks by calls of functions, in place; gives how many of each kind.

    Raises
    ------
    ValueError
        The graph has no quantized convolution with its channels in the middle of a block.
    """
    graph = Graph(model)
    blocks = _find_blocks(graph)
    if not blocks:
        raise ValueError("the graph has no quantized depthwise convolution followed by a pointwise one")
    counts: dict[str, int] = {}
    if _replace_stem(graph):
        counts["Stem"] = 1
    heatmap = _find_heatmap(graph)
    for block in blocks:
        if heatmap is not None and block.convolutions == [heatmap[0]]:
            _replace_heatmap(graph, *heatmap)
            counts["Heatmap"] = 1
        else:
            _replace(graph, block)
    counts |= _replace_upsampled_sums(graph)
    _drop_unused(graph)
    for block in blocks:
        if heatmap is None or block.convolutions != [heatmap[0]]:
            counts[block.kind] = counts.get(block.kind, 0) + 1
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    model.functions.extend(_function(kind, opset) for kind in counts)
    _sort(graph)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, metadata | {BLOCKS: json.dumps(counts)})
    onnx.checker.check_model(model)
    return counts


def has_blocks(model: onnx.ModelProto) -> bool:
    """Whether there is anything to fuse: an int8 mobile network has blocks, a ResNet has not."""
    return bool(_find_blocks(Graph(model)))


def _convolution(graph: Graph, node: onnx.NodeProto) -> _Convolution | None:
    """See whether a Conv stands between quantized tensors."""
    makers = [graph.maker(name) for name in node.input]
    if node.op_type != "Conv" or len(makers) != 3 or any(m is None or m.op_type != "DequantizeLinear" for m in makers):
        return None
    users = graph.users(node.output[0])
    if len(users) != 1 or users[0].op_type != "QuantizeLinear":
        return None
    source, weight, bias = makers
    return _Convolution(node, source, users[0], [*weight.input, *bias.input])


def _only_reader(graph: Graph, tensor: str) -> onnx.NodeProto | None:
    """Return who uses a quantized tensor through its DequantizeLinear, if that is one node alone."""
    readers = graph.users(tensor)
    if len(readers) != 1 or readers[0].op_type != "DequantizeLinear":
        return None
    users = graph.users(readers[0].output[0])
    return users[0] if len(users) == 1 else None


def _find_blocks(graph: Graph) -> list[_Block]:
    found = {node.output[0]: c for node in graph.proto.node if (c := _convolution(graph, node))}
    projections: dict[str, _Convolution] = {}  # depthwise -> the pointwise convolution after it
    for name, convolution in found.items():
        reader = _only_reader(graph, convolution.output)
        after = found.get(reader.output[0]) if convolution.depthwise and reader is not None else None
        if after is not None and after.pointwise:
            projections[name] = after
    taken = {c.node.output[0] for c in projections.values()}
    blocks, expansions = [], set()
    for name, project in projections.items():
        depthwise = found[name]
        before = next((c for c in found.values() if c.output == depthwise.input), None)
        if before is None or not before.pointwise or before.node.output[0] in taken:
            blocks.append(_Block("Separable", [depthwise, project]))
            continue
        if _only_reader(graph, before.output) is not depthwise.node:
            blocks.append(_Block("Separable", [depthwise, project]))
            continue
        expansions.add(before.node.output[0])
        add = _sum_with(graph, project, before.input)
        kind = "InvertedResidual" if add is None else "InvertedResidualAdd"
        blocks.append(_Block(kind, [before, depthwise, project], add))
    rest = [c for name, c in found.items() if c.pointwise and name not in taken | expansions]
    return blocks + [_Block("Pointwise", [c]) for c in rest] if blocks else []


def _sum_with(graph: Graph, project: _Convolution, block_input: str) -> onnx.NodeProto | None:
    """Return the QuantizeLinear of the sum of the projection and the block's input, in this order."""
    add = _only_reader(graph, project.output)
    if add is None or add.op_type != "Add":
        return None
    readers = [graph.maker(name) for name in add.input]
    if [r.input[0] if r is not None else None for r in readers] != [project.output, block_input]:
        return None
    users = graph.users(add.output[0])
    return users[0] if len(users) == 1 and users[0].op_type == "QuantizeLinear" else None


def _replace(graph: Graph, block: _Block) -> None:
    """Put the call in, with transpositions on both sides, and take out who made its output."""
    first, sink = block.convolutions[0], block.sink
    output = sink.output[0]
    last, out = f"{first.input}_last", f"{output}_last"
    arguments = [last, *first.source.input[1:3]]
    for convolution in block.convolutions:
        arguments += [*convolution.constants, *convolution.sink.input[1:3]]
    attributes = {}
    if block.kind != "Pointwise":
        depthwise = next(c for c in block.convolutions if c.depthwise)
        attributes = {name: depthwise.attribute(name) for name in ("group", "kernel_shape", "pads", "strides")}
    if block.add is not None:
        arguments += block.add.input[1:3]
    nodes = [helper.make_node(block.kind, arguments, [out], domain=DOMAIN, **attributes)]
    if not any(last in node.output for node in graph.proto.node):
        nodes.insert(0, helper.make_node("Transpose", [first.input], [last], perm=_LAST))
    nodes.append(helper.make_node("Transpose", [out], [output], perm=_FIRST))
    graph.insert(sink, nodes)
    graph.proto.node.remove(sink)


def _replace_stem(graph: Graph) -> bool:
    """Put a call in for the first convolution, from the pixels to the map, if it is as `pixel_graph` makes it.

    That is Reshape to cells, Transpose, the convolution, Transpose, Reshape to columns, Transpose.
    """
    chain = [graph.proto.node[0]]
    for _ in range(7):
        users = graph.users(chain[-1].output[0])
        if len(users) != 1:
            return False
        chain.append(users[0])
    if [node.op_type for node in chain] != _STEM or chain[0].input[0] != "image":
        return False
    cells, planes, _, node, _, _, columns, last = chain
    convolution = _convolution(graph, node)
    wanted = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [0, 0, 1, 1], "group": 1}
    if convolution is None or any(convolution.attribute(name) != value for name, value in wanted.items()):
        return False
    shapes = {"cells": graph.array(cells.input[1]).tolist(), "columns": graph.array(columns.input[1]).tolist()}
    out = f"{last.output[0]}_last"
    scales = [*convolution.source.input[1:3]], [*convolution.sink.input[1:3]]
    arguments = ["image", *scales[0], *convolution.constants, *scales[1]]
    call = helper.make_node("Stem", arguments, [out], domain=DOMAIN, **shapes)
    graph.insert(last, [call, helper.make_node("Transpose", [out], [last.output[0]], perm=_FIRST)])
    graph.proto.node.remove(last)
    return True


def _find_heatmap(graph: Graph) -> tuple[_Convolution, onnx.NodeProto] | None:
    """Find the pointwise convolution before the float one, to one channel, whose sigmoid is the heatmap."""
    sigmoid = graph.maker("heatmap")
    last = graph.maker(sigmoid.input[0]) if sigmoid is not None and sigmoid.op_type == "Sigmoid" else None
    if last is None or last.op_type != "Conv" or any(name not in graph.constants for name in last.input[1:]):
        return None
    reader = graph.maker(last.input[0])
    if list(graph.array(last.input[1]).shape)[::2] != [1, 1] or reader is None or reader.op_type != "DequantizeLinear":
        return None
    sink = graph.maker(reader.input[0])
    node = graph.maker(sink.input[0]) if sink is not None and sink.op_type == "QuantizeLinear" else None
    convolution = _convolution(graph, node) if node is not None else None
    if convolution is None or not convolution.pointwise or _only_reader(graph, convolution.output) is not last:
        return None
    return convolution, last


def _replace_heatmap(graph: Graph, convolution: _Convolution, last: onnx.NodeProto) -> None:
    quantized = f"{convolution.input}_last"
    arguments = [quantized, *convolution.source.input[1:3], *convolution.constants, *convolution.sink.input[1:3]]
    nodes = [helper.make_node("Heatmap", [*arguments, *last.input[1:]], last.output, domain=DOMAIN)]
    if graph.maker(quantized) is None:
        nodes.insert(0, helper.make_node("Transpose", [convolution.input], [quantized], perm=_LAST))
    graph.insert(last, nodes)
    graph.proto.node.remove(last)


def _replace_upsampled_sums(graph: Graph) -> dict[str, int]:
    """Put calls in for sums of a map and a coarser one that `pixel_graph.repeat_by_copies` has doubled."""
    count = 0
    for node in [node for node in graph.proto.node if node.op_type == "Add"]:
        readers = [graph.maker(name) for name in node.input]
        users = graph.users(node.output[0])
        if len(users) != 1 or users[0].op_type != "QuantizeLinear":
            continue
        if any(reader is None or reader.op_type != "DequantizeLinear" for reader in readers):
            continue
        fine, coarse = readers
        chain = [graph.maker(coarse.input[0])]
        while chain[-1] is not None and len(chain) < len(_DOUBLED):
            chain.append(graph.maker(chain[-1].input[0]))
        if [made.op_type if made is not None else None for made in chain] != _DOUBLED:
            continue
        fine_last, output = f"{fine.input[0]}_last", users[0].output[0]
        nodes = []
        if graph.maker(fine_last) is None:
            nodes.append(helper.make_node("Transpose", [fine.input[0]], [fine_last], perm=_LAST))
        arguments = [fine_last, *fine.input[1:3], chain[-1].output[0], *coarse.input[1:3], *users[0].input[1:3]]
        last = f"{output}_last"
        nodes.append(helper.make_node("UpsampleAdd", arguments, [last], domain=DOMAIN))
        existing = graph.maker(last)  # the transposition that a block put in before itself
        if existing is not None:
            graph.proto.node.remove(existing)
        nodes.append(helper.make_node("Transpose", [last], [output], perm=_FIRST))
        graph.insert(users[0], nodes)
        graph.proto.node.remove(users[0])
        count += 1
    return {"UpsampleAdd": count} if count else {}


def _drop_unused(graph: Graph) -> None:
    """Take out nodes and constants that nothing needs any more."""
    outputs = {value.name for value in graph.proto.output}
    while True:
        used = outputs | {name for node in graph.proto.node for name in node.input}
        unused = [node for node in graph.proto.node if not used.intersection(node.output)]
        if not unused:
            break
        for node in unused:
            graph.proto.node.remove(node)
    for tensor in [tensor for tensor in graph.proto.initializer if tensor.name not in used]:
        graph.proto.initializer.remove(tensor)
    del graph.proto.value_info[:]


def _sort(graph: Graph) -> None:
    """Put every node behind those that it reads from."""
    known = {value.name for value in graph.proto.input} | {tensor.name for tensor in graph.proto.initializer} | {""}
    waiting, ordered = list(graph.proto.node), []
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        if not ready:
            raise ValueError(f"nodes read from each other in a circle: {[node.name for node in waiting]}")
        ordered += ready
        known.update(name for node in ready for name in node.output)
        waiting = [node for node in waiting if not known.issuperset(node.output)]
    del graph.proto.node[:]
    graph.proto.node.extend(ordered)


def _function(kind: str, opset: int) -> onnx.FunctionProto:
    """Write the body of a kind of block: the nodes that it replaces, between tensors with their channels last."""
    special = {"Stem": _stem_function, "UpsampleAdd": _upsample_function, "Heatmap": _heatmap_function}
    if kind in special:
        return special[kind](opset)
    convolutions = {
        "Pointwise": ["project"],
        "Separable": ["depthwise", "project"],
        "InvertedResidual": ["expand", "depthwise", "project"],
        "InvertedResidualAdd": ["expand", "depthwise", "project"],
    }[kind]
    inputs = ["x", "x_scale", "x_zero_point"]
    nodes = [
        helper.make_node("Transpose", ["x"], ["x_first"], perm=_FIRST),
        helper.make_node("DequantizeLinear", ["x_first", "x_scale", "x_zero_point"], ["x_float"]),
    ]
    current = "x_float"
    for name in convolutions:
        own, scales = [f"{name}_{part}" for part in _PARTS], [f"{name}_{part}" for part in _SCALES]
        inputs += [*own, *scales]
        convolution = helper.make_node("Conv", [current, f"{name}_w", f"{name}_b"], [f"{name}_out"])
        if name == "depthwise":
            for attribute, kind_of in (("group", "INT"), ("kernel_shape", "INTS"), ("pads", "INTS"), ("strides", "INTS")):
                reference = convolution.attribute.add()
                reference.name = reference.ref_attr_name = attribute
                reference.type = onnx.AttributeProto.AttributeType.Value(kind_of)
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
        scales = [f"sum_{part}" for part in _SCALES]
        inputs += scales
        quantized = "sum_quantized"
        nodes += [
            helper.make_node("Add", [current, "x_float"], ["sum"]),
            helper.make_node("QuantizeLinear", ["sum", *scales], [quantized]),
        ]
    else:
        nodes.pop()
    nodes.append(helper.make_node("Transpose", [quantized], ["y"], perm=_LAST))
    attributes = ["group", "kernel_shape", "pads", "strides"] if "depthwise" in convolutions else []
    imports = [helper.make_opsetid("", opset)]
    return helper.make_function(DOMAIN, kind, inputs, ["y"], nodes, imports, attributes)


def _stem_function(opset: int) -> onnx.FunctionProto:
    """Write the body of the first convolution: `_STEM` but for the last Transpose."""
    own, scales = [f"stem_{part}" for part in _PARTS], [f"stem_{part}" for part in _SCALES]
    shapes = []
    for name in ("cells", "columns"):
        shape = helper.make_node("Constant", [], [f"{name}_shape"])
        reference = shape.attribute.add()
        reference.name, reference.ref_attr_name = "value_ints", name
        reference.type = onnx.AttributeProto.INTS
        shapes.append(shape)
    convolution = helper.make_node(
        "Conv", ["x_float", "w", "b"], ["out"], kernel_shape=[3, 2], strides=[2, 1], pads=[0, 0, 1, 1], group=1
    )
    nodes = [
        *shapes,
        helper.make_node("Reshape", ["x", "cells_shape"], ["x_cells"]),
        helper.make_node("Transpose", ["x_cells"], ["x_first"], perm=_FIRST),
        helper.make_node("DequantizeLinear", ["x_first", "x_scale", "x_zero_point"], ["x_float"]),
        helper.make_node("DequantizeLinear", own[:3], ["w"], axis=0),
        helper.make_node("DequantizeLinear", own[3:], ["b"], axis=0),
        convolution,
        helper.make_node("QuantizeLinear", ["out", *scales], ["quantized"]),
        helper.make_node("Transpose", ["quantized"], ["last"], perm=_LAST),
        helper.make_node("Reshape", ["last", "columns_shape"], ["y"]),
    ]
    inputs = ["x", "x_scale", "x_zero_point", *own, *scales]
    imports = [helper.make_opsetid("", opset)]
    return helper.make_function(DOMAIN, "Stem", inputs, ["y"], nodes, imports, ["cells", "columns"])


def _upsample_function(opset: int) -> onnx.FunctionProto:
    """Write the body of the sum of a map and a doubled one: doubling by copies, as `pixel_graph` does it."""

    def constant(name: str, *values: int) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [name], value_ints=list(values))

    inputs = [f"{name}{part}" for name in ("fine", "coarse") for part in ("", "_scale", "_zero_point")]
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
        helper.make_node("Transpose", ["fine"], ["fine_first"], perm=_FIRST),
        helper.make_node("Transpose", ["doubled"], ["doubled_first"], perm=_FIRST),
        helper.make_node("DequantizeLinear", ["fine_first", *inputs[1:3]], ["a"]),
        helper.make_node("DequantizeLinear", ["doubled_first", *inputs[4:6]], ["b"]),
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("QuantizeLinear", ["sum", "y_scale", "y_zero_point"], ["quantized"]),
        helper.make_node("Transpose", ["quantized"], ["y"], perm=_LAST),
    ]
    imports = [helper.make_opsetid("", opset)]
    return helper.make_function(DOMAIN, "UpsampleAdd", [*inputs, "y_scale", "y_zero_point"], ["y"], nodes, imports)


def _heatmap_function(opset: int) -> onnx.FunctionProto:
    """Write the body of the heatmap's last layers, up to the sigmoid: (B, h, w, C) uint8 -> logits (B, 1, h, w)."""
    own, scales = [f"hidden_{part}" for part in _PARTS], [f"hidden_{part}" for part in _SCALES]
    nodes = [
        helper.make_node("Transpose", ["x"], ["x_first"], perm=_FIRST),
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


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("out", type=click.Path(path_type=Path))
def main(model: Path, out: Path) -> None:
    """Fuse the blocks of an int8 encoder of contract version 3."""
    proto = onnx.load(str(model))
    counts = fuse_blocks(proto)
    onnx.save(proto, str(out))
    click.echo(f"{out}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))


if __name__ == "__main__":
    main()
