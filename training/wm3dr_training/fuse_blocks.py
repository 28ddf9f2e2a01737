"""An int8 encoder of contract version 3 whose blocks are functions of the model: same numbers, one kernel a block.

A block of a mobile network (expand, depthwise convolution, project, sum) is a dozen nodes of the QDQ graph. Each
becomes one node of the domain `wm3dr` that calls a *function of the model*, whose body are those nodes
(`block_functions`). Any runtime of ONNX inlines the bodies; where `wm3dr` has registered its kernels with onnxruntime
(`rust/core/src/quantized`), one of them does the whole block, row by row in the cache. Between blocks tensors are uint8
with the channels last.

    python -m wm3dr_training.fuse_blocks MODEL.onnx OUT.onnx        (quantize.py does it for every new encoder)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import onnx
from onnx import helper

from wm3dr.encoder import BLOCKS
from wm3dr_training.block_functions import DEPTHWISE_ATTRIBUTES, DOMAIN, FIRST, LAST, block_function
from wm3dr_training.pixel_graph import Graph, attributes_of, repeats_pixels

_DEFAULTS = {"group": 1, "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1]}
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
    inputs: int
    """Channels that each output reads."""
    constants: list[str]
    """Names of `block_functions.PARTS`."""

    @property
    def input(self) -> str:
        return self.source.input[0]

    @property
    def output(self) -> str:
        return self.sink.output[0]

    def attribute(self, name: str) -> Any:
        return attributes_of(self.node).get(name, _DEFAULTS.get(name))

    @property
    def pointwise(self) -> bool:
        """Whether it is a pointwise convolution that the kernels can do."""
        plain = {"kernel_shape": [1, 1], "group": 1, "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1]}
        return all(self.attribute(name) == value for name, value in plain.items()) and self.inputs % 4 == 0

    @property
    def depthwise(self) -> bool:
        """Whether it is a depthwise convolution that the kernels can do."""
        return (
            self.inputs == 1
            and int(self.attribute("group")) % 16 == 0  # 1 for a convolution of one channel
            and self.attribute("kernel_shape") in ([3, 3], [5, 5])
            and self.attribute("strides") in ([1, 1], [2, 2])
            and self.attribute("dilations") == [1, 1]
        )


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
    stem, heatmap = _find_stem(graph), _find_heatmap(graph)
    for block in blocks:
        first = block.convolutions[0]
        if heatmap is not None and first == heatmap[0]:
            kind = _replace_heatmap(graph, *heatmap)
        elif stem is not None and block.kind == "Separable" and first.input == stem.output:
            kind = _replace(graph, block, stem)
        else:
            kind = _replace(graph, block)
        counts[kind] = counts.get(kind, 0) + 1
    counts |= _replace_resized_sums(graph)
    counts |= _replace_pools(graph)
    _drop_unused(graph)
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    model.functions.extend(block_function(kind, opset) for kind in counts)
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
    sink = graph.quantized_by(node)
    if sink is None:
        return None
    source, weight, bias = makers
    inputs = graph.constants[weight.input[0]].dims[1]
    return _Convolution(node, source, sink, inputs, [*weight.input, *bias.input])


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
        expands = before is not None and before.pointwise and before.node.output[0] not in taken
        if not expands or _only_reader(graph, before.output) is not depthwise.node:
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
    return graph.quantized_by(add)


@dataclass(frozen=True)
class _Stem:
    """First convolution and what surrounds it as `pixel_graph` makes it."""

    convolution: _Convolution
    output: str
    """Quantized tensor that the rest of the network reads, channels first."""
    shapes: dict[str, list[int]]
    """Of the cells that it reads, and of the columns that it gives."""


def _find_stem(graph: Graph) -> _Stem | None:
    """Find the first convolution, from the pixels to the map, if it is as `pixel_graph` makes it (`_STEM`)."""
    chain = [graph.proto.node[0]]
    for _ in range(len(_STEM) - 1):
        users = graph.users(chain[-1].output[0])
        if len(users) != 1:
            return None
        chain.append(users[0])
    if [node.op_type for node in chain] != _STEM or chain[0].input[0] != "image":
        return None
    cells, _, _, node, _, _, columns, last = chain
    convolution = _convolution(graph, node)
    wanted = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [0, 0, 1, 1], "group": 1}
    if convolution is None or any(convolution.attribute(name) != value for name, value in wanted.items()):
        return None
    if len(graph.users(last.output[0])) != 1:
        return None
    shapes = {"cells": graph.array(cells.input[1]).tolist(), "columns": graph.array(columns.input[1]).tolist()}
    return _Stem(convolution, last.output[0], shapes)


def _replace(graph: Graph, block: _Block, stem: _Stem | None = None) -> str:
    first, sink, kind = block.convolutions[0], block.sink, block.kind
    convolutions = block.convolutions
    attributes: dict[str, Any] = {}
    if stem is None:
        source = _last(graph, first.input, sink)
    else:
        first, kind, source = stem.convolution, f"Stem{kind}", "image"
        convolutions = [first, *convolutions]
        attributes |= stem.shapes
    arguments = [source, *first.source.input[1:3]]
    for convolution in convolutions:
        arguments += [*convolution.constants, *convolution.sink.input[1:3]]
    if block.add is not None:
        arguments += block.add.input[1:3]
    if block.kind != "Pointwise":
        depthwise = next(c for c in block.convolutions if c.depthwise)
        attributes |= {name: depthwise.attribute(name) for name in DEPTHWISE_ATTRIBUTES}
    _call(graph, kind, arguments, sink, **attributes)
    return kind


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


def _replace_heatmap(graph: Graph, convolution: _Convolution, last: onnx.NodeProto) -> str:
    arguments = [_last(graph, convolution.input, last), *convolution.source.input[1:3], *convolution.constants]
    arguments += [*convolution.sink.input[1:3], *last.input[1:]]
    graph.insert(last, [helper.make_node("Heatmap", arguments, last.output, domain=DOMAIN)])
    graph.proto.node.remove(last)
    return "Heatmap"


def _replace_resized_sums(graph: Graph) -> dict[str, int]:
    """Put calls in for sums of a map and a coarser one whose pixels are repeated (`_coarse`)."""
    counts: dict[str, int] = {}
    for node in [node for node in graph.proto.node if node.op_type == "Add"]:
        readers = [graph.maker(name) for name in node.input]
        sink = graph.quantized_by(node)
        if sink is None or any(reader is None or reader.op_type != "DequantizeLinear" for reader in readers):
            continue
        fine, repeated = readers
        kind, coarse = _coarse(graph, repeated)
        if kind is None:
            continue
        arguments = [_last(graph, fine.input[0], sink), *fine.input[1:3]]
        arguments += [_last(graph, coarse, sink), *repeated.input[1:3], *sink.input[1:3]]
        _call(graph, kind, arguments, sink)
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def _coarse(graph: Graph, repeated: onnx.NodeProto) -> tuple[str | None, str]:
    """See whether a tensor is a coarser one with repeated pixels: the function for it and the coarser tensor.

    That is doubled by copies (`pixel_graph.repeat_by_copies`), or a nearest Resize to given sizes in the same scale.
    """
    chain = [graph.maker(repeated.input[0])]
    while chain[-1] is not None and len(chain) < len(_DOUBLED):
        chain.append(graph.maker(chain[-1].input[0]))
    types = [made.op_type if made is not None else None for made in chain]
    if types == _DOUBLED:
        return "UpsampleAdd", chain[-1].input[0]
    if types[:3] != ["QuantizeLinear", "Resize", "DequantizeLinear"]:
        return None, ""
    quantize, resize, reader = chain[:3]
    nearest = repeats_pixels(resize) and len(resize.input) == 4  # to given sizes
    scales = [[graph.array(name) for name in node.input[1:3]] for node in (quantize, reader)]
    return ("ResizeAdd", reader.input[0]) if nearest and scales[0] == scales[1] else (None, "")


def _replace_pools(graph: Graph) -> dict[str, int]:
    """Put calls in for means of 2 x 2 pixels."""
    count = 0
    wanted = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0] * 4, "ceil_mode": 1, "count_include_pad": 1}
    for node in [node for node in graph.proto.node if node.op_type == "AveragePool"]:
        reader, sink = graph.maker(node.input[0]), graph.quantized_by(node)
        quantized = reader is not None and reader.op_type == "DequantizeLinear" and sink is not None
        if not quantized or not wanted.items() <= attributes_of(node).items():
            continue
        arguments = [_last(graph, reader.input[0], sink), *reader.input[1:3], *sink.input[1:3]]
        _call(graph, "AveragePool", arguments, sink)
        count += 1
    return {"AveragePool": count} if count else {}


def _last(graph: Graph, tensor: str, before: onnx.NodeProto) -> str:
    """Return the name of a tensor with its channels last; a transposition is put in where there is none yet."""
    last = f"{tensor}_last"
    if graph.maker(last) is None:
        graph.insert(before, [helper.make_node("Transpose", [tensor], [last], perm=LAST)])
    return last


def _call(graph: Graph, kind: str, arguments: list[str], sink: onnx.NodeProto, **attributes: object) -> None:
    """Put a call in for what ends in `sink`, whose result then comes from it."""
    output = sink.output[0]
    last = f"{output}_last"
    existing = graph.maker(last)  # a transposition that somebody has put in before himself
    if existing is not None:
        graph.proto.node.remove(existing)
    nodes = [
        helper.make_node(kind, arguments, [last], domain=DOMAIN, **attributes),
        helper.make_node("Transpose", [last], [output], perm=FIRST),
    ]
    graph.insert(sink, nodes)
    graph.proto.node.remove(sink)


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
