"""Report on a face model: pictures (mean ± 3 σ of the first modes, regions, landmarks, overlays) and figures."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.spatial.transform import Rotation

from .albedo import Delit
from .geometry import Geometry, edges_from_triangles, refine_matrix, refined_triangles
from .london import Photo
from .registration import Fit, Observations, Shapes
from .sampling import vertex_normals, visible_vertices

SUPERSAMPLING = 2
TILE_PX = (190, 235)
MM_PER_TILE = 300.0
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


def shading(normals_opengl: NDArray[np.floating], coefficients: Sequence[float]) -> NDArray[np.float64]:
    """Σ_b γ_b H_b(n) of CONVENTIONS.md §6 for one channel, (N,)."""
    x, y, z = normals_opengl.T
    root = np.sqrt(4 * np.pi)
    first, second = np.pi / root, 2 * np.pi / root
    third = 2 * np.pi / np.sqrt(8) * 3 * np.sqrt(5) / np.sqrt(12 * np.pi)
    basis = [
        np.full_like(x, first), -second * y, second * z, -second * x, third * x * y, -third * y * z,
        third * (3 * z * z - 1) / (2 * np.sqrt(3)), -third * x * z, third * (x * x - y * y) / 2,
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
        """(h, w, 3) uint8 picture of vertices (N0, 3) mm with colours (N0, 3) in [0, 1], turned by `yaw` degrees."""
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
    margin, font = 112, ImageFont.load_default(13)
    width = margin + TILE_PX[0] * max(len(tiles) for _, tiles in rows)
    image = Image.new("RGB", (width, TILE_PX[1] * len(rows)), "white")
    draw = ImageDraw.Draw(image)
    for k, (caption, tiles) in enumerate(rows):
        draw.multiline_text((6, TILE_PX[1] * k + 80), caption, fill="black", font=font, spacing=4)
        for j, tile in enumerate(tiles):
            image.paste(Image.fromarray(tile), (margin + TILE_PX[0] * j, TILE_PX[1] * k))
    return image


def landmark_dots(points: NDArray[np.floating], tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frontal tile with 68 points (68, 3) mm on it: jaw white, brows red, nose yellow, eyes green, mouth blue."""
    image = Image.fromarray(tile)
    draw = ImageDraw.Draw(image)
    scale = TILE_PX[1] / MM_PER_TILE
    groups = ((17, "white"), (27, "red"), (36, "yellow"), (48, "lime"), (68, "blue"))
    for number, (x, y, _) in enumerate(points.tolist()):
        px, py = TILE_PX[0] / 2 + scale * x, TILE_PX[1] / 2 - scale * (y + 3)
        color = next(color for end, color in groups if number < end)
        draw.ellipse((px - 1.5, py - 1.5, px + 1.5, py + 1.5), fill=color)
    return np.asarray(image)


def mode_sheet(
    geometry: Geometry,
    landmark_vertices: NDArray[np.int32],
    regions: NDArray[np.uint8],
    mean_albedo: NDArray[np.float64],
    albedo_basis: NDArray[np.float64],
) -> Image.Image:
    """The picture of a model: mean, regions, then −3 σ and +3 σ of identity and albedo modes and full blendshapes."""
    studio = Studio(geometry.triangles, len(geometry.mean_shape))
    shape = geometry.mean_shape
    clay = np.broadcast_to(SHAPE_COLOR, shape.shape)
    front = studio.draw(shape, mean_albedo)
    rows = [
        (
            "mean\nalbedo, lit,\nregions,\nlandmarks",
            [
                front,
                studio.draw(shape, mean_albedo, -35),
                studio.draw(shape, mean_albedo, lit=True),
                studio.draw(shape, mean_albedo, -35, lit=True),
                studio.draw(shape, PALETTE[regions]),
                studio.draw(shape, PALETTE[regions], -70),
                landmark_dots((studio.refine @ shape.astype(np.float64))[landmark_vertices], front),
            ],
        )
    ]
    for kind, basis, picture in (
        ("identity", geometry.identity_basis, lambda d, yaw: studio.draw(shape + d, clay, yaw, lit=True)),
        ("albedo", albedo_basis, lambda d, yaw: studio.draw(shape, mean_albedo + d, yaw)),
    ):
        for first in (0, 2, 4):
            tiles = [
                picture(sign * 3 * basis[..., k], yaw)
                for k in (first, first + 1)
                for sign in (-1, 1)
                for yaw in (0, -35)
            ][:8]
            rows.append((f"{kind}\nmodes {first}, {first + 1}\n-3 | +3 sigma\n(front, 3/4)", tiles))
    shown = (
        "jawOpen",
        "mouthSmile_L",
        "mouthPucker",
        "eyeBlink_R",
        "browInnerUp_L",
        "browDown_R",
        "cheekPuff_L",
        "noseSneer_L",
    )
    tiles = [
        studio.draw(shape + geometry.expression_basis[..., geometry.expression_names.index(name)], mean_albedo, 0, True)
        for name in shown
    ]
    rows.append(("expression\n" + "\n".join(shown), tiles))
    return sheet(rows)


def with_palette(image: Image.Image) -> Image.Image:
    """The picture in 256 dithered colours, a third of the size; the labels' colours are kept as they are."""
    common = image.quantize(256 - len(PALETTE)).getpalette()[: 3 * (256 - len(PALETTE))]
    palette = Image.new("P", (1, 1))
    palette.putpalette(common + (PALETTE * 255).astype(int).reshape(-1).tolist())
    return image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def overlay_sheet(shapes: Shapes, regions: NDArray[np.uint8], photos: list[Photo], fits: list[Fit]) -> Image.Image:
    """Twelve registered photos with the visible parts of the mesh as coloured dots."""
    chosen = np.unique(np.linspace(0, len(photos) - 1, 12).astype(int))
    side = 420
    image = Image.new("RGB", (4 * side, 3 * side))
    for place, k in enumerate(chosen):
        photo, fit = photos[k], fits[k]
        camera = fit.camera_points(shapes.mean, shapes.basis)
        points = fit.project(camera)
        normals = vertex_normals(camera, shapes.triangles)
        shown = visible_vertices(camera, points, shapes.triangles, photo.size) & (normals[:, 2] < 0)
        canvas = photo.image.copy()
        column, row = points[shown].astype(int).T
        canvas[row, column] = (PALETTE[regions[shown]] * 255).astype(np.uint8)
        low, high = points[shown].min(axis=0), points[shown].max(axis=0)
        middle, half = (low + high) / 2, (high - low).max() / 2 + 20
        crop = Image.fromarray(canvas).crop((*(middle - half).astype(int), *(middle + half).astype(int)))
        image.paste(crop.resize((side, side), Image.Resampling.LANCZOS), (side * (place % 4), side * (place // 4)))
    return image


def write_report(
    folder: Path,
    geometry: Geometry,
    landmark_vertices: NDArray[np.int32],
    regions: NDArray[np.uint8],
    mean_albedo: NDArray[np.float64],
    albedo_basis: NDArray[np.float64],
    albedo_variance: NDArray[np.float64],
    delit: Delit,
    shapes: Shapes,
    fits: list[Fit],
    observations: list[Observations],
    photos: list[Photo],
) -> dict[str, object]:
    """Write ``modes.png``, ``overlays.png`` and ``figures.json`` into `folder`; returns the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = mode_sheet(geometry, landmark_vertices, regions, mean_albedo, albedo_basis)
    with_palette(picture).save(folder / "modes.png", optimize=True)
    refined_regions = np.concatenate([regions, regions[edges_from_triangles(geometry.triangles)[:, 0]]])
    overlay_sheet(shapes, refined_regions, photos, fits).save(folder / "overlays.png")
    residual = {"neutral": [], "smiling": []}
    for photo, fit, seen in zip(photos, fits, observations, strict=True):
        at = fit.project(fit.camera_points(*shapes.at(seen)))
        residual[photo.expression].append(np.linalg.norm(at - seen.points_px, axis=1).mean())
    albedo_share = albedo_variance / albedo_variance.sum()
    figures = {
        "photos": {kind: len(values) for kind, values in residual.items()},
        "landmark_residual_px": {kind: round(float(np.mean(values)), 2) for kind, values in residual.items() if values},
        "identity_variance": [round(float(v), 4) for v in geometry.identity_energy[:10]],
        "identity_variance_kept": round(float(geometry.identity_energy[: geometry.identity_basis.shape[2]].sum()), 5),
        "albedo_variance": [round(float(v), 4) for v in albedo_share[:10]],
        "albedo_variance_kept": round(float(albedo_share[: albedo_basis.shape[2]].sum()), 5),
        "skin_tone_min_median_max": np.quantile(delit.tones, [0, 0.5, 1], axis=0).round(3).tolist(),
        "removed_shading_1_99_percent": delit.shading_range.mean(axis=0).round(3).tolist(),
        "samples_kept_by_skin_test": round(float(delit.kept.mean()), 3),
    }
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    return figures
