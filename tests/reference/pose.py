"""Rotation vectors, viewing rays, translations and head pose (CONVENTIONS.md §2, §3)."""

import numpy as np

FLIP = np.diag([1.0, -1.0, -1.0])


def exponential(vector):
    """exp([v]×) by its power series, with squaring to keep the angle small."""
    x, y, z = np.asarray(vector, float) / 2**10
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    term, total = np.eye(3), np.eye(3)
    for k in range(1, 12):
        term = term @ cross / k
        total = total + term
    for _ in range(10):
        total = total @ total
    return total


def ray(translation):
    """The rotation about z × t that takes z to t/|t|."""
    direction = np.asarray(translation, float) / np.linalg.norm(translation)
    axis = np.cross([0.0, 0.0, 1.0], direction)
    sine = np.linalg.norm(axis)
    if sine == 0:
        return np.eye(3)
    return exponential(axis / sine * np.arctan2(sine, direction[2]))


def rotations_from_vectors(vectors, translations=None):
    rays = [np.eye(3)] * len(vectors) if translations is None else [ray(t) for t in translations]
    return np.array([r @ exponential(v) @ FLIP for r, v in zip(rays, vectors, strict=True)]).reshape(-1, 3, 3)


def translations_from_offsets(offsets, centers, focal, principal_point):
    offsets, centers = np.asarray(offsets, float), np.asarray(centers, float)
    z = 100.0 * (10.0 + offsets[:, 2])
    x = z * (offsets[:, 0] + centers[:, 0] - principal_point[0]) / focal
    y = z * (offsets[:, 1] + centers[:, 1] - principal_point[1]) / focal
    return np.stack([x, y, z], -1)


def rotation_from_pose(yaw, pitch, roll):
    """Degrees → model-to-camera rotation, from the definition R_opengl = Rz(roll) Ry(yaw) Rx(−pitch)."""
    yaw, pitch, roll = np.radians([yaw, pitch, roll])
    return FLIP @ exponential([0, 0, roll]) @ exponential([0, yaw, 0]) @ exponential([-pitch, 0, 0])
