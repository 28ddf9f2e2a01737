"""Vertex normals (CONVENTIONS.md §6)."""

import numpy as np


def normalised(vectors):
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def vertex_normals(vertices, triangles):
    """(F, N, 3): the normalised sum of the unit normals of a vertex's triangles."""
    out = np.zeros(vertices.shape)
    for face, points in enumerate(vertices.astype(float)):
        a, b, c = (points[triangles[:, k]] for k in range(3))
        normals = normalised(np.cross(b - a, c - a))
        for k in range(3):
            np.add.at(out[face], triangles[:, k], normals)
    return normalised(out)
