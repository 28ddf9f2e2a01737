"""Spherical-harmonic shading (CONVENTIONS.md §6)."""

import numpy as np

A = [np.pi, 2 * np.pi / np.sqrt(3), 2 * np.pi / np.sqrt(8)]
C = [1 / np.sqrt(4 * np.pi), np.sqrt(3) / np.sqrt(4 * np.pi), 3 * np.sqrt(5) / np.sqrt(12 * np.pi)]


def basis(normals):
    """(…, 3) OpenGL frame → (…, 9)."""
    x, y, z = np.moveaxis(np.asarray(normals, float), -1, 0)
    return np.stack(
        [
            np.full_like(x, A[0] * C[0]),
            -A[1] * C[1] * y,
            A[1] * C[1] * z,
            -A[1] * C[1] * x,
            A[2] * C[2] * x * y,
            -A[2] * C[2] * y * z,
            A[2] * C[2] * (3 * z**2 - 1) / (2 * np.sqrt(3)),
            -A[2] * C[2] * x * z,
            A[2] * C[2] * (x**2 - y**2) / 2,
        ],
        -1,
    )


def shading(normals_opengl, illumination):
    return np.einsum("fcb,fnb->fnc", illumination.astype(float), basis(normals_opengl))


def colors(albedo, normals_camera, illumination):
    return np.clip(albedo * shading(normals_camera * [1, -1, -1], illumination), 0, 1)
