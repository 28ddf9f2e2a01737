"""MediaPipe's points on the face mesh, and which face model's mesh that is."""

import hashlib
import zipfile
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wm3dr import ModelError

N_MESH_POINTS = 468
"""MediaPipe's points 0–467 lie on the face; 468–477 are the irises, which the mesh does not have."""


def topology_of(triangles: NDArray) -> str:
    """SHA-256 of the triangles (T0, 3) of a mesh, hexadecimal: what vertex numbers mean hangs on them alone."""
    return hashlib.sha256(np.ascontiguousarray(triangles, dtype="<i4").tobytes()).hexdigest()


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
    face_model: str
    """Name of the face model that the points were registered to."""
    n_vertices: int
    """N0, its coarse vertices."""
    topology: str
    """`topology_of` its triangles. Other bases or another mean on the same mesh keep the correspondence valid."""

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

    def require_mesh(self, name: str, n_vertices: int, triangles: NDArray) -> None:
        """Check that a face model has the mesh whose vertices are meant.

        Raises
        ------
        wm3dr.ModelError
            The mesh is another one: the points would lie anywhere.
        """
        if n_vertices == self.n_vertices and topology_of(triangles) == self.topology:
            return
        what = f"{n_vertices} vertices" if n_vertices != self.n_vertices else "other triangles"
        raise ModelError(
            f"'face_model' {name!r} has {what}, but MediaPipe's points are registered to the mesh of "
            f"{self.face_model!r} with {self.n_vertices} vertices. Make a correspondence for this mesh by `python -m "
            "wm3dr_training.data.register_mediapipe --face-model FILE … --out POINTS.npz` and train with "
            "--correspondence POINTS.npz"
        )


def load_correspondence(path: str | Path | None = None) -> Correspondence:
    """Read a correspondence; None or "": the one for the default face model's mesh, in the package.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    wm3dr.ModelError
        It is not a correspondence, or one that does not say to which mesh it belongs.
    """
    if not path:
        return _of_the_package()
    if not Path(path).is_file():
        raise FileNotFoundError(f"'correspondence' {path} does not exist")
    return _read(Path(path))


@lru_cache(maxsize=1)
def _of_the_package() -> Correspondence:
    with resources.as_file(resources.files(__package__).joinpath("mediapipe_to_mesh.npz")) as path:
        return _read(path)


def _read(path: Path) -> Correspondence:
    try:
        with np.load(path) as content:
            arrays = dict(content)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"'correspondence' {path} cannot be read: {error}") from error
    names = [field.name for field in fields(Correspondence)]
    if missing := [name for name in names if name not in arrays]:
        raise ModelError(
            f"'correspondence' {path} lacks {', '.join(missing)}: it was not written by this version of "
            "wm3dr_training.data.register_mediapipe"
        )
    values = {name: arrays[name] for name in names}
    shape = (N_MESH_POINTS, 3)
    if values["vertex_ids"].shape != shape or values["weights"].shape != shape:
        raise ModelError(
            f"'correspondence' {path} has vertex_ids {values['vertex_ids'].shape} and weights "
            f"{values['weights'].shape}, expected {shape}"
        )
    values |= {"face_model": str(values["face_model"]), "topology": str(values["topology"])}
    values["n_vertices"] = int(values["n_vertices"])
    if values["vertex_ids"].min() < 0 or values["vertex_ids"].max() >= values["n_vertices"]:
        raise ModelError(f"'correspondence' {path} names vertices beyond the {values['n_vertices']} of its mesh")
    return Correspondence(**values)
