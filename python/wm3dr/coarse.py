"""The mesh as a face-model file stores it: a quarter of the triangles and the same surface (CONVENTIONS.md §5).

A midpoint is the mean of the ends of its edge in everything that is linear in the coefficients, so that files for
other programs lose nothing by leaving the midpoints out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .face_model import FaceModel

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class CoarseModel:
    """Geometry of a face model before refinement; vertex k is vertex k of the refined mesh."""

    mean_shape: F32
    """(N0, 3) mm, model frame."""
    triangles: NDArray[np.int32]
    """(T0, 3) counter-clockwise seen from outside."""
    landmark_ends: NDArray[np.int32]
    """(68, 2) coarse vertices whose mean is the landmark; twice the same where it is a coarse vertex."""
    regions: NDArray[np.uint8]
    """(N0,) face-part labels."""

    @property
    def n_vertices(self) -> int:
        """N0."""
        return len(self.mean_shape)


def coarse_model(face_model: FaceModel) -> CoarseModel:
    """Return the mesh of a face model before refinement; of a model that is not refined, its mesh."""
    triangles = face_model.stored_triangles
    landmarks = face_model.landmark_vertices.astype(np.int64)
    ends = np.stack([landmarks, landmarks], axis=1)
    n_vertices = face_model.n_stored
    if face_model.metadata.subdivisions:
        edges = np.unique(np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1), axis=0)
        midpoint = landmarks >= n_vertices
        ends[midpoint] = edges[landmarks[midpoint] - n_vertices]
    return CoarseModel(
        mean_shape=face_model.mean_shape[:n_vertices],
        triangles=triangles,
        landmark_ends=ends.astype(np.int32),
        regions=face_model.regions[:n_vertices],
    )


def neutral_shapes(face_model: FaceModel, identity: F32, threads: int = 1) -> F32:
    """Return (F, N, 3) shapes in mm, model frame, of (F, K_id) identities without expression."""
    expression = np.zeros((len(identity), face_model.widths["expression"]), np.float32)
    return face_model.native.shapes(np.ascontiguousarray(identity, np.float32), expression, threads)


def expression_offsets(face_model: FaceModel, threads: int = 1) -> F32:
    """Return (K_exp, N, 3): how each full expression moves the vertices, mm, model frame."""
    n_expression = face_model.widths["expression"]
    identity = np.zeros((n_expression, face_model.widths["identity"]), np.float32)
    return face_model.native.shapes(identity, np.eye(n_expression, dtype=np.float32), threads) - face_model.mean_shape
