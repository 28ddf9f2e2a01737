"""Real sizes for the benchmarks: the default face model and scenes of n faces."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

import wm3dr
from wm3dr import _native

F32 = NDArray[np.float32]
FOCAL, SIZE = 1015.0, (512, 512)
CENTRE = (256.0, 256.0)


@dataclass(frozen=True)
class Scene:
    """n faces of about the same height in pixels, coefficients and what follows from them."""

    identity: F32
    expression: F32
    albedo: F32
    illumination: F32
    rotations: F32
    translations: F32
    vertices: F32
    """(F, N, 3) mm, camera frame"""


@cache
def face_model() -> wm3dr.FaceModel:
    return wm3dr.FaceModel.load()


@cache
def scene(faces: int, height_px: float, seed: int = 0) -> Scene:
    """One face in the middle, or several spread over the image."""
    native = face_model().native
    rng = np.random.default_rng(seed)
    identity = rng.normal(0, 0.7, (faces, native.n_identity)).astype(np.float32)
    expression = np.clip(rng.normal(0, 0.15, (faces, native.n_expression)), 0, 1).astype(np.float32)
    albedo = rng.normal(0, 0.7, (faces, native.n_albedo)).astype(np.float32)
    illumination = rng.normal(0, 0.1, (faces, 3, 9)).astype(np.float32)
    illumination[:, :, 0] += 0.8
    height_mm = np.ptp(native.mean_shape[:, 1])
    translations = np.zeros((faces, 3), np.float32)
    translations[:, 2] = FOCAL * height_mm / height_px
    if faces > 1:
        room = (SIZE[0] - height_px) / 2 / FOCAL
        translations[:, :2] = rng.uniform(-room, room, (faces, 2)) * translations[:, 2:]
        translations[:, 2] += rng.uniform(-30, 30, faces)
    vectors = rng.normal(0, 0.15, (faces, 3)).astype(np.float32)
    rotations = _native.rotations_from_vectors(vectors, translations)
    vertices = native.vertices_camera(identity, expression, rotations, translations, 1)
    return Scene(identity, expression, albedo, illumination, rotations, translations, vertices)
