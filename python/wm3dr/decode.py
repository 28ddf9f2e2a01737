"""Coefficient rows of the peaks → faces in a camera. Arithmetic on whole meshes is the native module's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _native
from .camera import Camera
from .dense import DenseFaces
from .encoder import EncoderContract
from .face_model import FaceModel
from .result import Coefficients, Face, Pose

F32 = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]

AMBIENT = 0.8
"""Ambient light that illumination rows are offsets from (CONVENTIONS.md §4)."""
FACE_MM = 160.0
"""Width of a face of the face model, about."""
LARGE_PX = (180.0, 256.0)
"""Faces of this size at network scale may come from the reduced photo; beyond the second, they do."""


@dataclass(frozen=True, eq=False)
class Peaks:
    """The peaks of one heatmap, best first."""

    rows: F32
    """(P, C) raw coefficients (CONVENTIONS.md §4)."""
    scores: F32
    """(P,) heatmap values."""
    centers: F32
    """(P, 2) centres of the cells, network pixels."""
    scale: float
    """Network pixels per pixel of the caller's image."""


def decode(
    levels: Sequence[Peaks],
    *,
    size: tuple[int, int],
    contract: EncoderContract,
    face_model: FaceModel,
    camera: Camera | None,
    threads: int,
) -> tuple[DenseFaces, tuple[Face, ...]]:
    """Place the faces in one camera and compute their sparse values.

    Parameters
    ----------
    levels : one or two Peaks
        Those of the photo, and those of the photo reduced further (`merged` says which count).
    size : (int, int)
        (width, height) of the caller's image.
    camera : Camera, optional
        The caller's camera; None takes the contract's at the scale of the photo or, where a face comes from the
        reduced photo, at that scale: a longer focal length, so that large faces keep the perspective in which the
        network saw them. Translations of the others are solved anew.
    """
    cameras = [Camera(contract.focal / level.scale, (size[0] / 2, size[1] / 2), size) for level in levels]
    offsets = contract.slices()["translation"]
    placed = [_translations(level, offsets, contract.focal, size) for level in levels]
    n_fine = len(levels[0].scores)
    level_of = np.repeat(np.arange(len(levels)), [len(level.scores) for level in levels])
    rows = np.concatenate([level.rows for level in levels])
    scores = np.concatenate([level.scores for level in levels])
    centers = np.concatenate([level.centers / np.float32(level.scale) for level in levels])
    chosen = np.arange(n_fine)
    if len(levels) > 1:
        scale = levels[0].scale
        sides = [FACE_MM * own.focal * scale / t[:, 2] for own, t in zip(cameras, placed, strict=True)]
        chosen = merged(np.concatenate(sides), centers * scale, scores, n_fine)
    target = camera or cameras[int(level_of[chosen].max(initial=0))]
    moved = [translations_for_camera(t, own, target) for own, t in zip(cameras, placed, strict=True)]
    translations = np.concatenate(moved)[chosen]
    rows, scores, centers = rows[chosen], scores[chosen], centers[chosen]
    parts = {name: np.ascontiguousarray(rows[:, part]) for name, part in contract.slices().items()}
    illumination = parts["illumination"].reshape(-1, 3, 9)
    illumination[:, :, 0] += np.float32(AMBIENT)
    rotations = _native.rotations_from_vectors(
        parts["rotation"], translations if contract.rotation_frame == "ray" else None
    )
    dense = DenseFaces(
        face_model,
        identity=parts["identity"],
        expression=parts["expression"],
        albedo=parts["albedo"],
        illumination=illumination,
        rotations=rotations,
        translations=translations,
        camera=target,
        threads=threads,
    )
    return dense, sparse_faces(dense, parts, illumination, rotations, translations, scores, centers)


def merged(sides: Floats, centers: Floats, scores: F32, n_fine: int) -> NDArray[np.intp]:
    """Choose among faces seen at two scales; return their numbers, best score first.

    The network knows faces up to some 300 px. Larger ones are taken from the reduced photo, small ones from the photo,
    and of two in the same place the one that is nearer to the sizes that the network knows, else the better.

    Parameters
    ----------
    sides : (F,)
        Size of the face, pixels of the photo at network scale.
    centers : (F, 2)
        In the same pixels.
    scores : (F,)
    n_fine : int
        The first `n_fine` were found on the photo, the others on the reduced one.
    """
    keep = np.ones(len(scores), bool)
    keep[n_fine:] = sides[n_fine:] >= LARGE_PX[0]
    for coarse in range(n_fine, len(scores)):
        if keep[coarse]:
            same = np.flatnonzero(
                keep[:n_fine] & (np.abs(centers[:n_fine] - centers[coarse]).max(axis=1) < 0.4 * sides[coarse])
            )
            alike = same[sides[same] > 0.6 * sides[coarse]]
            if sides[coarse] >= LARGE_PX[1] or (scores[alike] < scores[coarse]).all():
                keep[same] = False
            else:
                keep[coarse] = False
    chosen = np.flatnonzero(keep)
    return chosen[np.argsort(-scores[chosen], kind="stable")]


def _translations(level: Peaks, offsets: slice, focal: float, size: tuple[int, int]) -> F32:
    """Translations (P, 3), mm, in the contract's camera at the scale of the level."""
    principal_point = (size[0] * level.scale / 2, size[1] * level.scale / 2)
    rows = np.ascontiguousarray(level.rows[:, offsets])
    return _native.translations_from_offsets(rows, level.centers, focal, principal_point)


def sparse_faces(
    dense: DenseFaces,
    parts: dict[str, F32],
    illumination: F32,
    rotations: F32,
    translations: F32,
    scores: F32,
    centers: F32,
) -> tuple[Face, ...]:
    """Return the F faces of `dense`, whose coefficients, rotations and translations these are, with their sparse values."""
    camera, native = dense.camera, dense.face_model.native
    landmarks_model = native.landmarks(parts["identity"], parts["expression"])
    landmarks_camera = _native.transform(landmarks_model, rotations, translations, 1)
    landmarks = _native.project(landmarks_camera, camera.focal, camera.principal_point)
    poses = _native.pose_from_rotations(rotations)
    boxes = native.boxes(
        parts["identity"],
        parts["expression"],
        rotations,
        translations,
        camera.focal,
        camera.principal_point,
        dense.threads,
    )
    return tuple(
        Face(
            index=index,
            score=float(scores[index]),
            box=boxes[index],
            center=centers[index],
            landmarks=landmarks[index],
            landmarks_camera=landmarks_camera[index],
            rotation=rotations[index],
            translation=translations[index],
            pose=Pose(*(float(angle) for angle in poses[index])),
            coefficients=Coefficients(
                identity=parts["identity"][index],
                expression=parts["expression"][index],
                albedo=parts["albedo"][index],
                illumination=illumination[index],
            ),
            dense=dense,
        )
        for index in range(len(scores))
    )


def translations_for_camera(translations: F32, default: Camera, camera: Camera) -> F32:
    """Return the (F, 3) translations, mm, that keep pixel and size of every model origin under another camera.

    With ``u = c_x + f t_x/t_z``: ``t_z' = t_z f'/f``, ``t_x' = t_z' (u − c_x')/f'``; likewise for y.
    """
    if camera == default:
        return translations
    pixels = translations[:, :2] / translations[:, 2:] * default.focal + np.array(default.principal_point)
    depth = translations[:, 2:] * (camera.focal / default.focal)
    moved = np.concatenate([depth * (pixels - np.array(camera.principal_point)) / camera.focal, depth], axis=1)
    return moved.astype(np.float32)
