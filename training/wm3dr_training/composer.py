"""Batches for both stages, composed on the device that holds the face bank (METHOD.md, training).

Stage 1: one face at the centre. Stage 2: canvases with many faces at log-uniform scales, pasted onto backgrounds. Landmarks, centres and
masks go through the same affine maps as the pixels: `p_canvas = A[:, :2] p_crop + A[:, 2]`, with (0, 0) the outer corner of the first pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from wm3dr_training.augment import augment, uniform
from wm3dr_training.bank import FACE_SIZE, FaceBank
from wm3dr_training.encoder import STRIDE


@dataclass
class Batch:
    """What a training step sees.

    images (B, 3, H, W) float 0–255; image_index (F,) canvas of each face; points (F, P, 2) canvas px; weights (F, P), 0 where a point is
    missing or outside; centers (F, 2) px; sizes (F,) px, the longer side of the landmark box; bank_index (F,) row of the bank; mirrored (F,)
    bool; affine (F, 2, 3) crop px → canvas px; heatmap (B, 1, h, w), 1 at centres, Gaussian around, −1 to ignore; principal_point (B, 2) px.
    """

    images: Tensor
    image_index: Tensor
    points: Tensor
    weights: Tensor
    centers: Tensor
    sizes: Tensor
    bank_index: Tensor
    mirrored: Tensor
    affine: Tensor
    heatmap: Tensor
    principal_point: Tensor


def crop_affines(bank: FaceBank, target: Tensor, sizes: Tensor, angles: Tensor, mirrored: Tensor) -> Tensor:
    """Crop px → canvas px: the crop's centre goes to `target` (F, 2), its face side to `sizes` (F,), turned by `angles` (F,) rad; (F, 2, 3).

    `mirrored` (F,) bool: flipped left to right first.
    """
    scale = sizes / FACE_SIZE * (bank.images.shape[1] / bank.images.shape[1])
    cos, sin = scale * torch.cos(angles), scale * torch.sin(angles)
    flip = torch.where(mirrored, -1.0, 1.0)
    linear = torch.stack([torch.stack([cos * flip, -sin], -1), torch.stack([sin * flip, cos], -1)], dim=-2)  # (F, 2, 2)
    middle = torch.full((2,), bank.images.shape[1] / 2, device=target.device)
    return torch.cat([linear, (target - linear @ middle)[..., None]], dim=-1)


def map_points(affine: Tensor, points: Tensor) -> Tensor:
    """(F, 2, 3) applied to (F, P, 2)."""
    return points @ affine[:, :, :2].transpose(1, 2) + affine[:, None, :, 2]


def face_points(bank: FaceBank, index: Tensor, affine: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
    """Points and weights of bank rows on the canvas; a mirrored face swaps left and right points."""
    points, weights = map_points(affine, bank.points[index]), bank.weights[index]
    points = torch.where(mirrored[:, None, None], points[:, bank.mirror], points)
    return points, torch.where(mirrored[:, None], weights[:, bank.mirror], weights)


def _inverse(affine: Tensor) -> Tensor:
    inverse = torch.linalg.inv(affine[:, :, :2])
    return torch.cat([inverse, -inverse @ affine[:, :, 2:]], dim=2)


def sample_crops(crops: Tensor, affine: Tensor, size: tuple[int, int], origin: Tensor | None = None) -> Tensor:
    """Resample crops (F, C, S, S) to windows (F, C, h, w) of the canvas, antialiased by whole octaves.

    affine (F, 2, 3) crop px → canvas px; size (h, w); origin (F, 2): canvas px of the windows' top-left corners.
    """
    height, width = size
    side = crops.shape[-1]
    y, x = torch.meshgrid(
        torch.arange(height, device=crops.device) + 0.5, torch.arange(width, device=crops.device) + 0.5, indexing="ij"
    )
    grid = torch.stack([x, y], dim=-1).view(1, -1, 2).expand(len(crops), -1, -1)
    if origin is not None:
        grid = grid + origin[:, None]
    inverse = _inverse(affine)
    grid = (map_points(inverse, grid) / side * 2 - 1).view(len(crops), height, width, 2)
    scale = torch.linalg.det(inverse[:, :, :2]).abs().sqrt()  # crop px per canvas px
    octave = torch.log2(scale.clamp_min(1.0)).round().long()
    out = crops.new_empty(len(crops), crops.shape[1], height, width)
    for level in octave.unique().tolist():
        rows = (octave == level).nonzero()[:, 0]
        source = crops[rows] if level == 0 else functional.avg_pool2d(crops[rows], 2 ** min(level, 4))
        out[rows] = functional.grid_sample(source, grid[rows], mode="bilinear", padding_mode="border", align_corners=False)
    return out


def gaussian_heatmap(batch: int, cells: tuple[int, int], image_index: Tensor, centers: Tensor, sizes: Tensor) -> Tensor:
    """Target of the centre loss: 1 at the cell of each centre, Gaussian-reduced around it (σ = 6 % of the face), maximum over faces."""
    height, width = cells
    y = (torch.arange(height, device=centers.device) + 0.5) * STRIDE
    x = (torch.arange(width, device=centers.device) + 0.5) * STRIDE
    target = torch.zeros(batch, height, width, device=centers.device)
    if not len(centers):
        return target[:, None]
    cell = (centers / STRIDE).floor().long()
    inside = (cell >= 0).all(1) & (cell[:, 0] < width) & (cell[:, 1] < height)
    middle = (cell + 0.5) * STRIDE
    sigma = (0.06 * sizes).clamp_min(0.35 * STRIDE)
    bump = torch.exp(-0.5 * ((y[None, :, None] - middle[:, 1, None, None]) ** 2 + (x[None, None] - middle[:, 0, None, None]) ** 2) / sigma[:, None, None] ** 2)
    for row in range(len(centers)):  # few faces a batch; the maximum over faces of one canvas
        index = image_index[row]
        target[index] = torch.maximum(target[index], bump[row].clamp_max(0.999))
    rows = inside.nonzero()[:, 0]
    target[image_index[rows], cell[rows, 1], cell[rows, 0]] = 1.0
    return target[:, None]


class SingleFaceComposer:
    """Stage 1: one face near the centre of a `size`² image (METHOD.md: aligned; here with rotation, scale and shift)."""

    def __init__(self, bank: FaceBank, size: int, generator: torch.Generator, strength: float = 1.0) -> None:
        self.bank, self.size, self.generator, self.strength = bank, size, generator, strength

    def batch(self, index: Tensor) -> Batch:
        """The batch of the given bank rows (B,)."""
        g, n = self.generator, len(index)
        sizes = self.size * uniform(g, (n,), 0.40, 0.78)
        angles = torch.randn((n,), generator=g, device=g.device) * math.radians(14)
        mirrored = torch.rand((n,), generator=g, device=g.device) < 0.5
        shift = uniform(g, (n, 2), -0.07, 0.07) * self.size
        affine = crop_affines(self.bank, self.size / 2 + shift, sizes, angles, mirrored)
        crops = self.bank.images[index].permute(0, 3, 1, 2).float()
        images = augment(sample_crops(crops, affine, (self.size, self.size)), g, self.strength)
        points, weights = face_points(self.bank, index, affine, mirrored)
        centers = self.size / 2 + shift
        image_index = torch.arange(n, device=index.device)
        cells = (self.size // STRIDE, self.size // STRIDE)
        return Batch(
            images,
            image_index,
            points,
            weights,
            centers,
            sizes,
            index,
            mirrored,
            affine,
            gaussian_heatmap(n, cells, image_index, centers, sizes),
            torch.full((n, 2), self.size / 2, device=index.device),
        )
