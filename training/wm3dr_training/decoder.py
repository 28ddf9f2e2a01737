"""Rows of the contract -> geometry on the canvas: the training twin of the runtime's pipeline, differentiable."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wm3dr_training.encoder import STRIDE, Layout
from wm3dr_training.layers import (
    PointRows,
    project,
    ray_rotations,
    rotations_from_vectors,
    transform,
    translations_from_offsets,
)


@dataclass
class Faces:
    """Decoded rows: named coefficient groups (M, K), rotations (M, 3, 3), translations (M, 3) mm."""

    groups: dict[str, Tensor]
    rotations: Tensor
    translations: Tensor
    principal_point: Tensor

    def rows(self, index: Tensor) -> Faces:
        """Some of the rows."""
        groups = {name: group[index] for name, group in self.groups.items()}
        return Faces(groups, self.rotations[index], self.translations[index], self.principal_point[index])

    def points_px(self, rows: PointRows) -> Tensor:
        """Projected surface points (M, P, 2) px."""
        points = rows(self.groups["identity"], self.groups["expression"])
        return project(transform(points, self.rotations, self.translations), self.principal_point)


def decode(rows: Tensor, cells: Tensor, principal_point: Tensor, layout: Layout) -> Faces:
    """Rows (M, C) read at cells (M, 2) (row, column), principal_point (M, 2) px (CONVENTIONS.md §2–4)."""
    groups = layout.split(rows.float())
    centers = (cells.flip(1).float() + 0.5) * STRIDE
    translations = translations_from_offsets(groups["translation"], centers, principal_point)
    rotations = ray_rotations(translations) @ rotations_from_vectors(groups["rotation"])
    return Faces(groups, rotations, translations, principal_point)


def cells_around(
    centers: Tensor, map_size: tuple[int, int], neighbours: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cells to read: that of each centre and `neighbours` random ones of the eight around it (the paper's figure 10).

    centers (F, 2) px -> cells (F (1 + neighbours), 2) row and column, clamped to the map, and the face (F (1 +
    neighbours),) of each; the first F entries are the centre cells.
    """
    height, width = map_size
    cell = (centers / STRIDE).floor().long().flip(1)  # (F, 2) row, column
    face = torch.arange(len(cell), device=cell.device)
    cells, faces = [cell], [face]
    for _ in range(neighbours):
        step = torch.randint(0, 8, (len(cell),), generator=generator, device=cell.device)
        step = step + (step >= 4)  # 0 … 8 without the centre
        cells.append(cell + torch.stack([step // 3 - 1, step % 3 - 1], dim=1))
        faces.append(face)
    limit = torch.tensor([height - 1, width - 1], device=cell.device)
    return torch.cat(cells).clamp_min(0).minimum(limit), torch.cat(faces)
