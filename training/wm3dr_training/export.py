"""Checkpoint -> ONNX by the encoder contract (CONVENTIONS.md §2–4), with parity measured; optional static int8 QDQ."""

from __future__ import annotations

import copy
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
from timm.layers import Conv2dSame
from torch import Tensor, nn

from wm3dr_training.checkpoint import load_checkpoint
from wm3dr_training.config import TrainConfig
from wm3dr_training.encoder import DEPTH_OFFSET, FOCAL, STRIDE, DeployedEncoder, Encoder, Layout
from wm3dr_training.layers import UNIT_MM, FaceModel

OPSET = 17
PARITY = 1e-3  # largest difference of heatmap and rows between torch and onnxruntime, relative to each group's spread
PEAK_WINDOW, PEAK_THRESHOLD = 5, 0.5
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
) -> dict[str, str]:
    """The strings that an encoder file carries (version 1 of the contract)."""
    return {
        "wm3dr_format": "wm3dr-encoder",
        "wm3dr_version": "1",
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
        "licence": licence,
        "training": json.dumps(training),
    }


class _StaticPadding(nn.Module):
    """A strided convolution with TensorFlow's padding for even inputs, whose amount is known: half before, rest after."""

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
    """Write a module image -> (heatmap, coefficients) as ONNX with dynamic batch, height and width; whole or not at
    all.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        temporary = Path(folder) / "encoder.onnx"
        torch.onnx.export(
            module,
            (torch.zeros(1, 3, 64, 96),),
            str(temporary),
            input_names=["image"],
            output_names=["heatmap", "coefficients"],
            dynamic_axes={
                "image": {0: "batch", 2: "height", 3: "width"},
                "heatmap": {0: "batch", 2: "rows", 3: "columns"},
                "coefficients": {0: "batch", 2: "rows", 3: "columns"},
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


def parity(module: nn.Module, path: Path, images: Iterable[Tensor]) -> float:
    """Largest difference between torch and onnxruntime over images (B, 3, H, W), each output over the spread of its
    channel.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for image in images:
        with torch.no_grad():
            expected = [value.numpy() for value in module(image)]
        for mine, its in zip(expected, session.run(None, {"image": image.numpy()}), strict=True):
            scale = np.maximum(np.abs(mine).max(axis=(0, 2, 3), keepdims=True), 1.0)
            worst = max(worst, float((np.abs(mine - its) / scale).max()))
    return worst


def export_checkpoint(checkpoint: Path, face_model_path: Path, out: Path, licence: str = LICENCE) -> dict[str, Any]:
    """Export a checkpoint's averaged encoder; returns a summary with the parity.

    Raises
    ------
    ValueError
        The exported graph disagrees with torch by more than `PARITY`; nothing is written then.
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
        face_model.metadata.name, face_model.sha256, face_model.layout, "ray", licence, summary
    )
    module = DeployedEncoder(encoder).eval()
    out.parent.mkdir(parents=True, exist_ok=True)
    trial = out.with_suffix(".partial.onnx")
    try:
        export_module(with_static_padding(module), trial, metadata)
        generator = torch.Generator().manual_seed(0)
        sizes = ((1, 3, 64, 96), (2, 3, 128, 64), (1, 3, 320, 256))
        worst = parity(module, trial, (255 * torch.rand(shape, generator=generator) for shape in sizes))
        if worst > PARITY:
            raise ValueError(
                f"the exported graph differs from torch by {worst:.2e}, more than {PARITY:.0e}: not written"
            )
        trial.replace(out)
    finally:
        trial.unlink(missing_ok=True)
    return summary | {"parity": worst, "bytes": out.stat().st_size}
