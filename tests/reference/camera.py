"""Model → camera → pixels (CONVENTIONS.md §2, §3)."""

import numpy as np


def transform(vertices_model, rotations, translations):
    return np.einsum("fij,fnj->fni", rotations.astype(float), vertices_model.astype(float)) + translations[:, None]


def project(points_camera, focal, principal_point):
    points = np.asarray(points_camera, float)
    return np.asarray(principal_point, float) + focal * points[..., :2] / points[..., 2:]


def boxes(points_px):
    return np.concatenate([points_px.min(1), points_px.max(1)], -1)
