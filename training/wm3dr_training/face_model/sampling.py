"""Vertex colours of a registered photo: warp, visibility, skin test, sampling."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates, minimum_filter
from scipy.spatial import cKDTree

from .london import Photo
from .registration import Fit, Observations, Shapes

WARP_SIGMA_PX = 14.0
BLUR_SIGMA_PX = 1.2
DEPTH_SLACK_MM = 4.0
ZBUFFER_SCALE = 0.5
SAMPLES_PER_EDGE = 4


def residual_warp(
    points_px: NDArray[np.float64], fit: Fit, shapes: Shapes, observations: Observations
) -> NDArray[np.float64]:
    """Shift (P, 2) projected points by what the fit leaves of the observed landmarks near them.

    Gaussian-weighted mean of the residuals (`WARP_SIGMA_PX`), fading to no shift away from all landmarks, so that
    brows, eyelids and lips fall on the same vertices in every photo.
    """
    at = fit.project(fit.camera_points(*shapes.at(observations)))
    residual = observations.points_px - at
    shifted = points_px.copy()
    tree = cKDTree(at)
    distance, index = tree.query(points_px, k=24)
    weight = np.exp(-0.5 * (distance / WARP_SIGMA_PX) ** 2) / observations.sigma_px[index] ** 2
    background = 0.1 / np.median(observations.sigma_px) ** 2
    shifted += (weight[..., None] * residual[index]).sum(axis=1) / (weight.sum(axis=1) + background)[:, None]
    return shifted


def vertex_normals(vertices: NDArray[np.float64], triangles: NDArray[np.int32]) -> NDArray[np.float64]:
    """(N, 3) normalised sums of the unit normals of each vertex's triangles (CONVENTIONS.md §6)."""
    a, b, c = vertices[triangles].transpose(1, 0, 2)
    unit = np.cross(b - a, c - a)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    normals = np.stack(
        [sum(np.bincount(triangles[:, k], unit[:, axis], len(vertices)) for k in range(3)) for axis in range(3)],
        axis=1,
    )
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def visible_vertices(
    vertices_camera: NDArray[np.float64],
    points_px: NDArray[np.float64],
    triangles: NDArray[np.int32],
    size: tuple[int, int],
) -> NDArray[np.bool_]:
    """(N,) vertices inside the photo with nothing of the mesh in front: depth buffer from points on every triangle."""
    grid = [(i, j) for i in range(SAMPLES_PER_EDGE + 1) for j in range(SAMPLES_PER_EDGE + 1 - i)]
    weights = np.array([(i, j, SAMPLES_PER_EDGE - i - j) for i, j in grid]) / SAMPLES_PER_EDGE
    width, height = (int(side * ZBUFFER_SCALE) for side in size)
    corner_px = points_px[triangles] * ZBUFFER_SCALE
    corner_z = vertices_camera[triangles][..., 2]
    buffer = np.full(height * width, np.inf)
    for weight in weights:
        x, y = np.tensordot(corner_px, weight, (1, 0)).T
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        cell = y[inside].astype(np.int64) * width + x[inside].astype(np.int64)
        np.minimum.at(buffer, cell, (corner_z @ weight)[inside])
    buffer = minimum_filter(buffer.reshape(height, width), size=3)
    x, y = (points_px * ZBUFFER_SCALE).T
    inside = (x >= 1) & (x < width - 1) & (y >= 1) & (y < height - 1)
    column, row = np.clip(x.astype(np.int64), 0, width - 1), np.clip(y.astype(np.int64), 0, height - 1)
    return inside & (vertices_camera[:, 2] <= buffer[row, column] + DEPTH_SLACK_MM)


def sample_photo(
    photo: Photo, fit: Fit, shapes: Shapes, observations: Observations
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Colours of the refined vertices in one photo.

    Returns
    -------
    colors : (N, 3) float64
        sRGB-encoded, [0, 1]; meaningless where the weight is 0.
    weights : (N,) float64
        Cosine between normal and line of sight where visible, else 0.
    normals_opengl : (N, 3) float64
        OpenGL frame (CONVENTIONS.md §2).
    """
    camera = fit.camera_points(shapes.mean, shapes.basis)
    points = fit.project(camera)
    normals = vertex_normals(camera, shapes.triangles)
    towards = -camera / np.linalg.norm(camera, axis=1, keepdims=True)
    cosine = (normals * towards).sum(axis=1)
    visible = visible_vertices(camera, points, shapes.triangles, photo.size) & (cosine > 0.15)
    warped = residual_warp(points, fit, shapes, observations)
    image = photo.image.astype(np.float32) / 255
    place = [warped[:, 1] - 0.5, warped[:, 0] - 0.5]
    colors = np.stack(
        [
            map_coordinates(gaussian_filter(image[..., c], BLUR_SIGMA_PX), place, order=1, mode="nearest")
            for c in range(3)
        ],
        axis=1,
    ).astype(np.float64)
    return colors, np.where(visible, cosine, 0.0), normals * [1.0, -1.0, -1.0]
