"""Faces with another expression, light or pose: the same dense geometry with one face's coefficients exchanged."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _native
from .dense import OPENGL_FROM_CAMERA
from .face_model import FaceModel
from .result import Face, Result

if TYPE_CHECKING:
    from .dense import DenseFaces

F32 = NDArray[np.float32]
Light: TypeAlias = "str | Face | ArrayLike"
"""Name of a preset, a face whose light to take, or (3, 9) coefficients."""

LIGHTS: dict[str, tuple[float, float, float]] = {
    "ambient": (0.0, 0.0, 0.0),
    "front": (0.0, 0.0, 1.0),
    "left": (-0.90, 0.15, 0.40),
    "right": (0.90, 0.15, 0.40),
    "top": (0.0, 0.90, 0.44),
    "bottom": (0.0, -0.90, 0.44),
}
"""Where the light of each preset comes from, OpenGL frame (x: the image's right, y: up, z: the camera)."""
AMBIENT_SHARE = 0.4
"""Of a preset's light on a surface that faces it, this share comes from everywhere."""
SIDES = {"Left": "_L", "Right": "_R"}
"""ARKit's ends of names and the face model's."""


def with_expression(face: Face, weights: Mapping[str, float] | ArrayLike) -> Face:
    """Return the face with another expression; see `Face.with_expression`."""
    expression = expression_from_weights(face.face_model, weights, face.coefficients.expression)
    return _changed(face, expression=expression)


def expression_from_weights(face_model: FaceModel, weights: Mapping[str, float] | ArrayLike, expression: F32) -> F32:
    """Return (K_exp,) coefficients: `weights` of all blendshapes, or `expression` with those that a mapping names."""
    n = face_model.widths["expression"]
    if not isinstance(weights, Mapping):
        return _checked("weights", weights, (n,))
    numbers = {name: number for number, name in enumerate(face_model.expression_names)}
    changed = np.array(expression, np.float32)
    for name, weight in weights.items():
        places = [numbers[own] for own in own_names(face_model, name)]
        if isinstance(weight, bool) or not isinstance(weight, int | float | np.integer | np.floating):
            raise TypeError(f"'weights' has {weight!r} for {name!r}, not a number")
        if not np.isfinite(weight):
            raise ValueError(f"'weights' has {weight!r} for {name!r}, not a finite number")
        changed[places] = weight
    return changed


def own_names(face_model: FaceModel, name: str) -> list[str]:
    """Return the face model's names of a blendshape: its own name, or ARKit's (`mouthSmileLeft`, `browInnerUp`).

    Raises
    ------
    ValueError
        There is none; the message names the nearest.
    """
    known = face_model.expression_names
    if name in known:
        return [name]
    for end, own_end in SIDES.items():
        if isinstance(name, str) and name.endswith(end) and name.removesuffix(end) + own_end in known:
            return [name.removesuffix(end) + own_end]
    both = [f"{name}{end}" for end in SIDES.values()]
    if all(own in known for own in both):
        return both
    near = ", ".join(repr(own) for own in difflib.get_close_matches(str(name), known, 3)) or "none alike"
    raise ValueError(f"'weights' names {name!r}, which {face_model.name} does not have; near it: {near}")


def with_illumination(face: Face, light: Light) -> Face:
    """Return the face in another light; see `Face.with_illumination`."""
    if isinstance(light, str):
        illumination = preset_illumination(face, light)
    elif isinstance(light, Face):
        illumination = light.coefficients.illumination
    else:
        illumination = _checked("light", light, (3, 9))
    return _changed(face, illumination=illumination)


def preset_illumination(face: Face, name: str) -> F32:
    """Return the (3, 9) light of a preset, as bright and as tinted on the face's mean as its own light is."""
    if name not in LIGHTS:
        raise ValueError(f"'light' must be one of {', '.join(LIGHTS)}, an array (3, 9) or a face, not {name!r}")
    unit = illumination_from_direction(LIGHTS[name], AMBIENT_SHARE)
    normals = np.ascontiguousarray(face.normals * OPENGL_FROM_CAMERA)
    both = np.stack([np.tile(unit, (3, 1)), face.coefficients.illumination]).astype(np.float32)
    given, own = np.maximum(_native.shading(np.stack([normals, normals]), both, face.dense.threads), 0).mean(axis=1)
    illumination: F32 = (unit[None] * (own / given)[:, None]).astype(np.float32)
    return illumination


def illumination_from_direction(direction: ArrayLike, ambient: float) -> NDArray[np.float64]:
    """Return the nine coefficients of one channel (CONVENTIONS.md §6): light from everywhere and from a direction.

    ``shading = ambient + (1 − ambient) max(0, n·d)``, the maximum by its second-order expansion
    ``1/4 + (n·d)/2 + 5/32 (3 (n·d)² − 1)`` (Ramamoorthi and Hanrahan 2001).

    Parameters
    ----------
    direction : (3,)
        To the light, OpenGL frame; of any length, zero for ambient light alone.
    ambient : float
        Share of the light that comes from everywhere.
    """
    d = np.asarray(direction, np.float64)
    length = float(np.linalg.norm(d))
    if not length:
        d, ambient = np.zeros(3), 1.0
    x, y, z = d / (length or 1.0)
    k0, k1, k2 = np.sqrt(np.pi) / 2, np.sqrt(np.pi), 3 * np.sqrt(5 * np.pi / 24)  # a0 c0, a1 c1, a2 c2
    values = np.zeros(9)
    linear, square = 0.5 * (1 - ambient), 15 / 32 * (1 - ambient)
    values[0] = (ambient + 0.25 * (1 - ambient)) / k0
    values[1:4] = linear * np.array([-y, z, -x]) / k1
    # (n·d)² − 1/3 in the quadratic basis
    values[4:] = square * np.array([2 * x * y, -2 * y * z, np.sqrt(3) / 3 * (3 * z * z - 1), -2 * x * z, x * x - y * y])
    values[4:] /= k2
    return values


def retarget(source: Face, target: Face, *, pose: bool = False) -> Face:
    """Put the expression of one face on another.

    Parameters
    ----------
    source : Face
        Whose expression.
    target : Face
        Whose identity, albedo, light and place; in another photo or the same.
    pose : bool
        Take the source's head pose as well: its rotation against the viewing ray, so that the target's head is seen as
        the source's was, wherever the two stand in their photos.

    Returns
    -------
    face : Face
        The target with these changes, in the target's photo.

    Raises
    ------
    TypeError
        One of them is no Face.
    ValueError
        Their face models have different blendshapes.
    """
    for name, face in (("source", source), ("target", target)):
        if not isinstance(face, Face):
            raise TypeError(f"'{name}' must be a wm3dr.Face, not {type(face).__name__}")
    if source.face_model.expression_names != target.face_model.expression_names:
        raise ValueError(
            f"'source' has the blendshapes of {source.face_model.name}, 'target' those of {target.face_model.name}"
        )
    changes: dict[str, F32] = {"expression": source.coefficients.expression}
    if pose:
        zero = np.zeros((2, 3), np.float32)
        frontal = np.diag(OPENGL_FROM_CAMERA)
        rays = _native.rotations_from_vectors(zero, np.stack([source.translation, target.translation])) @ frontal
        changes["rotations"] = rays[1] @ rays[0].T @ source.rotation
    return _changed(target, **changes)


def with_faces(result: Result, faces: Iterable[Face]) -> Result:
    """Return the result with some of its faces exchanged; see `Result.with_faces`."""
    dense = result.dense
    rows = {name: np.array(getattr(dense, attribute)) for name, attribute in _ROWS.items()}
    exchanged: set[int] = set()
    for face in faces:
        if not isinstance(face, Face):
            raise TypeError(f"'faces' must hold wm3dr.Face, not {type(face).__name__}")
        check_belongs(result, face)
        if face.index in exchanged:
            raise ValueError(f"'faces' holds face {face.index} twice")
        exchanged.add(face.index)
        for name, attribute in _ROWS.items():
            rows[name][face.index] = getattr(face.dense, attribute)[face.index]
    return result.with_dense(dense.changed(**rows))


def check_belongs(result: Result, face: Face) -> None:
    """Raise ValueError unless the face was made from one of the result's."""
    same = face.face_model is result.face_model and face.dense.camera == result.camera
    if not same or len(face.dense) != len(result.dense):
        raise ValueError(f"face {face.index} was not made from a face of this result: other photo, camera or model")


_ROWS = {
    "identity": "identity",
    "expression": "expression",
    "albedo": "albedo_coefficients",
    "illumination": "illumination",
    "rotations": "rotations",
    "translations": "translations",
    "scales": "scales",
    "metric": "metric",
}
"""Keywords of `DenseFaces` with a row per face, and the attributes that hold them."""


def changed_rows(before: "DenseFaces", after: "DenseFaces", index: int) -> set[str]:
    """Return which values of a face differ, by the keywords of `DenseFaces`."""
    return {
        name
        for name, attribute in _ROWS.items()
        if not np.array_equal(getattr(before, attribute)[index], getattr(after, attribute)[index])
    }


def _changed(face: Face, **rows: F32) -> Face:
    """Return the face with other rows in a copy of its dense faces; the other faces stay as they are there."""
    from .decode import faces_from_dense

    arrays: dict[str, Any] = {}
    for name, row in rows.items():
        arrays[name] = np.array(getattr(face.dense, _ROWS[name]))
        arrays[name][face.index] = row
    dense = face.dense.changed(**arrays)
    n = len(dense)
    found = faces_from_dense(dense, np.zeros(n, np.float32), np.zeros((n, 2), np.float32))[face.index]
    return replace(
        face,
        box=found.box,
        landmarks=found.landmarks,
        landmarks_camera=found.landmarks_camera,
        rotation=found.rotation,
        translation=found.translation,
        pose=found.pose,
        dense=dense,
    )


def _checked(name: str, values: Any, shape: tuple[int, ...]) -> F32:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"'{name}' must hold numbers, not {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"'{name}' has shape {array.shape}, not {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"'{name}' holds values that are not finite")
    return np.array(array, np.float32)
