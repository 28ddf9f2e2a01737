"""Blend face crops into canvases: one after the other on a CPU, in a few dozen large operations on a GPU.

Both ways give the same canvases. Where a face goes, its window and its resolution are known on the host from the
layout, so that nothing is read back from the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wm3dr_training.bank import CROP_SIZE, FACE_SIZE, FaceBank
from wm3dr_training.sampling import inverse_affines, map_points, sample_window

FINE_FROM = 80.0  # px: larger faces are cut from the fine crops, where there are any
WHOLE_REACH = 2.0  # half side of such a paste over half side of the crop: everything
RECTANGLE_SHARE = 0.3  # of the pastes; the others are ellipses
BLACK_SHARE = 0.15  # of the pastes show the black outside the photo, too
SMALLEST_WINDOW = 32  # px, side of the windows that are blended together


@dataclass
class Pastes:
    """Faces to blend, in the order of blending.

    Host: canvas, row (of the bank), x, y (centre, px), size (px, longer side of the landmark box), reach (half side
    of the paste over half side of the crop). Device: affine (F, 2, 3) crop px → canvas px, gain (F, 3) of the
    channels, draws (F, 3) uniform: shape, feather, black border.
    """

    canvas: list[int]
    row: list[int]
    x: list[float]
    y: list[float]
    size: list[float]
    reach: list[float]
    affine: Tensor
    gain: Tensor
    draws: Tensor

    def __len__(self) -> int:
        return len(self.canvas)

    def box(self, k: int, side: int) -> tuple[int, int, int, int]:
        """Part of a canvas of `side`² that a paste can reach, (x0, y0, x1, y1) whole px."""
        radius = 1.45 * self.reach[k] * self.size[k]  # the paste's half diagonal
        x0, y0 = max(0, math.floor(self.x[k] - radius)), max(0, math.floor(self.y[k] - radius))
        return x0, y0, min(side, math.ceil(self.x[k] + radius)), min(side, math.ceil(self.y[k] + radius))


def paste_faces(canvases: Tensor, bank: FaceBank, fine_row: list[int], pastes: Pastes) -> None:
    """Blend into canvases (B, 3, H, H) in place; fine_row (n,) is the bank's, on the host."""
    (paste_one_by_one if canvases.device.type == "cpu" else paste_together)(canvases, bank, fine_row, pastes)


def paste_one_by_one(canvases: Tensor, bank: FaceBank, fine_row: list[int], pastes: Pastes) -> None:
    """`paste_faces` with windows of just the size that each face needs."""
    for k in range(len(pastes)):
        x0, y0, x1, y1 = pastes.box(k, canvases.shape[-1])
        if x1 <= x0 or y1 <= y0:
            continue
        fine = _is_fine(pastes, fine_row, k)
        source = bank.fine[fine_row[pastes.row[k]]] if fine else bank.images[pastes.row[k]]
        index = torch.tensor([k], device=canvases.device)
        origin = pastes.affine.new_tensor([[x0, y0]])
        window = (y1 - y0, x1 - x0)
        pixels, alpha = _patches(source[None], bank, pastes, index, origin, window, _octave(pastes, fine, k))
        region = canvases[pastes.canvas[k], :, y0:y1, x0:x1]
        region.copy_(alpha[0] * pixels[0] + (1 - alpha[0]) * region)


def paste_together(canvases: Tensor, bank: FaceBank, fine_row: list[int], pastes: Pastes) -> None:
    """`paste_faces` in groups: windows of the same side and resolution are resampled together, the k-th faces of all
    canvases blended together.
    """
    side, device = canvases.shape[-1], canvases.device
    boxes = [pastes.box(k, side) for k in range(len(pastes))]
    groups: dict[tuple[int, bool, int], list[int]] = {}
    rank, seen = [], {}
    for k, (x0, y0, x1, y1) in enumerate(boxes):
        seen[pastes.canvas[k]] = seen.get(pastes.canvas[k], -1) + 1
        rank.append(seen[pastes.canvas[k]])
        if x1 > x0 and y1 > y0:
            needed = max(x1 - x0, y1 - y0, SMALLEST_WINDOW)
            window = min(side, 2 ** math.ceil(math.log2(needed)))
            fine = _is_fine(pastes, fine_row, k)
            groups.setdefault((window, fine, _octave(pastes, fine, k)), []).append(k)
    blends: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for (window, fine, octave), members in groups.items():
        index = torch.tensor(members, device=device)
        rows = torch.tensor([pastes.row[k] for k in members], device=device)
        source = bank.fine[bank.fine_row[rows]] if fine else bank.images[rows]
        bounds = torch.tensor([boxes[k] for k in members], device=device)  # (m, 4)
        pixels, alpha = _patches(source, bank, pastes, index, bounds[:, :2].float(), (window, window), octave)
        offset = torch.arange(window, device=device)
        x, y = bounds[:, 0, None] + offset, bounds[:, 1, None] + offset  # (m, w)
        inside = (y < bounds[:, 3, None])[:, :, None] & (x < bounds[:, 2, None])[:, None]
        canvas = torch.tensor([pastes.canvas[k] for k in members], device=device)
        place = (canvas[:, None, None] * side + y[:, :, None]) * side + x[:, None]  # in (B, H, H)
        place = torch.where(inside, place, len(canvases) * side * side)  # outside: a place that nobody reads
        ranks = [rank[k] for k in members]
        for turn in sorted(set(ranks)):
            part = torch.tensor([j for j, r in enumerate(ranks) if r == turn], device=device)
            blends.setdefault(turn, []).append((place[part], pixels[part], alpha[part]))
    flat = torch.cat([canvases.transpose(0, 1).reshape(3, -1), canvases.new_zeros(3, 1)], dim=1)
    for turn in sorted(blends):
        for place, pixels, alpha in blends[turn]:
            below = flat[:, place]  # (3, m, w, w)
            alpha = alpha.transpose(0, 1)
            flat[:, place] = alpha * pixels.transpose(0, 1) + (1 - alpha) * below
    canvases.copy_(flat[:, :-1].view(3, len(canvases), side, side).transpose(0, 1))


def _is_fine(pastes: Pastes, fine_row: list[int], k: int) -> bool:
    return pastes.size[k] > FINE_FROM and fine_row[pastes.row[k]] >= 0


def _octave(pastes: Pastes, fine: bool, k: int) -> int:
    """Octave by which the crop is reduced before it is resampled."""
    stored = (2 if fine else 1) * FACE_SIZE / pastes.size[k]  # stored px per canvas px
    return round(math.log2(max(1.0, stored)))


def _patches(
    source: Tensor,
    bank: FaceBank,
    pastes: Pastes,
    index: Tensor,
    origin: Tensor,
    window: tuple[int, int],
    octave: int,
) -> tuple[Tensor, Tensor]:
    """Pixels (M, 3, h, w) and opacity (M, 1, h, w) of pastes `index` (M,) in windows at `origin` (M, 2) canvas px.

    source (M, S, S, 3) uint8: their crops.
    """
    affine, (height, width) = pastes.affine[index], window
    pixels = sample_window(source.permute(0, 3, 1, 2).float(), affine, window, CROP_SIZE, origin, octave=octave)
    pixels = pixels * pastes.gain[index][:, :, None, None]
    v, u = torch.meshgrid(
        torch.arange(height, device=affine.device) + 0.5, torch.arange(width, device=affine.device) + 0.5, indexing="ij"
    )
    grid = torch.stack([u, v], dim=-1).view(1, -1, 2) + origin[:, None]
    at = map_points(inverse_affines(affine), grid)  # (M, h w, 2) crop px of each pixel
    unit = (at / (CROP_SIZE / 2) - 1).abs()
    kind, feather, keep = (pastes.draws[index, j, None] for j in range(3))
    feather = 0.01 + 0.12 * feather
    distance = torch.where(kind < RECTANGLE_SHARE, unit.amax(-1), unit.norm(dim=-1))
    reach = torch.tensor(pastes.reach, device=affine.device)[index, None]
    alpha = ((reach - distance) / feather).clamp(0, 1)
    low, high = bank.covered[torch.tensor(pastes.row, device=affine.device)[index]].view(-1, 1, 2, 2).unbind(2)
    border = torch.minimum(at - low, high - at).amin(-1) / (1 + feather * CROP_SIZE / 4)
    alpha = torch.where(keep < 1 - BLACK_SHARE, alpha * border.clamp(0, 1), alpha)
    alpha = torch.where(reach == WHOLE_REACH, 1.0, alpha)
    return pixels, alpha.view(-1, 1, height, width)
