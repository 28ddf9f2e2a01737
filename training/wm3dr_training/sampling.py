"""Affine maps between crops, canvases and windows, and resampling along them: `p_out = A[:, :2] p_in + A[:, 2]`.

(0, 0) is the outer corner of the first pixel (CONVENTIONS.md §1).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from wm3dr_training.bank import CROP_SIZE, FACE_SIZE


def crop_affines(target: Tensor, sizes: Tensor, angles: Tensor, mirrored: Tensor) -> Tensor:
    """Crop px → canvas px: the crop's centre goes to `target` (F, 2), its face side to `sizes` (F,), turned by
    `angles` (F,) rad; (F, 2, 3).

    `mirrored` (F,) bool: flipped left to right first.
    """
    scale = sizes / FACE_SIZE
    cos, sin = scale * torch.cos(angles), scale * torch.sin(angles)
    flip = torch.where(mirrored, -1.0, 1.0)
    linear = torch.stack([torch.stack([cos * flip, -sin], -1), torch.stack([sin * flip, cos], -1)], dim=-2)  # (F, 2, 2)
    middle = torch.full((2,), CROP_SIZE / 2, device=target.device)
    return torch.cat([linear, (target - linear @ middle)[..., None]], dim=-1)


def map_points(affine: Tensor, points: Tensor) -> Tensor:
    """(F, 2, 3) applied to (F, P, 2)."""
    return points @ affine[:, :, :2].transpose(1, 2) + affine[:, None, :, 2]


def inverse_affines(affine: Tensor) -> Tensor:
    """Inverses of (F, 2, 3) affines."""
    inverse = torch.linalg.inv(affine[:, :, :2])
    return torch.cat([inverse, -inverse @ affine[:, :, 2:]], dim=2)


def compose_affines(outer: Tensor, inner: Tensor) -> Tensor:
    """`outer ∘ inner` of (F, 2, 3) affines."""
    linear = outer[:, :, :2] @ inner[:, :, :2]
    return torch.cat([linear, outer[:, :, :2] @ inner[:, :, 2:] + outer[:, :, 2:]], dim=2)


def sample_window(
    images: Tensor,
    affine: Tensor,
    size: int | tuple[int, int],
    frame: float,
    origin: Tensor | None = None,
    padding: str = "border",
    octave: int | None = None,
) -> Tensor:
    """Resample images (F, C, S, S) to windows (F, C, h, w), antialiased by whole octaves.

    affine (F, 2, 3): px of a frame of `frame`² that the image fills, whatever its stored resolution S → window px;
    size: side or (h, w); origin (F, 2): added to the window's pixel positions (for a window that is a part of a
    larger canvas); octave: of the reduction where it is known, the same for all; else it is worked out, which on a
    GPU waits for it.
    """
    height, width = (size, size) if isinstance(size, int) else size
    y, x = torch.meshgrid(
        torch.arange(height, device=images.device) + 0.5, torch.arange(width, device=images.device) + 0.5, indexing="ij"
    )
    grid = torch.stack([x, y], dim=-1).view(1, -1, 2).expand(len(images), -1, -1)
    if origin is not None:
        grid = grid + origin[:, None]
    inverse = inverse_affines(affine)
    grid = (map_points(inverse, grid) / frame * 2 - 1).view(len(images), height, width, 2)

    def sampled(source: Tensor, level: int, at: Tensor) -> Tensor:
        reduced = functional.avg_pool2d(source, 2 ** min(level, 4)) if level else source
        return functional.grid_sample(reduced, at, mode="bilinear", padding_mode=padding, align_corners=False)

    if octave is not None:
        return sampled(images, octave, grid)
    scale = torch.linalg.det(inverse[:, :, :2]).abs().sqrt() * images.shape[-1] / frame  # stored px per window px
    octaves = torch.log2(scale.detach().clamp_min(1.0)).round().long()
    out = images.new_zeros(len(images), images.shape[1], height, width)
    for level in octaves.unique().tolist():
        rows = (octaves == level).nonzero()[:, 0]
        part = sampled(images[rows], level, grid[rows])
        out = part if len(rows) == len(images) else out.index_copy(0, rows, part)
    return out
