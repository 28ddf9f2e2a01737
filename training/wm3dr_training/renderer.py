"""Differentiable image formation: triangle ids without gradient, everything else recomputed in torch.

One interface, two backends for the ids: wm3dr's own rasterizer (CPU, no GPU needed) and, when it is importable,
PyTorch3D's. Given the id of the triangle that a pixel shows, its barycentric weights follow from the camera-space
corners: with the pixel's ray d, `w_i ∝ d · (v_j × v_k)`, which is perspective-correct and differentiable, so that
gradients reach shape, pose, camera, albedo and light. Coverage itself has no gradient (hard rasterization, as in
METHOD.md).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from wm3dr import _native

NEAR = 1.0  # mm; triangles that reach in front of it are not drawn (CONVENTIONS.md §7)


class TriangleIds(Protocol):
    """A backend: which triangle each pixel of each face's window shows."""

    def __call__(
        self, vertices: Tensor, triangles: Tensor, focal: Tensor, principal_point: Tensor, size: int
    ) -> Tensor:
        """vertices (F, N, 3) mm camera, triangles (T, 3), focal (F,) px, principal_point (F, 2) px -> (F, size,
        size) long, −1 = nothing.
        """
        ...


class NativeTriangleIds:
    """wm3dr's rasterizer, faces of a batch in parallel; it releases the GIL."""

    def __init__(self, threads: int | None = None) -> None:
        self._pool = ThreadPoolExecutor(threads or min(torch.get_num_threads(), os.cpu_count() or 1))

    def __call__(
        self, vertices: Tensor, triangles: Tensor, focal: Tensor, principal_point: Tensor, size: int
    ) -> Tensor:
        corners = np.ascontiguousarray(triangles.cpu().numpy(), dtype=np.int32)
        points = vertices.detach().float().cpu().numpy()
        cameras = list(zip(focal.tolist(), principal_point.tolist(), strict=True))

        def one(index: int) -> np.ndarray:
            focal_px, (cx, cy) = cameras[index]
            face = np.ascontiguousarray(points[index : index + 1])
            return _native.rasterize(face, corners, focal_px, (cx, cy), (size, size), 1)[0]

        ids = list(self._pool.map(one, range(len(points))))
        stacked = np.stack(ids) if ids else np.zeros((0, size, size), np.int32)
        return torch.from_numpy(stacked).long().to(vertices.device)


class PyTorch3DTriangleIds:
    """PyTorch3D's rasterizer, the paper's; raises ImportError where it is not installed.

    Its x points left and y up, both −1 … 1 over a square image; the centre of column j lies at 1 − (2j + 1) / size; a
    triangle that is counter-clockwise as seen is a front; ids count on from mesh to mesh of the batch; a triangle with
    a corner at z < 0 is left out (facebookresearch/pytorch3d, csrc/rasterize_meshes).
    """

    def __init__(self) -> None:
        try:
            from pytorch3d.renderer.mesh import rasterize_meshes
            from pytorch3d.structures import Meshes
        except ImportError as error:
            raise ImportError(f"the raster backend 'pytorch3d' needs PyTorch3D: {error}") from error
        self._rasterize, self._meshes = rasterize_meshes, Meshes

    def __call__(
        self, vertices: Tensor, triangles: Tensor, focal: Tensor, principal_point: Tensor, size: int
    ) -> Tensor:
        vertices = vertices.detach().float()
        if not len(vertices):
            return torch.full((0, size, size), -1, dtype=torch.long, device=vertices.device)
        depth = vertices[..., 2:]
        in_front = depth >= NEAR
        pixels = principal_point[:, None] + focal[:, None, None] * vertices[..., :2] / depth.clamp_min(NEAR)
        ndc = torch.cat([1 - 2 * pixels / size, torch.where(in_front, depth, -1.0)], dim=-1)
        meshes = self._meshes(ndc, triangles[None].expand(len(ndc), -1, -1))
        ids = self._rasterize(
            meshes,
            image_size=size,
            blur_radius=0.0,
            faces_per_pixel=1,
            max_faces_per_bin=len(triangles),  # a small face lies in a single bin; what does not fit in is not drawn
            perspective_correct=True,  # else depths on a triangle are interpolated as if it were parallel to the image
            cull_backfaces=True,
        )[0][..., 0]
        offset = torch.arange(len(ndc), device=ids.device)[:, None, None] * len(triangles)
        return torch.where(ids >= 0, ids - offset, ids)


@dataclass
class Rendered:
    """values (F, C, size, size), 0 where there is nothing; mask (F, 1, size, size) 0 or 1; depth (F, 1, size, size)
    mm.
    """

    values: Tensor
    mask: Tensor
    depth: Tensor


def render(
    vertices: Tensor,
    triangles: Tensor,
    attributes: Tensor,
    focal: Tensor,
    principal_point: Tensor,
    size: int,
    backend: TriangleIds,
) -> Rendered:
    """Interpolate vertex attributes over each face's own window.

    Parameters
    ----------
    vertices : (F, N, 3) float32
        Camera frame, mm.
    triangles : (T, 3) long
    attributes : (F, N, C) float32
    focal, principal_point : (F,), (F, 2)
        Pixels of the window.
    size : int
        Side of the window, pixels.
    """
    n_faces, channels = len(vertices), attributes.shape[2]
    with torch.no_grad():
        ids = backend(vertices, triangles, focal, principal_point, size)
    face, row, column = (ids >= 0).nonzero(as_tuple=True)  # (P,)
    corners = triangles[ids[face, row, column]]  # (P, 3)
    v = vertices[face[:, None], corners]  # (P, 3, 3)
    pixel = torch.stack([column, row], dim=1) + 0.5
    ray = (pixel - principal_point[face]) / focal[face, None]
    ray = torch.cat([ray, torch.ones_like(ray[:, :1])], dim=1)  # (P, 3)
    area = torch.linalg.cross(v[:, [1, 2, 0]], v[:, [2, 0, 1]])  # (P, 3, 3): v_j × v_k
    weights = (area * ray[:, None]).sum(-1)
    total = weights.sum(1, keepdim=True)
    weights = weights / torch.where(total.abs() < 1e-12, torch.full_like(total, 1e-12), total)
    # a pixel centre on an edge may lie outside by rounding: keep the interpolation inside the triangle
    weights = weights.clamp(0, 1)
    weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-12)
    inside = (weights[..., None] * attributes[face[:, None], corners]).sum(1)  # (P, C)
    values = vertices.new_zeros(n_faces, size, size, channels).index_put((face, row, column), inside)
    depth = vertices.new_zeros(n_faces, size, size).index_put((face, row, column), (weights * v[..., 2]).sum(1))
    return Rendered(values.permute(0, 3, 1, 2), (ids >= 0).float()[:, None], depth[:, None])
