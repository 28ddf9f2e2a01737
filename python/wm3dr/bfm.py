"""Importer of the Basel Face Model 2009 as the Deep3DFaceReconstruction family converts it (`BFM_model_front.mat`).

The licence of BFM 2009 forbids passing on the model or anything made from it; so does the file that this writes.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._native import ModelError
from .face_model import FaceModel, FaceModelMetadata, write_face_model
from .files import require_file

MM_PER_UNIT = 100.0
"""The converted file counts in 100 mm."""
LICENCE = "Basel Face Model 2009: non-commercial; may not be redistributed (https://faces.dmi.unibas.ch/bfm)"
KEYS = ("meanshape", "idBase", "exBase", "meantex", "texBase", "tri", "keypoints")
"""What is read of the file; `skinmask` gives the regions where it is there."""
REGION_NAMES = ("other", "skin")


def import_bfm(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> FaceModel:
    """Read `BFM_model_front.mat` and write a face-model file.

    The shape is centred at its centroid. Texture coordinates are cylindrical; the mirror of a vertex is the nearest to
    its reflection; regions are skin and the rest.

    Parameters
    ----------
    source : path
        MATLAB file with `meanshape` (1, 3N), `idBase` (3N, K), `exBase` (3N, K), `meantex` (1, 3N) 0-255, `texBase`
        (3N, K), `tri` (T, 3) and `keypoints` (68,) counted from 1, units of 100 mm, bases scaled by standard deviation.
    target : path
        The face-model file to write.

    Raises
    ------
    ImportError
        SciPy, which reads MATLAB files, is not installed.
    FileNotFoundError
        There is no such file.
    wm3dr.ModelError
        It is not of that form.
    OSError
        `target` cannot be written.
    """
    path = require_file(source, "source")
    metadata, arrays = arrays_from_bfm(_read_mat(path), path)
    return write_face_model(target, metadata, arrays)


def arrays_from_bfm(mat: Mapping[str, Any], path: Path) -> tuple[FaceModelMetadata, dict[str, NDArray[Any]]]:
    """Turn the variables of the MATLAB file into those of a face-model file; ModelError if they do not fit together."""
    missing = [key for key in KEYS if key not in mat]
    if missing:
        raise ModelError(f"{path}: no variable {', '.join(missing)}: not BFM_model_front.mat")
    shape = np.asarray(mat["meanshape"], np.float64).reshape(-1)
    n = shape.size // 3
    if shape.size != 3 * n or n < 1:
        raise ModelError(f"{path}: 'meanshape' has {shape.size} values, not three per vertex")
    points = shape.reshape(n, 3)
    points = (points - points.mean(axis=0)) * MM_PER_UNIT
    triangles = _from_one(mat["tri"], n, "tri", path).reshape(-1, 3)
    triangles = _facing_out(points, triangles)
    expression_basis = _basis(mat["exBase"], n, "exBase", path) * MM_PER_UNIT
    arrays: dict[str, NDArray[Any]] = {
        "mean_shape": points.astype(np.float32),
        "identity_basis": (_basis(mat["idBase"], n, "idBase", path) * MM_PER_UNIT).astype(np.float16),
        "expression_basis": expression_basis.astype(np.float16),
        "mean_albedo": (_rows(mat["meantex"], n, "meantex", path) / 255.0).astype(np.float32),
        "albedo_basis": (_basis(mat["texBase"], n, "texBase", path) / 255.0).astype(np.float16),
        "triangles": triangles,
        "landmark_vertices": _from_one(mat["keypoints"], n, "keypoints", path),
        "uv": _cylindrical_uv(points)[triangles].astype(np.float32),
        "regions": _skin(mat.get("skinmask"), n, path),
        "mirror": _nearest_mirror(points),
    }
    metadata = FaceModelMetadata(
        name="bfm-2009-front",
        licence=LICENCE,
        sources=("Basel Face Model 2009, converted by Deep3DFaceReconstruction",),
        subdivisions=0,
        expression_names=tuple(f"expression_{k:02d}" for k in range(expression_basis.shape[2])),
        expression_kind="pca",
        region_names=REGION_NAMES,
    )
    return metadata, arrays


def _read_mat(path: Path) -> Mapping[str, Any]:
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise ImportError("reading MATLAB files needs SciPy: pip install scipy") from error
    try:
        mat: Mapping[str, Any] = loadmat(path)
    except (MatReadError, ValueError, TypeError, OSError, NotImplementedError) as error:
        raise ModelError(f"{path}: not a MATLAB file that SciPy reads: {error}") from error
    return mat


def _rows(value: Any, n: int, name: str, path: Path) -> NDArray[np.float64]:
    array = np.asarray(value, np.float64)
    if array.size != 3 * n:
        raise ModelError(f"{path}: {name!r} has shape {array.shape}, not three values for each of {n} vertices")
    return array.reshape(n, 3)


def _basis(value: Any, n: int, name: str, path: Path) -> NDArray[np.float64]:
    """Return a (3N, K) basis as (N, 3, K)."""
    array = np.asarray(value, np.float64)
    if array.ndim != 2 or array.shape[0] != 3 * n:
        raise ModelError(f"{path}: {name!r} has shape {array.shape}, not ({3 * n}, K)")
    return array.reshape(n, 3, -1)


def _from_one(value: Any, n: int, name: str, path: Path) -> NDArray[np.int32]:
    """Return vertex numbers counted from 1 as counted from 0."""
    numbers = np.asarray(value).astype(np.int64).reshape(-1) - 1
    if numbers.size == 0 or numbers.min() < 0 or numbers.max() >= n:
        raise ModelError(f"{path}: {name!r} must hold vertex numbers from 1 to {n}")
    return numbers.astype(np.int32)


def _facing_out(points: NDArray[np.float64], triangles: NDArray[np.int32]) -> NDArray[np.int32]:
    """Turn the triangles round if the surface faces away from +z."""
    a, b, c = points[triangles].swapaxes(0, 1)
    facing = np.cross(b - a, c - a)[:, 2].sum()
    return triangles if facing > 0 else np.ascontiguousarray(triangles[:, ::-1])


def _skin(mask: Any, n: int, path: Path) -> NDArray[np.uint8]:
    if mask is None:
        return np.zeros(n, np.uint8)
    array = np.asarray(mask).reshape(-1)
    if array.size != n:
        raise ModelError(f"{path}: 'skinmask' has {array.size} values, not {n}")
    return (array > 0).astype(np.uint8)


def _cylindrical_uv(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unroll the face around a vertical axis behind it, (N, 2) in [0, 1], v up."""
    axis_z = points[:, 2].min()
    angle = np.arctan2(points[:, 0], points[:, 2] - axis_z)
    uv = np.stack([angle, points[:, 1]], axis=1)
    low, high = uv.min(axis=0), uv.max(axis=0)
    return (uv - low) / np.maximum(high - low, 1e-9)


def _nearest_mirror(points: NDArray[np.float64]) -> NDArray[np.int32]:
    from scipy.spatial import cKDTree

    return cKDTree(points).query(points * [-1.0, 1.0, 1.0])[1].astype(np.int32)
