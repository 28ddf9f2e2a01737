"""MediaPipe's points on the face mesh."""

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

N_MESH_POINTS = 468
"""MediaPipe's points 0–467 lie on the face; 468–477 are the irises, which the mesh does not have."""


@dataclass(frozen=True)
class Correspondence:
    """Place of each of MediaPipe's 468 face points on the coarse (level 0) mesh."""

    vertex_ids: NDArray[np.int32]
    """(468, 3) corners of the triangle that the point lies in, coarse vertex numbers."""
    weights: NDArray[np.float32]
    """(468, 3) barycentric weights, ≥ 0, sum 1."""
    confidence: NDArray[np.float32]
    """(468,) 0 … 1: how steadily the point stays at its place; contour and forehead points slide and are low."""
    mirror: NDArray[np.int32]
    """(478,) number of each point's mirror image, irises included."""
    side: NDArray[np.int8]
    """(478,) −1 subject's right, 0 middle, +1 subject's left."""

    def points(self, vertices: NDArray) -> NDArray:
        """MediaPipe's points on given coarse vertices.

        Parameters
        ----------
        vertices : (..., N0, 3) float
            Any frame and unit.

        Returns
        -------
        points : (..., 468, 3)
            Same frame and unit.
        """
        return (vertices[..., self.vertex_ids, :] * self.weights[..., None]).sum(axis=-2)


@lru_cache(maxsize=1)
def load_correspondence() -> Correspondence:
    """The correspondence for the default face model that comes with the package."""
    with resources.files(__package__).joinpath("mediapipe_to_mesh.npz").open("rb") as file, np.load(file) as arrays:
        return Correspondence(**{key: arrays[key] for key in Correspondence.__dataclass_fields__})
