"""Everything dense about the faces of one photo, computed when asked for and then kept.

All faces are decoded together: the native code walks each basis once for all of them.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import _native
from .camera import Camera
from .face_model import FaceModel

if TYPE_CHECKING:
    from .image import NetworkInput

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
        scales: F32 | None = None,
        metric: NDArray[np.bool_] | None = None,
        photo: "NetworkInput | None" = None,
        colors_of: "DenseFaces | None" = None,
    ) -> None:
        """Keep the decoded values.

        Parameters
        ----------
        identity, expression, albedo, illumination : (F, K_id), (F, K_exp), (F, K_alb), (F, 3, 9) float32
            Coefficients (CONVENTIONS.md §4).
        rotations, translations : (F, 3, 3), (F, 3) float32
            Model to camera frame, mm; translations carry `scales` already.
        scales : (F,) float32, optional
            Millimetres per millimetre of the face model; None is 1.
        metric : (F,) bool, optional
            Whether the scale comes from a known size; None is False.
        photo : NetworkInput, optional
            Where albedo and illumination are fitted to when they are first asked for; None leaves them as they are.
        colors_of : DenseFaces, optional
            The same faces, whose albedo and illumination count instead of those given.
        """
        self.face_model = face_model
        self.camera = camera
        self.identity, self.expression = identity, expression
        self.rotations, self.translations = rotations, translations
        self._albedo, self._illumination = albedo, illumination
        self._photo, self._colors_of = photo, colors_of
        self.threads = threads
        self.scales = np.ones(len(rotations), np.float32) if scales is None else scales
        self.metric = np.zeros(len(rotations), bool) if metric is None else metric
        self._native = face_model.native
        self._lock = threading.RLock()
        self._kept: dict[str, Any] = {}

    def changed(self, **changes: Any) -> "DenseFaces":
        """Return the same faces with other values of the constructor's keywords, e.g. `expression=...`."""
        values: dict[str, Any] = {
            "identity": self.identity,
            "expression": self.expression,
            "rotations": self.rotations,
            "translations": self.translations,
            "camera": self.camera,
            "threads": self.threads,
            "scales": self.scales,
            "metric": self.metric,
        }
        pending = self._photo is not None or self._colors_of is not None
        if pending and "albedo" not in changes and "illumination" not in changes:
            # Not fitted before they are asked for, and then to these faces.
            values |= {"albedo": self._albedo, "illumination": self._illumination, "colors_of": self}
        else:
            values |= {"albedo": self.albedo_coefficients, "illumination": self.illumination}
        return DenseFaces(self.face_model, **(values | changes))

    def __len__(self) -> int:
        return len(self.rotations)

    def once(self, name: str, compute: Callable[[], T]) -> T:
        """Return what `compute` returned when it was first asked for under `name`; arrays become read-only."""
        with self._lock:
            if name not in self._kept:
                value: Any = compute()
                parts = vars(value).values() if isinstance(value, RasterBuffers) else value
                for array in parts if isinstance(value, RasterBuffers | tuple) else [value]:
                    array.flags.writeable = False
                self._kept[name] = value
            kept: T = self._kept[name]
            return kept

    @property
    def vertices_model(self) -> F32:
        """(F, N, 3) mm, model frame."""
        return self.once(
            "vertices_model",
            lambda: self._scaled(self._native.shapes(self.identity, self.expression, self.threads)),
        )

    @property
    def vertices(self) -> F32:
        """(F, N, 3) mm, camera frame."""

        return self.once("vertices", lambda: self._native.refine(self.stored_vertices, self.threads))

    @property
    def stored_vertices(self) -> F32:
        """(F, N0, 3) mm, camera frame: the vertices of the mesh as it is stored, the first of `vertices`."""

        def compute() -> F32:
            unscaled = self.translations / self.scales[:, None]  # exact where the scale is 1
            return self._scaled(
                self._native.stored_vertices(self.identity, self.expression, self.rotations, unscaled, self.threads)
            )

        return self.once("stored_vertices", compute)

    @property
    def stored_normals(self) -> F32:
        """(F, N0, 3) unit vectors out of the face, camera frame: the first of `normals`."""
        return self.once("stored_normals", lambda: self._native.stored_normals(self.stored_vertices, self.threads))

    @property
    def landmarks_model(self) -> F32:
        """(F, 68, 3) mm, model frame."""
        return self.once(
            "landmarks_model", lambda: self._scaled(self._native.landmarks(self.identity, self.expression))
        )

    def _scaled(self, points: F32) -> F32:
        """Multiply fresh (F, N, 3) points of the face model by the scales, in place."""
        if (self.scales != 1.0).any():
            points *= self.scales[:, None, None]
        return points

    @property
    def vertices_px(self) -> F32:
        """(F, N, 2) pixels of the caller's image."""
        return self.once(
            "vertices_px", lambda: _native.project(self.vertices, self.camera.focal, self.camera.principal_point)
        )

    @property
    def normals(self) -> F32:
        """(F, N, 3) unit vectors out of the face, camera frame."""
        return self.once("normals", lambda: self._native.normals(self.vertices, self.threads))

    @property
    def albedo_coefficients(self) -> F32:
        """(F, K_alb) standard deviations; fitted to the photo where there is one."""
        return self._fitted[0]

    @property
    def illumination(self) -> F32:
        """(F, 3, 9) with the ambient term; fitted to the photo where there is one."""
        return self._fitted[1]

    @property
    def _fitted(self) -> tuple[F32, F32]:
        """Albedo and illumination (CONVENTIONS.md §6)."""
        if self._colors_of is not None:
            return self._colors_of._fitted

        def compute() -> tuple[F32, F32]:
            photo = self._photo
            if photo is None:
                return self._albedo, self._illumination
            width, height = photo.covered
            fitted = self.face_model.color_fitter.fit(
                np.ascontiguousarray(photo.pixels[0, :height, :width]),
                self.camera.focal * photo.scale,
                (self.camera.principal_point[0] * photo.scale, self.camera.principal_point[1] * photo.scale),
                self.stored_vertices,
                self.stored_normals,
                self._albedo,
                self._illumination,
                self.threads,
            )
            self._photo = None
            return fitted

        return self.once("fitted", compute)

    @property
    def albedo(self) -> F32:
        """(F, N, 3) sRGB-encoded reflectance; mostly in [0, 1], not clipped."""
        return self.once("albedo", lambda: self._native.albedos(self.albedo_coefficients, self.threads))

    @property
    def colors(self) -> F32:
        """(F, N, 3) albedo times shading (CONVENTIONS.md §6), sRGB-encoded, clipped to [0, 1]."""
        return self.once("colors", lambda: _native.colors(self.albedo, self.normals, self.illumination, self.threads))

    @property
    def raster(self) -> RasterBuffers:
        """What is seen at each pixel of the caller's image."""

        def compute() -> RasterBuffers:
            return rasterize_faces(self.stored_vertices, self.face_model, self.camera, self.threads)

        return self.once("raster", compute)

    @property
    def raster_color(self) -> NDArray[np.uint8]:
        """(H, W, 3) RGB of the rendered faces, 0 where there is nothing: `colors` carried to the pixels.

        Unless the raster is there already, both are drawn in one pass, which shades what it shows and nothing else.
        """

        def compute() -> NDArray[np.uint8]:
            if "raster" in self._kept:
                carried = interpolate(self.raster, self.face_model.triangles, self.colors, self.threads)
                return np.rint(carried * np.float32(255.0)).astype(np.uint8)
            camera = self.camera
            buffers, color = self._native.render(
                self.stored_vertices,
                self.stored_normals,
                self.albedo_coefficients,
                self.illumination,
                camera.focal,
                camera.principal_point,
                camera.size,
                self.threads,
            )
            self.once("raster", lambda: RasterBuffers(*buffers))
            return color

        return self.once("raster_color", compute)

    @property
    def visible(self) -> NDArray[np.bool_]:
        """(F, N) whether the vertex is seen: inside the image, facing the camera, hidden by no face."""
        return self.once("visible", self._visible)

    @property
    def landmarks_visible(self) -> NDArray[np.bool_]:
        """(F, 68) whether a corner of one of the triangles around the landmark is visible.

        The landmark's own vertex would be too strict: those of the upper lids lie on the rim, which faces downwards.
        """

        def compute() -> NDArray[np.bool_]:
            landmarks = self.face_model.landmark_vertices
            triangles = self.face_model.triangles
            triangles = triangles[np.isin(triangles, landmarks).any(axis=1)]
            seen: NDArray[np.bool_] = np.any(self.visible[:, triangles], axis=2)
            around = [np.any(triangles == vertex, axis=1) for vertex in landmarks]
            return np.stack([seen[:, part].any(axis=1) for part in around], axis=1)

        return self.once("landmarks_visible", compute)

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
            tolerance = VISIBLE_TOLERANCE_MM * self.scales[face]
            slant = np.sqrt(np.maximum(1.0 - cosine**2, 0.0)) / np.maximum(cosine, 0.05)
            hidden = (surface > 0) & (vertices[:, 2] > surface + tolerance + pixel_mm * slant)
            visible[face] = inside & (cosine > 0) & ~hidden
        return visible


def rasterize(vertices: F32, triangles: NDArray[np.int32], camera: Camera, threads: int) -> RasterBuffers:
    """Draw (F, N, 3) camera-frame vertices, mm, into the pixels of `camera` (CONVENTIONS.md §7)."""
    return RasterBuffers(
        *_native.rasterize(vertices, triangles, camera.focal, camera.principal_point, camera.size, threads)
    )


def rasterize_faces(stored_vertices: F32, face_model: FaceModel, camera: Camera, threads: int) -> RasterBuffers:
    """Draw (F, N0, 3) camera-frame vertices of the face model as it is stored, mm; the maps speak of the refined mesh.

    A refined mesh is drawn as the mesh that is stored, a quarter of the triangles: the parts of a triangle lie in its
    plane, so which of them a pixel sees follows from the weights of its corners.
    """
    stored = face_model.stored_triangles
    view = (camera.focal, camera.principal_point, camera.size)
    split = len(stored) < len(face_model.triangles)
    return RasterBuffers(*_native.rasterize(stored_vertices, stored, *view, threads, split=split))


def interpolate(buffers: RasterBuffers, triangles: NDArray[np.int32], attributes: F32, threads: int) -> F32:
    """Carry (F, N, C) vertex attributes to the pixels, (H, W, C), 0 where there is nothing."""
    return _native.interpolate(
        buffers.triangle_id, buffers.face_id, buffers.barycentric, triangles, attributes, threads
    )
