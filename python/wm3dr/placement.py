"""Faces in another camera or at another scale: what a photo shows stays, the millimetres change."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .camera import Camera

if TYPE_CHECKING:
    from .dense import DenseFaces
    from .face_model import FaceModel

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Sizes: TypeAlias = "float | Sequence[float] | NDArray[np.floating] | Mapping[int, float]"
"""One value for all faces, one per face, or values of some faces by their number."""

RIGHT_EYE_CORNERS, LEFT_EYE_CORNERS = (36, 39), (42, 45)
"""Landmarks at the corners of the subject's eyes (300-W order)."""
IPD_RANGE_MM = (30.0, 90.0)
"""Distances between human eyes, newborn to the largest measured, with room; others are taken for mistakes of unit."""
STEPS = 6
"""Gauss-Newton steps; the fourth already moves nothing by a micrometre."""
NEAREST_MM = 1.0
"""Landmarks must stay this far in front of the camera, as the rasterizer's near plane (CONVENTIONS.md §7)."""


def placed_in_camera(
    landmarks_model: F32, rotations: F32, translations: F32, seen: Camera, camera: Camera
) -> tuple[F32, F32]:
    """Solve the translations anew for another camera so that the landmarks stay on their pixels.

    Shape is kept, and so is the rotation against the viewing ray: ``R' = ray(t') ray(t)ᵀ R``. From the closed form
    that keeps pixel and size of the model origin, ``t_z' = t_z f'/f`` (CONVENTIONS.md §3), Gauss-Newton steps
    minimise ``Σ_j |π'(R' X_j + t') − π(R X_j + t)|²`` over t', j the 68 landmarks. What remains is the change of
    perspective inside the face, which no translation takes back.

    Parameters
    ----------
    landmarks_model : (F, 68, 3) float32
        mm, model frame.
    rotations, translations : (F, 3, 3), (F, 3) float32
        In the camera that they were `seen` with.
    seen, camera : Camera

    Returns
    -------
    rotations, translations : (F, 3, 3), (F, 3) float32
        In `camera`.

    Raises
    ------
    ValueError
        `camera` has so short a focal length that a face would reach behind it.
    """
    if camera == seen or not len(translations):
        return rotations, translations
    points = landmarks_model.astype(np.float64)
    against_ray = np.swapaxes(_ray_rotations(translations), 1, 2) @ rotations.astype(np.float64)
    pixels = _pixels(points @ np.swapaxes(rotations.astype(np.float64), 1, 2) + translations[:, None], seen)
    center = np.array(camera.principal_point)
    t = _same_pixel_and_size(translations.astype(np.float64), seen, camera)
    for _ in range(STEPS):
        turned = points @ np.swapaxes(_ray_rotations(t) @ against_ray, 1, 2)  # (F, 68, 3)
        x, y, z = np.moveaxis(turned + t[:, None], -1, 0)
        if z.size and z.min() <= NEAREST_MM:
            face = int(z.min(axis=1).argmin())
            raise ValueError(
                f"'camera' has a focal length of {camera.focal:g} px, at which face {face} would stand at "
                f"{t[face, 2]:.0f} mm, nearer than it is deep; a photo of it needs a longer one"
            )
        f, zero = camera.focal, np.zeros_like(x)
        jacobian = np.stack([f / z, zero, -f * x / z**2, zero, f / z, -f * y / z**2], -1).reshape(len(t), -1, 3)
        residual = (np.stack([x, y], -1) / z[..., None] * f + center - pixels).reshape(len(t), -1, 1)
        transposed = np.swapaxes(jacobian, 1, 2)
        t = t - np.linalg.solve(transposed @ jacobian, transposed @ residual)[..., 0]
    return (_ray_rotations(t) @ against_ray).astype(np.float32), t.astype(np.float32)


def in_camera(dense: "DenseFaces", camera: Camera) -> "DenseFaces":
    """Return the faces in another camera of the same photo; see `placed_in_camera`."""
    rotations, translations = placed_in_camera(
        dense.landmarks_model, dense.rotations, dense.translations, dense.camera, camera
    )
    return dense.changed(rotations=rotations, translations=translations, camera=camera)


def with_scale(dense: "DenseFaces", ipd_mm: Sizes) -> "DenseFaces":
    """Return the faces at the scale of a known distance between the eyes; see `Result.with_scale`."""
    known = _sizes_by_face(ipd_mm, len(dense))
    scales, metric = dense.scales.copy(), dense.metric.copy()
    if known:
        unscaled = interpupillary_mm(dense.face_model, dense.identity)
        for face, millimetres in known.items():
            scales[face] = millimetres / unscaled[face]
            metric[face] = True
    translations = dense.translations * (scales / dense.scales)[:, None]
    return dense.changed(scales=scales, metric=metric, translations=translations)


def interpupillary_mm(face_model: "FaceModel", identity: F32) -> F64:
    """Return the (F,) distances between the eyes of (F, K_id) identities, mm of the face model.

    An eye is the midpoint of its two corners, in the neutral expression: the face model has no pupils.
    """
    neutral = np.zeros((len(identity), face_model.widths["expression"]), np.float32)
    landmarks = face_model.native.landmarks(identity, neutral).astype(np.float64)
    right, left = (landmarks[:, corners].mean(axis=1) for corners in (RIGHT_EYE_CORNERS, LEFT_EYE_CORNERS))
    distances: F64 = np.linalg.norm(left - right, axis=1)
    return distances


def _sizes_by_face(ipd_mm: Sizes, n_faces: int) -> dict[int, float]:
    """Return the sizes by the number of the face, checked."""
    if isinstance(ipd_mm, Mapping):
        sizes = dict(ipd_mm)
        for face in sizes:
            if isinstance(face, bool) or not isinstance(face, int | np.integer):
                raise TypeError(f"'ipd_mm' has the key {face!r}, not the number of a face")
            if not 0 <= face < n_faces:
                raise ValueError(f"'ipd_mm' names face {face}, but there are {n_faces}, counted from 0")
    else:
        values = np.asarray(ipd_mm)
        if values.dtype.kind not in "fiu":
            raise TypeError(f"'ipd_mm' must be millimetres (a number, one per face, or a dict), not {ipd_mm!r}")
        if values.ndim and values.shape != (n_faces,):
            raise ValueError(f"'ipd_mm' has shape {values.shape}, but there are {n_faces} faces")
        sizes = dict(enumerate(np.broadcast_to(values, (n_faces,)).tolist()))
        if not values.ndim:
            check_ipd(values.item())
    for millimetres in sizes.values():
        check_ipd(millimetres)
    return {int(face): float(millimetres) for face, millimetres in sizes.items()}


def check_ipd(millimetres: float) -> None:
    """Raise TypeError or ValueError where this is no distance between eyes, mm."""
    if isinstance(millimetres, bool) or not isinstance(millimetres, int | float | np.integer | np.floating):
        raise TypeError(f"'ipd_mm' must hold millimetres, not {millimetres!r}")
    low, high = IPD_RANGE_MM
    if not (math.isfinite(millimetres) and low <= millimetres <= high):
        raise ValueError(f"'ipd_mm' must be between {low:g} and {high:g} mm (adults: about 63), not {millimetres}")


def _same_pixel_and_size(translations: F64, seen: Camera, camera: Camera) -> F64:
    """Return the (F, 3) translations, mm, that keep pixel and size of every model origin under another camera.

    With ``u = c_x + f t_x/t_z``: ``t_z' = t_z f'/f``, ``t_x' = t_z' (u − c_x')/f'``; likewise for y.
    """
    depth = translations[:, 2:] * (camera.focal / seen.focal)
    lateral = depth * (_pixels(translations, seen) - np.array(camera.principal_point)) / camera.focal
    return np.concatenate([lateral, depth], axis=1)


def _pixels(points: F64, camera: Camera) -> F64:
    pixels: F64 = points[..., :2] / points[..., 2:] * camera.focal + np.array(camera.principal_point)
    return pixels


def _ray_rotations(translations: NDArray[np.floating]) -> F64:
    """Return the (F, 3, 3) smallest rotations that take the z axis to the viewing rays (CONVENTIONS.md §2)."""
    rays = translations.astype(np.float64)
    x, y, z = (rays / np.linalg.norm(rays, axis=1, keepdims=True)).T
    s = 1.0 / (1.0 + z)
    rows = [1.0 - s * x * x, -s * x * y, x, -s * x * y, 1.0 - s * y * y, y, -x, -y, z]
    return np.stack(rows, axis=1).reshape(-1, 3, 3)
