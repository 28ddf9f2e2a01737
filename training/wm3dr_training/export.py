"""Checkpoint -> ONNX by the encoder contract (CONVENTIONS.md §2–4), version 2, with parity measured.

The last layers of the coefficients and the activation, a sixth of the network's time on a whole map, become a graph of
their own in the file's metadata, which the runtime evaluates at the peaks.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional

from wm3dr_training.checkpoint import load_checkpoint
from wm3dr_training.config import TrainConfig
from wm3dr_training.encoder import DEPTH_OFFSET, FOCAL, STRIDE, DeployedEncoder, Encoder, Layout
from wm3dr_training.layers import UNIT_MM, FaceModel

OPSET = 17
PARITY = 1e-3  # largest difference of heatmap and rows between torch and onnxruntime, relative to each group's spread
PARITY_FLOAT16 = 2e-2  # the same for weights stored with 11 bits
SMALLEST_HALVED = 256  # numbers of a tensor; smaller ones (biases, scales) stay float32
PEAK_WINDOW, PEAK_THRESHOLD = 5, 0.48
LICENCE = (
    "Weights trained on photographs under research-only and non-commercial terms "
    "(HELEN, LFPW, CFP, UTKFace, LFW, SCUT-FBP5500) "
    "and on the Face Research Lab London Set (CC-BY 4.0): research and non-commercial use."
)


def load_encoder(path: Path, face_model: FaceModel) -> tuple[Encoder, dict[str, Any]]:
    """The averaged encoder of a checkpoint, in evaluation mode, and the checkpoint."""
    state = load_checkpoint(path, None, face_model)
    encoder = Encoder(state["config"]["backbone"], face_model.layout, face_model.blendshapes)
    encoder.load_state_dict(state["average"])
    return encoder.eval(), state


def contract_metadata(
    face_model_name: str,
    face_model_sha256: str,
    layout: Layout,
    rotation_frame: str,
    licence: str,
    training: dict[str, Any],
    head: bytes | None = None,
    row_window: int = 1,
) -> dict[str, str]:
    """The strings that an encoder file carries; with a head (ONNX, features -> rows) those of version 2, else of 1.

    row_window: side of the cells around a peak whose rows may be averaged; 3 when neighbours were trained to agree.
    """
    carried = {} if head is None else {"head": base64.b64encode(head).decode()}
    return carried | {
        "wm3dr_format": "wm3dr-encoder",
        "wm3dr_version": "1" if head is None else "2",
        "face_model": face_model_name,
        "face_model_sha256": face_model_sha256,
        "layout": json.dumps(layout.groups),
        "stride": str(STRIDE),
        "focal": str(FOCAL),
        "depth_offset": str(DEPTH_OFFSET),
        "unit_mm": str(UNIT_MM),
        "rotation_frame": rotation_frame,
        "peak_window": str(PEAK_WINDOW),
        "peak_threshold": str(PEAK_THRESHOLD),
        "row_window": str(row_window),
        "licence": licence,
        "training": json.dumps(training),
    }


class FeatureEncoder(nn.Module):
    """Image -> heatmap and the features that the rows are made of, cell by cell (B, F, H/8, W/8)."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder.features(image)
        heatmap = torch.sigmoid(self.encoder.heatmap(features))
        for layer in self.encoder.coefficients[: _first_pointwise(self.encoder)]:
            features = layer(features)
        return heatmap, features


class RowHead(nn.Module):
    """Features (M, F) of M cells -> rows of the contract (M, C)."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.layers = encoder.coefficients[_first_pointwise(encoder) :]
        self.activation = encoder.activation

    def forward(self, features: Tensor) -> Tensor:
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                features = functional.linear(features, layer.weight[:, :, 0, 0], layer.bias)
            else:
                features = layer(features)
        return self.activation(features)


def _first_pointwise(encoder: Encoder) -> int:
    """Number of the first layer of the coefficients from which on no layer looks at neighbouring cells."""
    wide = [k for k, layer in enumerate(encoder.coefficients) if getattr(layer, "kernel_size", (1, 1)) != (1, 1)]
    return wide[-1] + 2 if wide else 0  # a wide convolution keeps its ReLU with it: its output is the features


def head_graph(encoder: Encoder) -> bytes:
    """`RowHead` as ONNX, features (M, F) -> coefficients (M, C) with any M."""
    module = RowHead(encoder).eval()
    first = next(layer for layer in module.layers if isinstance(layer, nn.Conv2d))
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(3, first.in_channels),),
            content,
            input_names=["features"],
            output_names=["coefficients"],
            dynamic_axes={"features": {0: "faces"}, "coefficients": {0: "faces"}},
            opset_version=OPSET,
            dynamo=False,
        )
    return content.getvalue()


class _StaticPadding(nn.Module):
    """A strided convolution with TensorFlow's padding for even inputs, of a known amount: half before, rest after."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        shape = zip(convolution.kernel_size, convolution.stride, convolution.dilation, strict=True)
        height, width = (max(dilation * (kernel - 1) + 1 - stride, 0) for kernel, stride, dilation in shape)
        self.pad = nn.ZeroPad2d((width // 2, width - width // 2, height // 2, height - height // 2))
        self.convolution = nn.Conv2d(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,
            convolution.stride,
            dilation=convolution.dilation,
            groups=convolution.groups,
            bias=convolution.bias is not None,
        )
        self.convolution.load_state_dict(convolution.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(self.pad(x))


def with_static_padding(module: nn.Module) -> nn.Module:
    """A copy with constant padding instead of timm's size-dependent one; sides that are multiples of 32 allow it."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv2dSame):
                setattr(parent, name, _StaticPadding(child))
    return module.eval()


def export_module(module: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Write a module image -> (heatmap, coefficients or, with a head in the metadata, features) as ONNX with dynamic
    batch, height and width; whole or not at all.
    """
    maps = "features" if "head" in metadata else "coefficients"
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        temporary = Path(folder) / "encoder.onnx"
        torch.onnx.export(
            module,
            (torch.zeros(1, 3, 64, 96),),
            str(temporary),
            input_names=["image"],
            output_names=["heatmap", maps],
            dynamic_axes={
                "image": {0: "batch", 2: "height", 3: "width"},
                "heatmap": {0: "batch", 2: "rows", 3: "columns"},
                maps: {0: "batch", 2: "rows", 3: "columns"},
            },
            opset_version=OPSET,
            dynamo=False,
        )
        model = onnx.load(str(temporary))
        _set_metadata(model, metadata)
        onnx.save(model, str(temporary))
        temporary.replace(path)


def _set_metadata(model: onnx.ModelProto, metadata: dict[str, str]) -> None:
    del model.metadata_props[:]
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value


def halve(model: onnx.ModelProto) -> None:
    """Store the weights as float16, in place: half the file.

    Computation stays float32: each tensor is cast where it is used, which onnxruntime does once, when it opens the
    file. (float16 arithmetic would be slower on CPUs, which convert back and forth around every layer.)

    Raises
    ------
    ValueError
        A weight is beyond the range of float16.
    """
    graph = model.graph
    casts = []
    for number, tensor in enumerate(list(graph.initializer)):
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < SMALLEST_HALVED:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        if np.abs(values).max() > np.finfo(np.float16).max:
            raise ValueError(f"weight {tensor.name!r} reaches {np.abs(values).max():.3g}, beyond float16")
        name, stored = tensor.name, f"{tensor.name}.float16"
        graph.initializer[number].CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
    for cast in reversed(casts):
        graph.node.insert(0, cast)


def parity(module: nn.Module, path: Path, images: Iterable[Tensor]) -> float:
    """Largest difference between torch (heatmap, rows of all cells) and onnxruntime over images (B, 3, H, W), each
    output over the spread of its channel.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    carried = session.get_modelmeta().custom_metadata_map.get("head")
    head = None
    if carried is not None:
        head = onnxruntime.InferenceSession(base64.b64decode(carried), providers=["CPUExecutionProvider"])
    worst = 0.0
    for image in images:
        with torch.no_grad():
            expected = [value.numpy() for value in module(image)]
        found = session.run(None, {"image": image.numpy()})
        if head is not None:
            found[1] = _rows_of_all_cells(head, found[1])
        for mine, its in zip(expected, found, strict=True):
            scale = np.maximum(np.abs(mine).max(axis=(0, 2, 3), keepdims=True), 1.0)
            worst = max(worst, float((np.abs(mine - its) / scale).max()))
    return worst


def _rows_of_all_cells(head: onnxruntime.InferenceSession, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """(B, F, h, w) features -> (B, C, h, w) rows."""
    batch, width, rows, columns = features.shape
    cells = np.ascontiguousarray(features.transpose(0, 2, 3, 1)).reshape(-1, width)
    out = head.run(["coefficients"], {"features": cells})[0]
    return out.reshape(batch, rows, columns, -1).transpose(0, 3, 1, 2)


def export_checkpoint(
    checkpoint: Path, face_model_path: Path, out: Path, licence: str = LICENCE, float16: bool = False
) -> dict[str, Any]:
    """Export a checkpoint's averaged encoder; returns a summary with the parity and the file's SHA-256.

    float16: store the weights so (`halve`); the graph is compared before and after.

    Raises
    ------
    ValueError
        The exported graph disagrees with torch by more than `PARITY` (`PARITY_FLOAT16`); nothing is written then.
    """
    face_model = FaceModel.load(face_model_path)
    encoder, state = load_encoder(checkpoint, face_model)
    config = TrainConfig.from_dict(state["config"])
    summary = {
        "backbone": config.backbone,
        "stage": config.stage,
        "size": config.size,
        "batch": config.batch,
        "steps": int(state["step"]),
        "sources": list(config.sources),
        "measures": {key: round(float(value), 4) for key, value in state.get("measures", {}).items()},
    }
    metadata = contract_metadata(
        face_model.metadata.name,
        face_model.sha256,
        face_model.layout,
        "ray",
        licence,
        summary,
        head_graph(encoder),
        row_window=3 if config.neighbours else 1,
    )
    module = DeployedEncoder(encoder).eval()
    out.parent.mkdir(parents=True, exist_ok=True)
    trial = out.with_suffix(".partial.onnx")
    try:
        export_module(with_static_padding(FeatureEncoder(encoder)), trial, metadata)
        generator = torch.Generator().manual_seed(0)
        sizes = ((1, 3, 64, 96), (2, 3, 128, 64), (1, 3, 320, 256))
        images = [255 * torch.rand(shape, generator=generator) for shape in sizes]
        for allowed in (PARITY, PARITY_FLOAT16)[: 1 + float16]:
            if allowed is PARITY_FLOAT16:
                model = onnx.load(str(trial))
                halve(model)
                onnx.save(model, str(trial))
            worst = parity(module, trial, images)
            if not worst <= allowed:
                raise ValueError(
                    f"the exported graph differs from torch by {worst:.2e}, more than {allowed:.0e}: not written"
                )
        trial.replace(out)
    finally:
        trial.unlink(missing_ok=True)
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    return summary | {"parity": worst, "bytes": out.stat().st_size, "sha256": digest}
