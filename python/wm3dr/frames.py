"""The four frames of a face (CONVENTIONS.md §2) and the way from any of them to any other."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .camera import Camera
from .dense import OPENGL_FROM_CAMERA

Frame = Literal["model", "camera", "opengl", "image"]
"""`model`, `camera` and `opengl` in mm; `image` is x and y in pixels of the photo and camera z in mm."""
FRAMES: tuple[Frame, ...] = get_args(Frame)


def change_frame(
    points: ArrayLike,
    source: Frame,
    target: Frame,
    *,
    rotation: ArrayLike,
    translation: ArrayLike,
    camera: Camera,
) -> NDArray[np.float64]:
    """Carry points from one frame to another, by way of the camera frame.

    ``camera = R model + t``; ``camera = diag(1, −1, −1) opengl``; ``image = (c_x + f X/Z, c_y + f Y/Z, Z)``.

    Parameters
    ----------
    points : (..., 3)
        In the source frame.
    source, target : "model", "camera", "opengl" or "image"
    rotation, translation : (3, 3), (3,)
        Of the face, model to camera, mm.
    camera : Camera

    Returns
    -------
    points : (..., 3) float64
        In the target frame.

    Raises
    ------
    ValueError
        A frame is none of these, the last axis is not 3, or a point to or from the image has Z <= 0.
    """
    for name, frame in (("source", source), ("target", target)):
        check_frame(frame, name)
    array = np.asarray(points, np.float64)
    if array.shape[-1:] != (3,):
        raise ValueError(f"'points' has shape {array.shape}, not (..., 3)")
    if source == target:
        return array.copy()
    rotation, translation = np.asarray(rotation, np.float64), np.asarray(translation, np.float64)
    if source == "model":
        array = array @ rotation.T + translation
    elif source == "opengl":
        array = array * OPENGL_FROM_CAMERA
    elif source == "image":
        array = camera.unproject(array)
    if target == "model":
        # The inverse proper: a rotation in float32 is orthogonal to 1e-7 only, times the distance.
        return np.linalg.solve(rotation, (array - translation)[..., None])[..., 0]
    if target == "opengl":
        return array * OPENGL_FROM_CAMERA
    if target == "image":
        return np.concatenate([camera.project(array), array[..., 2:]], axis=-1)
    return array


def check_frame(frame: str, argument: str = "frame", frames: tuple[str, ...] = FRAMES) -> None:
    """Raise ValueError, naming the argument, where `frame` is none of `frames`."""
    if frame not in frames:
        wanted = f"{', '.join(repr(name) for name in frames[:-1])} or {frames[-1]!r}"
        raise ValueError(f"'{argument}' must be {wanted}, not {frame!r}")
