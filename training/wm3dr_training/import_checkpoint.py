"""The WM3DR authors' `final.pth` -> our ONNX, for a face model made from BFM 2009 (METHOD.md, decisions on camera).

Their frame is x right, y up, z forward with Euler angles `Rz Ry Rx` of a model that looks along +z, so that
`R_ours = D Rz Ry Rx`, `D = diag(1, −1, −1)`; their second translation output points up; one unit is 100 mm. Their
demo feeds BGR frames normalised with the RGB statistics in that order. All of it is put into the graph, so that
the file obeys the contract. (They pad a photo to a square before they scale it to 512²; ours is letterboxed, and the
principal point is the centre of the photo.)
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import wm3dr
from wm3dr_training.encoder import Encoder, Layout
from wm3dr_training.export import contract_metadata, export_module, parity

AUTHORS_LAYOUT = Layout(identity=80, expression=64, albedo=80)  # rows of 257
LICENCE = (
    "Weights of kalyo-zjl/WM3DR (no licence stated), for a model made from Basel Face Model 2009 (non-commercial): "
    "ask both authors before passing this file on."
)
_PREFIXES = (
    (re.compile(r"(conv1|bn1|layer[1-4])\."), "backbone."),
    (re.compile(r"(p[345]|p[345]_l2|feat|feat_bn)\."), "neck."),
    (re.compile(r"hm\."), "heatmap."),
    (re.compile(r"params\."), "coefficients."),
)
_LARGEST_DIFFERENCE = 1e-3


def renamed_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their state dict under our names; a classifier (`fc.*`) is dropped, a `module.` prefix taken off.

    Raises
    ------
    ValueError
        A name is none of theirs.
    """
    renamed = {}
    for name, tensor in state.items():
        name = name.removeprefix("module.")
        if name.startswith("fc."):
            continue
        prefix = next((ours for pattern, ours in _PREFIXES if pattern.match(name)), None)
        if prefix is None:
            raise ValueError(f"the checkpoint has {name!r}, which is no parameter of WM3DR's ResNet-50")
        inner = name.partition(".")[2] if prefix in ("heatmap.", "coefficients.") else name
        renamed[prefix + inner] = tensor
    return renamed


def rotation_vectors_from_euler(angles: Tensor) -> Tensor:
    """Their Euler angles -> our rotation vectors against the optical axis (CONVENTIONS.md §2), per cell.

    `exp([ρ]×) = D Rz(z) Ry(y) Rx(x) D = Rz(−z) Ry(−y) Rx(x)`; by the unit quaternion, with operations that ONNX has.
    angles (B, 3, h, w) rad -> (B, 3, h, w) rad, of length at most π.
    """
    half = 0.5 * angles * angles.new_tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1)
    cx, cy, cz = torch.cos(half).split(1, dim=1)
    sx, sy, sz = torch.sin(half).split(1, dim=1)
    w = cx * cy * cz + sx * sy * sz
    v = torch.cat(
        [sx * cy * cz - cx * sy * sz, cx * sy * cz + sx * cy * sz, cx * cy * sz - sx * sy * cz], dim=1
    )  # of q_z q_y q_x
    sign = torch.where(w < 0, -torch.ones_like(w), torch.ones_like(w))
    length = ((v * v).sum(dim=1, keepdim=True) + 1e-20).sqrt()
    angle = 2 * torch.atan(length / (w * sign).clamp_min(1e-12))
    return v * sign * (angle / length)


class ImportedEncoder(nn.Module):
    """RGB 0–255 -> probabilities and rows of our contract, by the authors' network."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        heatmap, raw = self.encoder(torch.cat([image[:, 2:3], image[:, 1:2], image[:, 0:1]], dim=1))
        widths = [width for _, width in AUTHORS_LAYOUT.groups]
        identity, expression, albedo, euler, illumination, translation = torch.split(raw, widths, dim=1)
        right, up, depth = translation.split(1, dim=1)
        rotation = rotation_vectors_from_euler(euler)
        rows = torch.cat([identity, expression, albedo, rotation, illumination, right, -up, depth], dim=1)
        return torch.sigmoid(heatmap), rows


def authors_encoder(state: dict[str, Tensor]) -> Encoder:
    """Our ResNet-50 encoder with their weights.

    Raises
    ------
    ValueError
        Names or shapes are not those of WM3DR's ResNet-50.
    """
    encoder = Encoder("resnet50", AUTHORS_LAYOUT, blendshapes=False)
    renamed = renamed_state(state)
    wanted = encoder.state_dict()
    counters = {
        name for name in wanted if name.endswith("num_batches_tracked")
    }  # absent before PyTorch 0.4.1, not used
    missing = sorted(set(wanted) - set(renamed) - counters)
    surplus = sorted(set(renamed) - set(wanted))
    if missing or surplus:
        raise ValueError(
            f"not WM3DR's ResNet-50: {len(missing)} tensors are missing {missing[:3]}, "
            f"{len(surplus)} are unknown {surplus[:3]}"
        )
    for name, tensor in renamed.items():
        if tensor.shape != wanted[name].shape:
            raise ValueError(f"tensor {name!r} has shape {tuple(tensor.shape)}, expected {tuple(wanted[name].shape)}")
    encoder.load_state_dict({**{name: wanted[name] for name in counters}, **renamed})
    return encoder.eval()


def import_authors_checkpoint(checkpoint: Path, face_model_path: Path, out: Path) -> dict[str, Any]:
    """Write `final.pth` as an encoder file; returns a summary with the parity between torch and onnxruntime.

    Raises
    ------
    FileNotFoundError
        The checkpoint or the face model is missing.
    ValueError
        The checkpoint is of another form, the face model has other widths than 80 | 64 | 80, or the graph disagrees
        with torch.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(f"'checkpoint' {checkpoint} does not exist")
    face_model = wm3dr.FaceModel.load(face_model_path)
    widths = {name: width for name, width in AUTHORS_LAYOUT.groups if name in face_model.widths}
    if dict(face_model.widths) != widths:
        raise ValueError(
            f"'face_model' {face_model.name!r} has widths {dict(face_model.widths)}, the checkpoint needs {widths}: "
            "make one with `wm3dr face-model import-bfm BFM_model_front.mat OUT`"
        )
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"'checkpoint' {checkpoint} cannot be read: {error}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"'checkpoint' {checkpoint} holds no state dict")
    module = ImportedEncoder(authors_encoder(state)).eval()
    training = {"imported_from": "kalyo-zjl/WM3DR final.pth", "epoch": int(content.get("epoch", -1))}
    metadata = contract_metadata(face_model.name, face_model.sha256, AUTHORS_LAYOUT, "camera", LICENCE, training)
    out.parent.mkdir(parents=True, exist_ok=True)
    trial = out.with_suffix(".partial.onnx")
    try:
        export_module(module, trial, metadata)
        generator = torch.Generator().manual_seed(0)
        worst = parity(module, trial, [255 * torch.rand((1, 3, 64, 96), generator=generator)])
        if worst > _LARGEST_DIFFERENCE:
            raise ValueError(f"the exported graph differs from torch by {worst:.2e}: not written")
        trial.replace(out)
    finally:
        trial.unlink(missing_ok=True)
    return training | {"parity": worst, "bytes": out.stat().st_size, "encoder": str(out)}
