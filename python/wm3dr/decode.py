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
from .image import NetworkInput
from .placement import placed_in_camera
from .result import Face, Pose

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
    photo: NetworkInput | None = None,
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
    photo : NetworkInput, optional
        Fit albedo and illumination to it when they are first asked for; None leaves the encoder's.
    """
    cameras = [Camera(contract.focal / level.scale, (size[0] / 2, size[1] / 2), size) for level in levels]
    slices = contract.slices()
    placed = [_translations(level, slices["translation"], contract.focal, size) for level in levels]
    level_of: NDArray[np.intp] | None = None
    if len(levels) == 1:
        (only,), (translations,) = levels, placed
        rows, scores, centers = only.rows, only.scores, only.centers / np.float32(only.scale)
    else:
        rows, scores, centers, translations, level_of = _joined(levels, cameras, placed)
    target = camera or cameras[0 if level_of is None else int(level_of.max(initial=0))]
    parts = {name: rows[:, part].copy() for name, part in slices.items()}
    illumination = parts["illumination"].reshape(-1, 3, 9)
    illumination[:, :, 0] += np.float32(AMBIENT)
    rotations = _native.rotations_from_vectors(
        parts["rotation"], translations if contract.rotation_frame == "ray" else None
    )
    for level, own in enumerate(cameras):
        if own == target:
            continue
        moved = np.arange(len(rows)) if level_of is None else np.flatnonzero(level_of == level)
        if len(moved):
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
        photo=photo,
    )
    return dense, faces_from_dense(dense, scores, centers)


def neighbourhoods(
    cells: NDArray[np.int32], shape: tuple[int, int], window: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
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
    owner : (M,) int32
        Number of the cell that each belongs to.

    Raises
    ------
    ValueError
        A cell is not on the map, or the window is even.
    """
    return _native.neighbourhoods(cells, shape, window)


def averaged_rows(
    rows: F32,
    cells: NDArray[np.int32],
    around: NDArray[np.int32],
    owner: NDArray[np.int32],
    stride: int,
    offsets: slice,
) -> F32:
    """Average the rows that the cells around each peak hold for its face (METHOD.md, figure 10: they nearly agree).

    Parameters
    ----------
    rows : (M, C)
        Raw coefficients of the cells `around` the peaks.
    cells : (P, 2) int32
        The peaks.
    around, owner : (M, 2), (M,) int32
        As `neighbourhoods` returns them.
    stride : int
        Network pixels per cell: lateral offsets count from the cell.
    offsets : slice
        Where the translation offsets lie.

    Returns
    -------
    averaged : (P, C)
        As seen from the peaks' cells.

    Raises
    ------
    ValueError
        A peak has no row, or rows are not in the order of the peaks.
    """
    return _native.averaged_rows(rows, cells, around, owner, float(stride), offsets.start)


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


def _joined(
    levels: Sequence[Peaks], cameras: Sequence[Camera], placed: Sequence[F32]
) -> tuple[F32, F32, F32, F32, NDArray[np.intp]]:
    """Rows, scores, centres in pixels of the photo, translations and levels of the faces that `merged` chooses."""
    rows = np.concatenate([level.rows for level in levels])
    scores = np.concatenate([level.scores for level in levels])
    centers = np.concatenate([level.centers / np.float32(level.scale) for level in levels])
    level_of = np.repeat(np.arange(len(levels)), [len(level.scores) for level in levels])
    scale = levels[0].scale
    sides = [FACE_MM * own.focal * scale / t[:, 2] for own, t in zip(cameras, placed, strict=True)]
    reduction = scale / levels[1].scale
    chosen = merged(np.concatenate(sides), centers * scale, scores, len(levels[0].scores), reduction)
    return rows[chosen], scores[chosen], centers[chosen], np.concatenate(placed)[chosen], level_of[chosen]


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
    poses = _native.pose_from_rotations(dense.rotations).tolist()
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
            pose=Pose(*poses[index]),
            dense=dense,
        )
        for index in range(len(dense))
    )
