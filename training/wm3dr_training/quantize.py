"""Float encoder file -> static int8 (QDQ), calibrated on photos of the training split; accuracy lost is measured.

Convolutions and what lies between them run on uint8 activations with int8 weights, one scale per output channel. The
last convolution of the heatmap stays float, and so does whatever makes coefficient rows: a row mixes millimetres,
radians and log depth, which one scale cannot serve. Features leave the graph as they would enter the next convolution;
the head in the metadata stays float. The file is then rewritten to take pixels and return 8-bit features (contract
version 3, `pixel_graph`), where the normalisation allows it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import wm3dr
from wm3dr.encoder import float_image
from wm3dr.image import network_input
from wm3dr_training.data.sources import BACKGROUND_PACK, MANUAL_PACKS, read_pack
from wm3dr_training.evaluate.composites import AnnotatedFace, make_composites
from wm3dr_training.evaluate.data import Outcome, Setting
from wm3dr_training.evaluate.protocols import composites, landmarks
from wm3dr_training.fuse_blocks import fuse_blocks, has_blocks
from wm3dr_training.pixel_graph import pixel_parameters, take_pixels_as_they_are

QUANTIZED = ("Conv", "Add", "Relu", "Clip", "AveragePool", "Resize")
FLOAT_UNTIL = "Conv"  # the input normalisation before the first of these stays float
CALIBRATION_PHOTOS, CALIBRATION_COMPOSITES = 60, 20
MAX_SIDE = 640  # px


class _Photos(CalibrationDataReader):
    """Feeds network inputs one by one."""

    def __init__(self, images: list[NDArray[np.uint8]]) -> None:
        self._inputs: Iterator[NDArray[np.float32]] = (
            float_image(network_input(image, MAX_SIDE).pixels) for image in images
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        tensor = next(self._inputs, None)
        return None if tensor is None else {"image": tensor}


def calibration_images(data: Path, photos: int, composites: int) -> list[NDArray[np.uint8]]:
    """Photos of the training split at their own size and composites of such faces, (H, W, 3) uint8 RGB each.

    Raises
    ------
    MissingDataError
        The packs helen_train and lfpw_train are missing.
    """
    records = [r for name in MANUAL_PACKS for r in read_pack(data, name) if r.split == "train"]
    backgrounds = [r for r in read_pack(data, BACKGROUND_PACK) if r.split == "train"]
    rng = np.random.default_rng(1)
    chosen = [records[k] for k in rng.choice(len(records), min(len(records), photos + 40), replace=False)]
    faces = [AnnotatedFace(r.image(), r.landmarks68) for r in chosen if r.landmarks68 is not None]
    canvases = [backgrounds[k].image() for k in rng.choice(len(backgrounds), min(len(backgrounds), 20), replace=False)]
    made = make_composites(faces, canvases, composites, seed=2) if composites else []
    return [face.image for face in faces[:photos]] + [composite.image for composite in made]


def float_nodes(model: onnx.ModelProto) -> list[str]:
    """Nodes that stay float: those before the first convolution, the last one of heatmap and coefficients and what
    follows it, and arithmetic on shapes.
    """
    makers = {output: node for node in model.graph.node for output in node.output}
    kept: set[str] = set()
    first = next((k for k, node in enumerate(model.graph.node) if node.op_type == FLOAT_UNTIL), 0)
    kept.update(node.name for node in model.graph.node[:first])
    known = {tensor.name for tensor in model.graph.initializer} | {""}
    for node in model.graph.node:  # in topological order
        variable = [name for name in node.input if name not in known]
        if node.op_type == "Shape" or not variable:
            kept.add(node.name)
            known.update(node.output)  # a shape, or made of shapes and constants alone
    waiting = [output.name for output in model.graph.output if output.name != "features"]
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.name in kept:
            continue
        kept.add(node.name)
        if node.op_type != "Conv":
            waiting += list(node.input)
    return sorted(kept)


def quantize(source: Path, target: Path, images: list[NDArray[np.uint8]], reduce_range: bool = True) -> None:
    """Write the static int8 form of an encoder file, whole or not at all: contract version 3 where the pixels
    themselves can stand for the normalised image (`pixel_parameters`), else version 2.

    Parameters
    ----------
    source, target : Path
    images : list of (H, W, 3) uint8
        Calibration photos.
    reduce_range : bool
        Seven-bit weights: right on every x86 processor. Without VNNI the 16-bit sums of eight-bit products saturate.

    Raises
    ------
    ValueError
        There are no images, or the file is quantized already.
    """
    if not images:
        raise ValueError("'images' is empty: calibration needs photos")
    model = onnx.load(str(source))
    parts = [model.graph, *model.functions]
    if any(node.op_type == "QuantizeLinear" for part in parts for node in part.node):
        raise ValueError(f"'source' {source} is quantized already: pass the float32 file")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(str(prepared))
        pixels = pixel_parameters(graph) if "head" in metadata else None
        overrides = (
            {} if pixels is None else {pixels[0]: [{"scale": np.array(pixels[1]), "zero_point": np.array(pixels[2])}]}
        )
        quantize_static(
            str(prepared),
            str(quantized),
            _Photos(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=float_nodes(graph),
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"TensorQuantOverrides": overrides},
        )
        model = onnx.load(str(quantized))
        onnx.helper.set_model_props(model, metadata)
        if pixels is not None:
            take_pixels_as_they_are(model)
            if has_blocks(model):
                fuse_blocks(model)
        onnx.save(model, str(quantized))
        quantized.replace(target)


def accuracy(encoder: Path, face_model: Path, data: Path, quick: bool = True) -> dict[str, float]:
    """NME51, NME68 and recall on composites by the evaluation's own measures, per cent."""
    reconstructor = wm3dr.Reconstructor(encoder, face_model)
    setting = Setting(reconstructor, data, data.resolve().parent / "models", quick=quick)
    outcomes: list[Outcome] = [landmarks(setting), composites(setting)]
    return {row.measure: row.value for outcome in outcomes for row in outcome.rows}


def quantize_and_compare(source: Path, target: Path, face_model: Path, data: Path) -> str:
    """Quantize, then measure both files; returns a table of the accuracy before and after, and of the sizes."""
    quantize(source, target, calibration_images(data, CALIBRATION_PHOTOS, CALIBRATION_COMPOSITES))
    before, after = (accuracy(path, face_model, data) for path in (source, target))
    lines = ["| measure | float32 | int8 | difference |", "|---|---|---|---|"]
    for name, value in before.items():
        other = after.get(name, float("nan"))
        lines.append(f"| {name} | {value:.2f} | {other:.2f} | {other - value:+.2f} |")
    sizes = [path.stat().st_size / 2**20 for path in (source, target)]
    lines.append(f"| size, MiB | {sizes[0]:.2f} | {sizes[1]:.2f} | {sizes[1] - sizes[0]:+.2f} |")
    return "\n".join(lines)
