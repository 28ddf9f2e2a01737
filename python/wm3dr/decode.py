"""Coefficient rows of the peaks → faces in a camera. Arithmetic on whole meshes is the native module's."""

import numpy as np
from numpy.typing import NDArray

from . import _native
from .camera import Camera
from .dense import DenseFaces
from .encoder import EncoderContract
from .face_model import FaceModel
from .result import Coefficients, Face, Pose

F32 = NDArray[np.float32]

AMBIENT = 0.8
"""Ambient light that illumination rows are offsets from (CONVENTIONS.md §4)."""


def decode(
    rows: F32,
    scores: F32,
    centers: F32,
    *,
    contract: EncoderContract,
    face_model: FaceModel,
    scale: float,
    default: Camera,
    camera: Camera | None,
    threads: int,
) -> tuple[DenseFaces, tuple[Face, ...]]:
    """Place F faces in the camera and compute their sparse values.

    Parameters
    ----------
    rows : (F, C) float32
        Raw coefficients at the peaks (CONVENTIONS.md §4).
    scores : (F,) float32
        Heatmap values.
    centers : (F, 2) float32
        Centres of the peaks' cells, network pixels.
    scale : float
        Network pixels per pixel of the caller's image.
    default : Camera
        The camera of the contract, in the caller's pixels.
    camera : Camera, optional
        The caller's camera; translations are solved anew for it.
    """
    parts = {name: np.ascontiguousarray(rows[:, part]) for name, part in contract.slices().items()}
    illumination = parts["illumination"].reshape(-1, 3, 9)
    illumination[:, :, 0] += np.float32(AMBIENT)
    (cx, cy), focal = default.principal_point, default.focal
    translations = _native.translations_from_offsets(
        parts["translation"], centers, focal * scale, (cx * scale, cy * scale)
    )
    if camera is not None:
        translations = translations_for_camera(translations, default, camera)
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
        camera=camera or default,
        threads=threads,
    )
    return dense, _faces(dense, parts, illumination, rotations, translations, scores, centers / np.float32(scale))


def _faces(
    dense: DenseFaces,
    parts: dict[str, F32],
    illumination: F32,
    rotations: F32,
    translations: F32,
    scores: F32,
    centers: F32,
) -> tuple[Face, ...]:
    """Put the sparse values of F faces together."""
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
    pixels = translations[:, :2] / translations[:, 2:] * default.focal + np.array(default.principal_point)
    depth = translations[:, 2:] * (camera.focal / default.focal)
    moved = np.concatenate([depth * (pixels - np.array(camera.principal_point)) / camera.focal, depth], axis=1)
    return moved.astype(np.float32)
