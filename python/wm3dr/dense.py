"""Everything dense about the faces of one photo, computed when asked for and then kept.

All faces are decoded together: the native code walks each basis once for all of them.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import _native
from .camera import Camera
from .face_model import FaceModel

F32 = NDArray[np.float32]
T = TypeVar("T")

OPENGL_FROM_CAMERA = np.array([1.0, -1.0, -1.0], np.float32)
"""Diagonal of the turn between the camera and the OpenGL frame (CONVENTIONS.md §2)."""
VISIBLE_TOLERANCE_MM = 3.0
"""A vertex counts as visible up to this depth behind the drawn surface at its pixel, plus a pixel's size on it."""


@dataclass(frozen=True, eq=False)
class RasterBuffers:
    """What is seen at each pixel; see `Raster` for the meaning of the fields."""

    triangle_id: NDArray[np.int32]
    """(H, W)"""
    face_id: NDArray[np.int32]
    """(H, W)"""
    depth: F32
    """(H, W) mm"""
    barycentric: F32
    """(H, W, 3)"""


class DenseFaces:
    """Dense geometry and colour of F faces in one camera; every array is computed once, by whichever thread asks first.

    Arrays are shared with the caller and therefore read-only.
    """

    def __init__(
        self,
        face_model: FaceModel,
        *,
        identity: F32,
        expression: F32,
        albedo: F32,
        illumination: F32,
        rotations: F32,
        translations: F32,
        camera: Camera,
        threads: int,
    ) -> None:
        """Keep the decoded coefficients: (F, K_id), (F, K_exp), (F, K_alb), (F, 3, 9), (F, 3, 3), (F, 3) mm."""
        self.face_model = face_model
        self.camera = camera
        self._native = face_model.native
        self._identity, self._expression, self._albedo = identity, expression, albedo
        self._illumination, self._rotations, self._translations = illumination, rotations, translations
        self.threads = threads
        self._lock = threading.RLock()
        self._kept: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._rotations)

    def _once(self, name: str, compute: Callable[[], T]) -> T:
        with self._lock:
            if name not in self._kept:
                value = compute()
                arrays: list[Any] = list(vars(value).values()) if isinstance(value, RasterBuffers) else [value]
                for array in arrays:
                    array.flags.writeable = False
                self._kept[name] = value
            kept: T = self._kept[name]
            return kept

    @property
    def vertices_model(self) -> F32:
        """(F, N, 3) mm, model frame."""
        return self._once("vertices_model", lambda: self._native.shapes(self._identity, self._expression, self.threads))

    @property
    def vertices(self) -> F32:
        """(F, N, 3) mm, camera frame."""
        return self._once(
            "vertices",
            lambda: self._native.vertices_camera(
                self._identity, self._expression, self._rotations, self._translations, self.threads
            ),
        )

    @property
    def vertices_px(self) -> F32:
        """(F, N, 2) pixels of the caller's image."""
        return self._once(
            "vertices_px", lambda: _native.project(self.vertices, self.camera.focal, self.camera.principal_point)
        )

    @property
    def normals(self) -> F32:
        """(F, N, 3) unit vectors out of the face, camera frame."""
        return self._once("normals", lambda: self._native.normals(self.vertices, self.threads))

    @property
    def albedo(self) -> F32:
        """(F, N, 3) sRGB-encoded reflectance; mostly in [0, 1], not clipped."""
        return self._once("albedo", lambda: self._native.albedos(self._albedo, self.threads))

    @property
    def colors(self) -> F32:
        """(F, N, 3) albedo times shading (CONVENTIONS.md §6), sRGB-encoded, clipped to [0, 1]."""
        return self._once("colors", lambda: _native.colors(self.albedo, self.normals, self._illumination, self.threads))

    @property
    def raster(self) -> RasterBuffers:
        """What is seen at each pixel of the caller's image."""
        return self._once("raster", lambda: rasterize_faces(self.vertices, self.face_model, self.camera, self.threads))

    @property
    def raster_color(self) -> NDArray[np.uint8]:
        """(H, W, 3) RGB of the faces, 0 where there is nothing."""

        def compute() -> NDArray[np.uint8]:
            color = interpolate(self.raster, self.face_model.triangles, self.colors, self.threads)
            return np.rint(color * np.float32(255.0)).astype(np.uint8)

        return self._once("raster_color", compute)

    @property
    def raster_alpha(self) -> NDArray[np.uint8]:
        """(H, W) 255 on a face, 0 where there is nothing."""
        return self._once("raster_alpha", lambda: (self.raster.triangle_id >= 0).astype(np.uint8) * np.uint8(255))

    @property
    def raster_region(self) -> NDArray[np.int16]:
        """(H, W) face-part label of the nearest corner, -1 where there is nothing."""

        def compute() -> NDArray[np.int16]:
            hit = self.raster.triangle_id >= 0
            a, b, c = self.raster.barycentric[hit].T
            nearest = np.where(c > np.maximum(a, b), 2, b > a)
            labels = self.face_model.regions[self.face_model.triangles].reshape(-1)
            region = np.full(hit.shape, -1, np.int16)
            region[hit] = labels[3 * self.raster.triangle_id[hit] + nearest]
            return region

        return self._once("raster_region", compute)

    @property
    def visible(self) -> NDArray[np.bool_]:
        """(F, N) whether the vertex is seen: inside the image, facing the camera, hidden by no face."""
        return self._once("visible", self._visible)

    def _visible(self) -> NDArray[np.bool_]:
        depth = self.raster.depth
        height, width = depth.shape
        visible = np.zeros(self.vertices.shape[:2], bool)
        for face in range(len(self)):  # per face, to keep the temporaries small
            vertices, pixels = self.vertices[face], np.floor(self.vertices_px[face])
            distance = np.linalg.norm(vertices, axis=1)
            cosine = -np.einsum("nc,nc->n", vertices, self.normals[face]) / np.maximum(distance, 1e-6)
            inside = (pixels >= 0).all(axis=1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
            inside &= vertices[:, 2] > 0
            x, y = np.where(inside[:, None], pixels, 0).astype(np.intp).T
            surface = depth[y, x]
            # Over one pixel a surface seen at a slant changes its depth by (pixel size) · tan(slant).
            pixel_mm = vertices[:, 2] / self.camera.focal
            slant = np.sqrt(np.maximum(1.0 - cosine**2, 0.0)) / np.maximum(cosine, 0.05)
            hidden = (surface > 0) & (vertices[:, 2] > surface + VISIBLE_TOLERANCE_MM + pixel_mm * slant)
            visible[face] = inside & (cosine > 0) & ~hidden
        return visible


def rasterize(vertices: F32, triangles: NDArray[np.int32], camera: Camera, threads: int) -> RasterBuffers:
    """Draw (F, N, 3) camera-frame vertices, mm, into the pixels of `camera` (CONVENTIONS.md §7)."""
    return RasterBuffers(
        *_native.rasterize(vertices, triangles, camera.focal, camera.principal_point, camera.size, threads)
    )


def rasterize_faces(vertices: F32, face_model: FaceModel, camera: Camera, threads: int) -> RasterBuffers:
    """Draw (F, N, 3) camera-frame vertices of the face model, mm.

    A refined mesh is drawn as the mesh that is stored, a quarter of the triangles: the parts of a triangle lie in its
    plane, so which of them a pixel sees follows from the weights of its corners.
    """
    stored = face_model.stored_triangles
    if len(stored) == len(face_model.triangles):
        return rasterize(vertices, stored, camera, threads)
    corners = np.ascontiguousarray(vertices[:, : int(stored.max()) + 1])
    view = (camera.focal, camera.principal_point, camera.size)
    return RasterBuffers(*_native.rasterize(corners, stored, *view, threads, split=True))


def interpolate(buffers: RasterBuffers, triangles: NDArray[np.int32], attributes: F32, threads: int) -> F32:
    """Carry (F, N, C) vertex attributes to the pixels, (H, W, C), 0 where there is nothing."""
    return _native.interpolate(
        buffers.triangle_id, buffers.face_id, buffers.barycentric, triangles, attributes, threads
    )
