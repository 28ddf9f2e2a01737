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
from .placement import placed_in_camera
from .result import Coefficients, Face, Pose

F32 = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]

AMBIENT = 0.8
"""Ambient light that illumination rows are offsets from (CONVENTIONS.md §4)."""
FACE_MM = 160.0
"""Width of a face of the face model, about."""
LARGE_PX = (104.0, 148.0)
"""Times √k, k the reduction: faces of this size at network scale may come from the reduced photo, where they are as far
below the sizes that the network knows best as they are above them in the photo; beyond the second, they do."""


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
        reduction = scale / levels[1].scale
        chosen = merged(np.concatenate(sides), centers * scale, scores, n_fine, reduction)
    target = camera or cameras[int(level_of[chosen].max(initial=0))]
    translations, level_of = np.concatenate(placed)[chosen], level_of[chosen]
    rows, scores, centers = rows[chosen], scores[chosen], centers[chosen]
    parts = {name: np.ascontiguousarray(rows[:, part]) for name, part in contract.slices().items()}
    illumination = parts["illumination"].reshape(-1, 3, 9)
    illumination[:, :, 0] += np.float32(AMBIENT)
    rotations = _native.rotations_from_vectors(
        parts["rotation"], translations if contract.rotation_frame == "ray" else None
    )
    for level, own in enumerate(cameras):
        moved = np.flatnonzero(level_of == level)
        if own != target and len(moved):
            landmarks = face_model.native.landmarks(parts["identity"][moved], parts["expression"][moved])
            rotations[moved], translations[moved] = placed_in_camera(
                landmarks, rotations[moved], translations[moved], own, target
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
    return dense, faces_from_dense(dense, scores, centers)


def neighbourhoods(
    cells: NDArray[np.int32], shape: tuple[int, int], window: int
) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Return the cells of a window around each cell, as far as they are on the map.

    Parameters
    ----------
    cells : (P, 2) int32
        Row and column.
    shape : (int, int)
        Rows and columns of the map.
    window : int
        Side of the window, odd.

    Returns
    -------
    around : (M, 2) int32
        Each cell's own window one after the other.
    owner : (M,)
        Number of the cell that each belongs to.
    """
    reach = np.arange(window, dtype=np.int32) - window // 2
    offsets = np.stack(np.meshgrid(reach, reach, indexing="ij"), axis=-1).reshape(-1, 2)
    around = (cells[:, None] + offsets).reshape(-1, 2)
    owner = np.repeat(np.arange(len(cells)), len(offsets))
    inside = ((around >= 0) & (around < shape)).all(axis=1)
    return around[inside], owner[inside]


def averaged_rows(rows: F32, shifts: F32, owner: NDArray[np.intp], offsets: slice) -> F32:
    """Average the rows that the cells around each peak hold for its face (METHOD.md, figure 10: they nearly agree).

    Parameters
    ----------
    rows : (M, C)
        Raw coefficients.
    shifts : (M, 2)
        Centre of each row's cell less that of the peak's, network pixels: lateral offsets count from the cell.
    owner : (M,)
        Number of the peak that each row belongs to, ascending; every peak has a row.
    offsets : slice
        Where the translation offsets lie.

    Returns
    -------
    averaged : (P, C)
        As seen from the peaks' cells.
    """
    if not len(rows):
        return rows
    rows = rows.copy()
    rows[:, offsets.start : offsets.start + 2] += shifts
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    counts = np.diff(first, append=len(rows))
    means = np.add.reduceat(rows, first, axis=0) / counts[:, None].astype(np.float32)
    return means.astype(np.float32, copy=False)


def merged(sides: Floats, centers: Floats, scores: F32, n_fine: int, reduction: float) -> NDArray[np.intp]:
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
    reduction : float
        k, pixels of the photo per pixel of the reduced one.
    """
    may, must = (float(side * np.sqrt(reduction)) for side in LARGE_PX)
    keep = np.ones(len(scores), bool)
    keep[n_fine:] = sides[n_fine:] >= may
    for coarse in range(n_fine, len(scores)):
        if keep[coarse]:
            same = np.flatnonzero(
                keep[:n_fine] & (np.abs(centers[:n_fine] - centers[coarse]).max(axis=1) < 0.4 * sides[coarse])
            )
            alike = same[sides[same] > 0.6 * sides[coarse]]
            if sides[coarse] >= must or (scores[alike] < scores[coarse]).all():
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


def faces_from_dense(dense: DenseFaces, scores: F32, centers: F32) -> tuple[Face, ...]:
    """Compute the sparse values of F faces, from scores (F,) and centres of the peaks (F, 2) px."""
    camera, native = dense.camera, dense.face_model.native
    unscaled = dense.translations / dense.scales[:, None]  # boxes are those of the face model at its own scale
    landmarks_camera = _native.transform(dense.landmarks_model, dense.rotations, dense.translations, 1)
    landmarks = _native.project(landmarks_camera, camera.focal, camera.principal_point)
    poses = _native.pose_from_rotations(dense.rotations)
    boxes = native.boxes(
        dense.identity,
        dense.expression,
        dense.rotations,
        unscaled,
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
            rotation=dense.rotations[index],
            translation=dense.translations[index],
            pose=Pose(*(float(angle) for angle in poses[index])),
            coefficients=Coefficients(
                identity=dense.identity[index],
                expression=dense.expression[index],
                albedo=dense.albedo_coefficients[index],
                illumination=dense.illumination[index],
            ),
            dense=dense,
        )
        for index in range(len(dense))
    )
