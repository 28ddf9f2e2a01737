"""The rasterizer, triangle by triangle in float64 (CONVENTIONS.md §7)."""

from dataclasses import dataclass

import numpy as np

STEPS = 256
NEAR = 1.0


@dataclass
class Raster:
    """Maps (H, W); `second` is the depth of the next surface behind the visible one (inf if there is none)."""

    triangle_id: np.ndarray
    face_id: np.ndarray
    depth: np.ndarray
    barycentric: np.ndarray
    second: np.ndarray


def screen(vertices, focal, principal_point, snap):
    """(N, 3) mm → (N, 2) px, rounded to 1/256 px of the float32 projection if `snap`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if not snap:
            return np.asarray(principal_point) + focal * vertices[:, :2].astype(float) / vertices[:, 2:]
        f32 = np.float32
        inverse = f32(1) / vertices[:, 2:].astype(f32)
        px = np.asarray(principal_point, f32) + f32(focal) * vertices[:, :2].astype(f32) * inverse
        return np.rint(px * f32(STEPS)).astype(float) / STEPS


def cross(p, q):
    return p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]


def covers(corners, centres):
    """Which centres (…, 2) the front-facing triangle (3, 2) owns, and its three edge functions, positive inside."""
    a, b, c = corners  # a, c, b is clockwise where y points down: positive areas
    inside, values = np.ones(centres.shape[:-1], bool), []
    for p, q in ((a, c), (c, b), (b, a)):
        direction = q - p
        value = cross(direction, centres - p)
        top_left = direction[1] < 0 or (direction[1] == 0 and direction[0] > 0)
        inside &= (value >= 0) if top_left else (value > 0)
        values.append(value)
    opposite_b, opposite_a, opposite_c = values
    return inside, np.stack([opposite_a, opposite_b, opposite_c], -1)


def rasterize(vertices_camera, triangles, focal, principal_point, size, snap=True):
    width, height = size
    out = Raster(
        np.full((height, width), -1),
        np.full((height, width), -1),
        np.full((height, width), np.inf),
        np.zeros((height, width, 3)),
        np.full((height, width), np.inf),
    )
    for face, vertices in enumerate(vertices_camera):
        px = screen(vertices, focal, principal_point, snap)
        for number, triangle in enumerate(triangles):
            corners, depths = px[triangle], vertices[triangle, 2].astype(float)
            if (depths < NEAR).any() or cross(corners[1] - corners[0], corners[2] - corners[0]) >= 0:
                continue
            x0, y0 = np.maximum(np.floor(corners.min(0)).astype(int), 0)
            x1, y1 = np.minimum(np.ceil(corners.max(0)).astype(int) + 1, [width, height])
            if x0 >= x1 or y0 >= y1:
                continue
            i, j = np.mgrid[y0:y1, x0:x1]
            inside, areas = covers(corners, np.stack([j + 0.5, i + 0.5], -1))
            weights = areas / depths
            total = weights.sum(-1)
            with np.errstate(divide="ignore", invalid="ignore"):
                depth = np.where(inside, areas.sum(-1) / total, np.inf)
            i, j, depth = i[inside], j[inside], depth[inside]
            nearer = depth < out.depth[i, j]
            out.second[i, j] = np.minimum(out.second[i, j], np.where(nearer, out.depth[i, j], depth))
            i, j = i[nearer], j[nearer]
            out.depth[i, j] = depth[nearer]
            out.triangle_id[i, j], out.face_id[i, j] = number, face
            out.barycentric[i, j] = (weights[inside] / total[inside][:, None])[nearer]
    out.depth[out.triangle_id < 0] = 0
    return out


def interpolate(triangle_id, face_id, barycentric, triangles, attributes):
    out = np.zeros((*triangle_id.shape, attributes.shape[-1]))
    i, j = np.nonzero(triangle_id >= 0)
    corners = attributes[face_id[i, j][:, None], triangles[triangle_id[i, j]]].astype(float)  # (P, 3, C)
    out[i, j] = np.einsum("pk,pkc->pc", barycentric[i, j], corners)
    return out
