"""Pictures of a face model: mean ± 3 σ of the first modes, regions and landmarks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.spatial.transform import Rotation

from .geometry import refine_matrix, refined_triangles
from .regions import REGION_NAMES
from .sampling import vertex_normals

SUPERSAMPLING = 2
TILE_PX = (190, 235)
MM_PER_TILE = 290.0
LIGHT = (0.80, 0.0, 0.28, -0.16, 0.0, 0.0, 0.0, 0.0, 0.0)
"""Offsets of SH coefficients for shaded pictures; the first is the ambient term itself (CONVENTIONS.md §6)."""
SHAPE_COLOR = np.array([0.78, 0.74, 0.70])
BACKGROUND = 0.93
PALETTE = np.array(
    [
        (222, 190, 170), (240, 200, 60), (60, 90, 200), (120, 160, 250), (30, 150, 70), (120, 210, 130),
        (200, 40, 60), (250, 120, 140), (140, 60, 170), (200, 140, 230), (150, 110, 80), (120, 120, 120),
    ]
) / 255  # fmt: skip


def shading(normals_viewer: NDArray[np.floating], coefficients: Sequence[float]) -> NDArray[np.float64]:
    """Σ_b γ_b H_b(n) of CONVENTIONS.md §6 for one channel, (N,)."""
    x, y, z = normals_viewer.T
    a = np.array([np.pi, 2 * np.pi / np.sqrt(3), 2 * np.pi / np.sqrt(8)])
    c = np.array([1, np.sqrt(3), 3 * np.sqrt(5)]) / np.array([np.sqrt(4 * np.pi), np.sqrt(4 * np.pi), np.sqrt(12 * np.pi)])
    first, second, third = a * c
    basis = [
        np.full_like(x, first), -second * y, second * z, -second * x,
        third * x * y, -third * y * z, third * (3 * z * z - 1) / (2 * np.sqrt(3)), -third * x * z, third * (x * x - y * y) / 2,
    ]  # fmt: skip
    return np.tensordot(np.asarray(coefficients, np.float64), np.stack(basis), 1)


class Studio:
    """Draws refined faces of one model in an orthographic view."""

    def __init__(self, triangles_coarse: NDArray[np.int32], n_coarse: int) -> None:
        self.refine = refine_matrix(triangles_coarse, n_coarse)
        self.triangles = refined_triangles(triangles_coarse, n_coarse)

    def draw(
        self, vertices: NDArray[np.floating], colors: NDArray[np.floating], yaw: float = 0.0, lit: bool = False
    ) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 picture of coarse vertices (N0, 3) mm with coarse colours (N0, 3) in [0, 1], turned by `yaw` degrees."""
        turned = (self.refine @ vertices.astype(np.float64)) @ Rotation.from_euler("y", yaw, degrees=True).as_matrix().T
        normals = vertex_normals(turned, self.triangles)
        paint = self.refine @ colors.astype(np.float64)
        if lit:
            paint = paint * shading(normals, LIGHT)[:, None]
        width, height = (side * SUPERSAMPLING for side in TILE_PX)
        scale = height / MM_PER_TILE
        px = np.stack([width / 2 + scale * turned[:, 0], height / 2 - scale * (turned[:, 1] + 3)], 1)
        a, b, c = px[self.triangles].transpose(1, 0, 2)
        facing = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0] < 0
        longest = np.max([np.linalg.norm(e, axis=1) for e in (b - a, c - b, a - c)], axis=0)
        steps = 2 ** np.ceil(np.log2(np.maximum(1.5 * longest, 2))).astype(np.int64)
        place, depth, color = [], [], []
        for n in np.unique(steps[facing]):
            corners = self.triangles[facing & (steps == n)]
            grid = np.array([(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)]) / n
            place.append(np.einsum("gk,tkd->gtd", grid, px[corners]).reshape(-1, 2).astype(np.int64))
            depth.append(np.einsum("gk,tk->gt", grid, turned[corners][..., 2]).reshape(-1))
            color.append(np.einsum("gk,tkd->gtd", grid, paint[corners]).reshape(-1, 3))
        place, depth, color = np.concatenate(place), np.concatenate(depth), np.concatenate(color)
        inside = ((place >= 0) & (place < [width, height])).all(axis=1)
        cell = place[inside, 1] * width + place[inside, 0]
        order = np.argsort(depth[inside], kind="stable")  # the nearest is written last
        canvas = np.full((height * width, 3), BACKGROUND)
        canvas[cell[order]] = color[inside][order]
        canvas = canvas.reshape(TILE_PX[1], SUPERSAMPLING, TILE_PX[0], SUPERSAMPLING, 3).mean(axis=(1, 3))
        return (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)


def sheet(rows: list[tuple[str, list[NDArray[np.uint8]]]]) -> Image.Image:
    """Rows of tiles, each with its caption in a column on the left."""
    margin, font = 92, ImageFont.load_default(13)
    width = margin + TILE_PX[0] * max(len(tiles) for _, tiles in rows)
    image = Image.new("RGB", (width, TILE_PX[1] * len(rows)), "white")
    draw = ImageDraw.Draw(image)
    for k, (caption, tiles) in enumerate(rows):
        draw.multiline_text((6, TILE_PX[1] * k + 80), caption, fill="black", font=font, spacing=4)
        for j, tile in enumerate(tiles):
            image.paste(Image.fromarray(tile), (margin + TILE_PX[0] * j, TILE_PX[1] * k))
    return image
