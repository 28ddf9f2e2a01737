"""Coefficient targets from per-photo fits (`data.fits`), and a photometric term without rasterization (profile `fast`).

The targets are compared where coefficients act, not number by number: identity and expression as displacements of
surface points, rotation as the displacement it gives them, all in per cent of a face's size; albedo as colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from wm3dr import ModelError
from wm3dr_training.bank import CROP_SIZE, FaceBank
from wm3dr_training.composer import Batch
from wm3dr_training.decoder import Faces
from wm3dr_training.layers import (
    FaceModel,
    PointRows,
    illumination_from_rows,
    project,
    rotations_from_vectors,
    shading,
    transform,
)

FACE_MM = 150.0  # longer side of the landmark box of the mean face, near enough
FAITHFUL_SIZE = 120.0  # px: a larger face is nearer to the camera than in its fit, so its shape differs a little
N_COLORS = 320  # triangles whose colours are compared in a step
FACING = 0.3  # least cosine between normal and line of sight
COLOR_REGIONS = ("skin", "nose", "left_brow", "right_brow", "upper_lip", "lower_lip", "left_eyelids", "right_eyelids")
PLAIN_REGIONS = ("skin", "nose")  # those that a skin mask covers


@dataclass
class Fits:
    """Fits of the photos of a bank, row by row.

    identity (n, K_id), expression (n, K_exp), rotation (n, 3, 3) relative to the viewing ray, albedo (n, K_alb),
    shape_weight (n,) and color_weight (n,): 0 where there is no fit.
    """

    identity: Tensor
    expression: Tensor
    rotation: Tensor
    albedo: Tensor
    shape_weight: Tensor
    color_weight: Tensor

    def to(self, device: torch.device) -> Fits:
        """The same fits on another device."""
        return Fits(**{name: value.to(device) for name, value in self.__dict__.items()})

    @classmethod
    def joined(cls, parts: list[Fits]) -> Fits:
        """The rows of all parts, in order."""
        names = parts[0].__dict__
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def load_fits(folder: Path, source: str, rows: NDArray[np.int64], face_model_sha256: str | None = None) -> Fits:
    """Read rows of `fit_SOURCE.npz`.

    Raises
    ------
    FileNotFoundError
        The source has not been fitted.
    wm3dr.ModelError
        The file says that it was fitted with another face model than `face_model_sha256`.
    """
    path = folder / f"fit_{source}.npz"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run 'wm3dr-train label --fits' for the source {source!r} first")
    with np.load(path) as table:
        fitted = str(table["face_model_sha256"]) if "face_model_sha256" in table else None
        if None not in (fitted, face_model_sha256) and fitted != face_model_sha256:
            raise ModelError(
                f"{path} holds fits of another face model (sha256 {fitted[:12]}…) than 'face_model' "
                f"({face_model_sha256[:12]}…): delete it and run 'wm3dr-train label --face-model FILE' again"
            )
        values = {
            name: torch.from_numpy(table[name][rows]) for name in ("identity", "expression", "rotation", "albedo")
        }
        weight = np.isfinite(table["residual"][rows]).astype(np.float32)
        color = np.isfinite(table["color_error"][rows]).astype(np.float32)
    return Fits(**values, shape_weight=torch.from_numpy(weight), color_weight=torch.from_numpy(color))


def bank_fits(folder: Path, bank: FaceBank, face_model_sha256: str | None = None) -> Fits:
    """The fits of every row of a bank, on its device; raises as `load_fits`."""
    parts = []
    for number, source in enumerate(bank.sources):
        rows = bank.photo[bank.source == number].cpu().numpy()
        if len(rows):
            parts.append(load_fits(folder, source, rows, face_model_sha256))
    return Fits.joined(parts).to(bank.images.device)


def mirror_matrix(basis: Tensor, partner: Tensor, flips: bool) -> Tensor:
    """Coefficients of the mirrored face from those of the face: (K, K), `c' = c @ M`.

    basis (N, 3, K); partner (N,) vertex on the other side; flips: x changes sign (shapes, not colours).
    """
    sign = basis.new_tensor((-1.0, 1.0, 1.0) if flips else (1.0, 1.0, 1.0))
    mirrored = (basis[partner] * sign[:, None]).flatten(0, 1)  # (3N, K)
    flat = basis.flatten(0, 1)
    gram = flat.T @ flat
    damped = gram + 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
    return torch.linalg.solve(damped.double(), (flat.T @ mirrored).double()).float().T


class FitTargets(nn.Module):
    """The terms `identity`, `expression`, `rotation`, `albedo` against a bank's fits."""

    def __init__(self, face_model: FaceModel, fits: Fits, points: PointRows) -> None:
        super().__init__()
        self.fits, self.n_identity = fits, face_model.layout.identity
        self.register_buffer("mean", points.mean, persistent=False)
        self.register_buffer("basis", points.basis, persistent=False)
        arguments = (
            ("identity_mirror", face_model.identity_basis, True),
            ("expression_mirror", face_model.expression_basis, True),
            ("albedo_mirror", face_model.albedo_basis, False),
        )
        for name, basis, flips in arguments:
            self.register_buffer(name, mirror_matrix(basis, face_model.mirror, flips), persistent=False)
        names = face_model.metadata.region_names
        inner = [k for k, name in enumerate(names) if name in COLOR_REGIONS] or list(range(len(names)))
        chosen = torch.isin(face_model.regions, torch.tensor(inner, device=face_model.regions.device)).nonzero()[:, 0]
        chosen = chosen[:: max(1, len(chosen) // N_COLORS)]
        self.register_buffer("albedo_rows", face_model.albedo_basis[chosen].flatten(0, 1), persistent=False)

    def forward(self, faces: Faces, batch: Batch, face: Tensor) -> dict[str, Tensor]:
        """Unweighted terms; `face` (M,) is the batch's face that each row of `faces` shows."""
        row, mirrored = batch.bank_index[face], batch.mirrored[face][:, None]
        faithful = (FAITHFUL_SIZE / batch.sizes[face]).clamp_max(1.0)
        weight = self.fits.shape_weight[row] * faithful
        terms = {}
        for name, basis, mirror in (
            ("identity", self.basis[:, : self.n_identity], self.identity_mirror),
            ("expression", self.basis[:, self.n_identity :], self.expression_mirror),
        ):
            target = getattr(self.fits, name)[row]
            target = torch.where(mirrored, target @ mirror, target)
            moved = ((faces.groups[name] - target) @ basis.T).view(len(row), -1, 3)
            terms[name] = _displacement(moved, weight)
        wanted = self.rotations(batch, face)
        own = rotations_from_vectors(faces.groups["rotation"])
        centred = self.mean - self.mean.mean(0)
        terms["rotation"] = _displacement(centred @ (own - wanted).transpose(1, 2), self.fits.shape_weight[row])
        target = self.fits.albedo[row]
        target = torch.where(mirrored, target @ self.albedo_mirror, target)
        difference = ((faces.groups["albedo"] - target) @ self.albedo_rows.T).view(len(row), -1, 3)
        color_weight = self.fits.color_weight[row]
        distance = (difference.square().sum(-1) + 1e-5).sqrt().mean(1)
        terms["albedo"] = 100.0 * (color_weight * distance).sum() / color_weight.sum().clamp_min(1.0)
        return terms

    def rotations(self, batch: Batch, face: Tensor) -> Tensor:
        """Fitted rotations relative to the viewing ray as the faces stand on the canvas, (M, 3, 3)."""
        rotation = self.fits.rotation[batch.bank_index[face]]
        flip = rotation.new_tensor((-1.0, 1.0, 1.0))
        mirrored = batch.mirrored[face][:, None, None]
        rotation = torch.where(mirrored, flip[:, None] * rotation * flip, rotation)
        linear = batch.affine[face][:, :, :2]  # a turn times a scale, times a flip of x when mirrored
        sin, cos = -linear[:, 0, 1], linear[:, 1, 1]  # its second column is (−sin, cos) whether mirrored or not
        length = torch.hypot(sin, cos)
        sin, cos, zero = sin / length, cos / length, torch.zeros_like(sin)
        turn = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, zero + 1], dim=1).view(-1, 3, 3)
        return turn @ rotation


class SparseColors(nn.Module):
    """Mean absolute difference, 0–100, between decoded colours and the photo at a random few hundred triangles.

    A photometric term for every face of a batch at the cost of a few hundred points: no rasterization, positions and
    normals without gradient, so that only albedo and light answer for colours. Occlusion by the face itself is
    excluded by the normals and the skin mask alone.
    """

    def __init__(self, face_model: FaceModel, skin: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.face_model, self.skin, self.generator = face_model, skin, generator
        names, regions = face_model.metadata.region_names, face_model.regions
        labels = [k for k, name in enumerate(names) if name in PLAIN_REGIONS]
        corners = face_model.triangles
        inside = torch.isin(regions, torch.tensor(labels, device=regions.device))[corners].all(1)
        self.candidates = inside.nonzero()[:, 0]
        a, b, c = (face_model.mean_shape[corners[self.candidates, k]] for k in range(3))
        self.areas = torch.linalg.cross(b - a, c - a).norm(dim=1)

    def forward(self, faces: Faces, batch: Batch, face: Tensor) -> Tensor:
        """Scalar; `face` (M,) is the batch's face that each row of `faces` shows."""
        model = self.face_model
        picked = torch.multinomial(self.areas, min(N_COLORS, len(self.areas)), generator=self.generator)
        corners = model.triangles[self.candidates[picked]].flatten()  # (3 P,)
        groups, count = faces.groups, len(face)
        with torch.no_grad():
            basis = torch.cat([model.identity_basis[corners], model.expression_basis[corners]], dim=2).flatten(0, 1)
            offsets = torch.cat([groups["identity"], groups["expression"]], dim=1) @ basis.T
            shape = model.mean_shape[corners] + offsets.view(count, -1, 3)
            vertices = transform(shape, faces.rotations, faces.translations).view(count, -1, 3, 3)
            normals = torch.linalg.cross(vertices[:, :, 1] - vertices[:, :, 0], vertices[:, :, 2] - vertices[:, :, 0])
            normals = functional.normalize(normals, dim=-1)
            middle = vertices.mean(2)
            facing = -(normals * functional.normalize(middle, dim=-1)).sum(-1)
            pixels = project(middle, faces.principal_point)  # (M, P, 2)
            seen = (facing > FACING).float() * facing.clamp(0, 1)
            seen = seen * self._skin(batch, face, pixels) * _sampled(batch.clear, batch.image_index[face], pixels)[:, 0]
            photo = _sampled(batch.images, batch.image_index[face], pixels).transpose(1, 2) / 255.0
        reflect = model.mean_albedo[corners] + (groups["albedo"] @ model.albedo_basis[corners].flatten(0, 1).T).view(
            count, -1, 3
        )
        reflect = reflect.view(count, -1, 3, 3).mean(2)
        light = illumination_from_rows(groups["illumination"])
        color = reflect * shading(normals * normals.new_tensor((1.0, -1.0, -1.0)), light)
        difference = (color - photo).abs().mean(-1)
        return 100.0 * (seen * difference).sum() / seen.sum().clamp_min(1.0)

    def _skin(self, batch: Batch, face: Tensor, pixels: Tensor) -> Tensor:
        """(M, P): 1 where the face's own skin mask says skin."""
        affine = batch.affine[face]
        inverse = torch.linalg.inv(affine[:, :, :2])
        crop = (pixels - affine[:, None, :, 2]) @ inverse.transpose(1, 2)  # crop px
        masks = self.skin[batch.bank_index[face]][:, None].float() / 255.0
        grid = (crop / CROP_SIZE * 2 - 1)[:, None]
        return (functional.grid_sample(masks, grid, align_corners=False)[:, 0, 0] > 0.9).float()


def _sampled(images: Tensor, index: Tensor, pixels: Tensor) -> Tensor:
    """Bilinear samples (M, C, P) of images (B, C, H, W) at pixels (M, P, 2) of image `index` (M,); 0 outside.

    The four pixels around each point are gathered: `grid_sample` would want a copy of the image for every row.
    """
    height, width = images.shape[-2:]
    corner = (pixels - 0.5).floor()
    share = pixels - 0.5 - corner  # of the pixel to the right and below
    total = images.new_zeros(len(index), pixels.shape[1], images.shape[1])
    for right, below in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = corner[..., 0] + right, corner[..., 1] + below
        weight = (share[..., 0] - (1 - right)).abs() * (share[..., 1] - (1 - below)).abs()
        weight = weight * ((x >= 0) & (x < width) & (y >= 0) & (y < height))
        column, row = x.clamp(0, width - 1).long(), y.clamp(0, height - 1).long()
        total = total + weight[..., None] * images[index[:, None], :, row, column]
    return total.transpose(1, 2)


def _displacement(moved: Tensor, weight: Tensor) -> Tensor:
    """Mean length of displacements (M, P, 3) mm in per cent of a face's size, faces weighted by (M,)."""
    length = ((moved / FACE_MM).square().sum(-1) + 4e-6).sqrt().mean(1)
    return 100.0 * (weight * length).sum() / weight.sum().clamp_min(1e-3)
