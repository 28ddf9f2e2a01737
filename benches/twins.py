"""What the native stages are measured against: NumPy twins of every stage, PyTorch twins of the decoder.

The NumPy twins are what a careful user would write: float32, no Python loop over pixels or triangles. The PyTorch
twins are the layers of the training (`wm3dr_training.layers`), in inference mode.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scenes import Scene, face_model

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
Point = tuple[float, float]


@cache
def edges() -> I32:
    """Ends of the stored edges whose midpoints are the refined mesh's further vertices (E, 2); CONVENTIONS.md §5."""
    stored = face_model().stored_triangles
    ends = np.sort(np.concatenate([stored[:, [0, 1]], stored[:, [1, 2]], stored[:, [2, 0]]]), axis=1)
    return np.unique(ends, axis=0).astype(np.int32)


def letterbox(photo: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    """Scale a photo down with a triangle filter, pad it to multiples of 32: (1, H, W, 3)."""
    height, width, _ = photo.shape
    scale = min(1.0, max_side / max(height, width))
    rows, columns = int(height * scale + 1e-6), int(width * scale + 1e-6)
    across = np.tensordot(_triangle_filter(columns, width, scale), photo.astype(np.float32), (1, 1))  # (W', H, 3)
    small = np.tensordot(_triangle_filter(rows, height, scale), across, (1, 1))  # (H', W', 3)
    padded = np.zeros((1, -(-rows // 32) * 32, -(-columns // 32) * 32, 3), np.uint8)
    padded[0, :rows, :columns] = np.clip(small + np.float32(0.5), 0, 255)
    return padded


def _triangle_filter(out: int, length: int, scale: float) -> F32:
    """Weights (out, length) of a tent of two output pixels' width."""
    centers = (np.arange(out, dtype=np.float32)[:, None] + 0.5) / scale
    weights = np.maximum(0, 1 - np.abs(np.arange(length, dtype=np.float32) + 0.5 - centers) * scale)
    return weights / weights.sum(axis=1, keepdims=True)


def find_peaks(heatmap: F32, threshold: float, window: int) -> tuple[I32, F32]:
    """Cells that are the maximum of their window, best first; equal neighbours are not merged."""
    reach = window // 2
    padded = np.pad(heatmap, reach, constant_values=-np.inf)
    greatest = np.lib.stride_tricks.sliding_window_view(padded, (window, window)).max(axis=(2, 3))
    cells = np.argwhere((heatmap >= threshold) & (heatmap == greatest)).astype(np.int32)
    scores = heatmap[cells[:, 0], cells[:, 1]]
    order = np.argsort(-scores, kind="stable")
    return cells[order], scores[order]


def refined(values: F32) -> F32:
    """Stored vertices (F, N0, 3) and the midpoints of their edges (F, N, 3)."""
    ends = edges()
    return np.concatenate([values, (values[:, ends[:, 0]] + values[:, ends[:, 1]]) / 2], axis=1)


def vertices_camera(basis: F32, scene: Scene) -> F32:
    """Decode and place: the stored basis (3 N0, K), refined, R X + t; (F, N, 3)."""
    coefficients = np.concatenate([scene.identity, scene.expression], axis=1)
    mean = face_model().native.mean_shape[: len(basis) // 3]
    shapes = mean + (coefficients @ basis.T).reshape(len(coefficients), -1, 3)
    return refined(shapes @ scene.rotations.transpose(0, 2, 1) + scene.translations[:, None])


def normals(vertices: F32, triangles: I32) -> F32:
    """Normalised sum of the triangles' unit normals (F, N, 3)."""
    a, b, c = (vertices[:, triangles[:, k]] for k in range(3))
    of_triangles = np.cross(b - a, c - a)
    of_triangles /= np.linalg.norm(of_triangles, axis=-1, keepdims=True) + np.float32(1e-12)
    out = np.empty_like(vertices)
    for face, axis in np.ndindex(len(vertices), 3):
        out[face, :, axis] = sum(
            np.bincount(triangles[:, k], of_triangles[face, :, axis], vertices.shape[1]) for k in range(3)
        )
    return out / (np.linalg.norm(out, axis=-1, keepdims=True) + np.float32(1e-12))


def colors(albedo: F32, normals_camera: F32, illumination: F32) -> F32:
    """albedo ∘ Σ_b γ_b H_b(n), clipped (CONVENTIONS.md §6)."""
    x, y, z = normals_camera[..., 0], -normals_camera[..., 1], -normals_camera[..., 2]
    a = np.float32([np.pi, 2 * np.pi / np.sqrt(3), 2 * np.pi / np.sqrt(8)])
    c = np.float32([1, np.sqrt(3), 3 * np.sqrt(5) / np.sqrt(3)]) / np.float32(np.sqrt(4 * np.pi))
    p, q, r = a * c
    terms = [np.full_like(x, p), -q * y, q * z, -q * x, r * x * y, -r * y * z]
    terms += [r * (3 * z * z - 1) / np.float32(2 * np.sqrt(3)), -r * x * z, r * (x * x - y * y) / 2]
    return np.clip(albedo * (np.stack(terms, -1) @ illumination.transpose(0, 2, 1)), 0, 1)


def project(points: F32, focal: float, centre: Point) -> F32:
    """u = cx + f X / Z, v = cy + f Y / Z."""
    return np.asarray(centre, np.float32) + np.float32(focal) * points[..., :2] / points[..., 2:]


def rasterize(vertices: F32, triangles: I32, focal: float, centre: Point, size: tuple[int, int]) -> tuple[I32, F32]:
    """Depth buffer of all faces: number of the triangle, all faces' counted through (H, W), −1 where there is none, and
    depth. All pixels of the boxes of all triangles are tested at once; no fill rule.
    """
    width, height = size
    px = project(vertices, focal, centre)
    corners, depths = px[:, triangles].reshape(-1, 3, 2), vertices[:, triangles, 2].reshape(-1, 3)
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    area = (c - a)[:, 0] * (b - a)[:, 1] - (c - a)[:, 1] * (b - a)[:, 0]
    low = np.ceil(corners.min(axis=1) - 0.5).astype(np.int32).clip(0)
    high = np.minimum(np.floor(corners.max(axis=1) - 0.5).astype(np.int32), [width - 1, height - 1])
    room = (high - low + 1).clip(0)
    count = np.where((area > 0) & (depths.min(axis=1) >= 1), room[:, 0] * room[:, 1], 0)
    triangle = np.repeat(np.arange(len(count)), count)
    number = np.arange(len(triangle)) - np.repeat(np.cumsum(count) - count, count)
    x = low[triangle, 0] + number % room[triangle, 0]
    y = low[triangle, 1] + number // room[triangle, 0]
    point = np.stack([x, y], -1).astype(np.float32) + np.float32(0.5)

    def side(p: F32, q: F32) -> F32:
        along, to = (q - p)[triangle], point - p[triangle]
        return along[:, 0] * to[:, 1] - along[:, 1] * to[:, 0]

    weights = np.stack([side(c, b), side(a, c), side(b, a)], -1)
    inside = (weights >= 0).all(axis=1)
    triangle, x, y, weights = triangle[inside], x[inside], y[inside], weights[inside]
    depth = weights.sum(axis=1) / (weights / depths[triangle]).sum(axis=1)
    order = np.lexsort((-triangle, -depth))  # the nearest is written last
    place = (y * width + x)[order]
    ids, nearest = np.full(height * width, -1, np.int32), np.zeros(height * width, np.float32)
    ids[place], nearest[place] = triangle[order], depth[order]
    return ids.reshape(height, width), nearest.reshape(height, width)


def torch_decoder(scene: Scene, focal: float, centre: Point, threads: int) -> dict[str, Callable[[], object]]:
    """Name of a stage -> its PyTorch twin on a scene; the results are tensors on the CPU.

    Raises
    ------
    ImportError
        torch or wm3dr_training is not installed (`pip install ./training`).
    """
    import torch

    from wm3dr_training import layers

    torch.set_num_threads(threads)
    model = layers.FaceModel.load(face_model().path)
    parts = {name: torch.from_numpy(np.array(value)) for name, value in vars(scene).items()}
    triangles = torch.from_numpy(np.array(face_model().native.triangles, np.int64))
    ends = torch.from_numpy(edges().astype(np.int64))
    basis = torch.cat([model.identity_basis, model.expression_basis], dim=2).flatten(0, 1).T.contiguous()
    flip = torch.tensor(layers.OPENGL_FROM_CAMERA)
    point = torch.tensor(centre)

    def halves(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values, (values[:, ends[:, 0]] + values[:, ends[:, 1]]) / 2], dim=1)

    def vertices() -> torch.Tensor:
        offsets = torch.cat([parts["identity"], parts["expression"]], dim=1) @ basis
        shapes = model.mean_shape + offsets.view(-1, *model.mean_shape.shape)
        return halves(layers.transform(shapes, parts["rotations"], parts["translations"]))

    def shaded(points: torch.Tensor, albedo: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        normals = layers.vertex_normals(points, triangles) * flip
        colors = (albedo * layers.shading(normals, parts["illumination"])).clamp(0, 1)
        return colors, layers.project(points, point, focal)

    fixed, albedo = vertices(), halves(model.albedos(parts["albedo"]))
    calls: dict[str, Callable[[], object]] = {
        "decode": vertices,
        "normals + colours + projection": lambda: shaded(fixed, albedo),
        "whole decoder": lambda: shaded(vertices(), halves(model.albedos(parts["albedo"]))),
    }
    return {name: torch.inference_mode()(call) for name, call in calls.items()}
