"""The UV texture of a face: the photo where the face is seen, its mirror side or the albedo model where it is not.

Everything is put together as reflectance, `photo / shading` (CONVENTIONS.md §6), because the two sides of a face are
lit differently: mirrored and modelled parts then get the light of the place where they are put.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _native
from .camera import Camera
from .dense import OPENGL_FROM_CAMERA, DenseFaces, RasterBuffers, interpolate, rasterize
from .face_model import FaceModel
from .image import ColorOrder, read_rgb
from .sampling import F32, bilinear, blurred, continued, doubled, smoothstep

if TYPE_CHECKING:
    from .image import ImageSource
    from .result import Face

NOTHING, SEEN, MIRRORED, MODEL = 0, 1, 2, 3
"""Values of `Texture.source`."""
MIN_SIZE, MAX_SIZE = 16, 8192
"""Sides of an atlas, pixels."""
GRAZING = (0.12, 0.45)
"""Cosine of the angle between normal and viewing ray: unseen up to the first, fully seen from the second."""
DEPTH_TOLERANCE_MM = 2.0
"""A point counts as hidden from this depth behind the drawn surface, plus what one pixel adds at its slant."""
VISIBILITY_SIDE = 640
"""Longer side of the depth buffer that a face's visibility is decided in, pixels: what faces of a few photo pixels
hide of themselves and of others is as exact as with large ones."""
MIN_RELATIVE_SHADING = 0.3
"""Shading is taken for at least this share of its mean over the face, so that no division blows up noise."""
MAX_MATCH = 2.0
"""Colours of the mirror side and of the model are matched to what is seen by at most this factor."""
DARKEST = np.float32(4.0)
"""Reflectances (of 255) below this count as this when colours are matched."""
GREY_RANGE = 6.0
"""A photo is grey if at most one point in twenty of a face has channels farther apart than this."""
LUMA = np.array([[0.299], [0.587], [0.114]], np.float32)
FEATHER = 1 / 48
"""Width of the blend between sources, shares of the atlas."""


@dataclass(frozen=True, eq=False)
class Texture:
    """A square UV atlas (S, S) of one face; texel (column j, row i) has u = (j + ½)/S, v = 1 − (i + ½)/S."""

    color: NDArray[np.uint8]
    """(S, S, 3) RGB, sRGB-encoded, with the light of the photo; continued smoothly beyond the atlas (no dark seams)."""
    albedo: NDArray[np.uint8]
    """(S, S, 3) RGB, sRGB-encoded, without the light: `color / shading`, clipped."""
    mask: NDArray[np.uint8]
    """(S, S) how much of the texel comes from where the photo shows it: 255 all, 0 nothing."""
    source: NDArray[np.uint8]
    """(S, S) where most of it comes from: 0 no face here, 1 seen in the photo, 2 mirrored, 3 the albedo model."""

    @property
    def size(self) -> int:
        """Side of the atlas, texels."""
        return len(self.color)

    def sample(self, uv: NDArray[Any], *, delight: bool = False) -> F32:
        """Return the colours (M, 3), 0 to 255, at texture coordinates (M, 2) with v up, between texel centres.

        Parameters
        ----------
        uv : (M, 2)
        delight : bool
            Read `albedo` instead of `color`.
        """
        points = np.asarray(uv, np.float32) * np.float32(self.size)
        return bilinear(self.albedo if delight else self.color, points[:, 0], self.size - points[:, 1])


def texture_from_photo(face: "Face", image: "ImageSource", size: int = 1024, *, color: ColorOrder = "rgb") -> Texture:
    """Take the texture of a face from its photo; see `Face.texture`."""
    _check_size(size)
    photo = photo_of(face.dense, image, color)
    model, dense, index = face.face_model, face.dense, face.index
    buffers = atlas_raster(model, size, dense.threads)
    inside = buffers.triangle_id >= 0
    shading = shading_of(face)
    grey = is_grey(photo, face.vertices_px)
    if grey:
        shading = np.repeat(shading @ LUMA, 3, axis=1)
    if (shading <= 0).all():
        raise ValueError("the illumination of this face is nowhere positive: there is nothing to divide the photo by")
    shading = np.maximum(shading, np.float32(MIN_RELATIVE_SHADING) * np.maximum(shading, 0).mean(axis=0))
    surface = np.concatenate([dense.vertices[index], dense.normals[index], shading], axis=1)
    window = visibility_window(dense, index)

    def from_photo(of_vertices: F32) -> tuple[F32, F32, F32]:
        """Reflectance (S, S, 3), weight (S, S) and shading (S, S, 3) of the texels' points (or of their mirrors)."""
        carried = interpolate(buffers, model.triangles, of_vertices[None], dense.threads)
        points, normals, light = carried[inside, :3], carried[inside, 3:6], carried[:, :, 6:]
        weight = np.zeros((size, size), np.float32)
        weight[inside] = visibility(points, normals, window, dense.camera, index, face.scale)
        reflectance = np.zeros((size, size, 3), np.float32)
        pixels = _native.project(points[None], dense.camera.focal, dense.camera.principal_point)[0]
        reflectance[inside] = bilinear(photo, pixels[:, 0], pixels[:, 1]) / light[inside]
        return reflectance, _feathered(weight, inside, round(size * FEATHER / 2)), light

    seen, seen_weight, light = from_photo(surface)
    mirrored, mirrored_weight, _ = from_photo(surface[model.mirror])
    mirrored *= _match(seen, mirrored, seen_weight * mirrored_weight)
    mirrored_weight = (1 - seen_weight) * mirrored_weight
    known_weight = seen_weight + mirrored_weight
    known = seen * seen_weight[:, :, None] + mirrored * mirrored_weight[:, :, None]
    known /= np.maximum(known_weight, np.float32(1e-6))[:, :, None]
    modelled = interpolate(buffers, model.triangles, np.clip(dense.albedo[index : index + 1], 0, 1), dense.threads)
    modelled *= np.float32(255.0)
    if grey:
        modelled = np.repeat(modelled @ LUMA, 3, axis=2)
    modelled *= _tone(known, modelled, known_weight)
    modelled *= _match(known, modelled, known_weight)
    reflectance = known * known_weight[:, :, None] + modelled * (1 - known_weight)[:, :, None]

    parts = np.stack([seen_weight, mirrored_weight, 1 - known_weight], axis=2)
    source = np.where(inside, 1 + parts.argmax(axis=2), NOTHING).astype(np.uint8)
    return Texture(
        color=_bytes(reflectance * light, inside),
        albedo=_bytes(reflectance, inside),
        mask=np.rint(255 * seen_weight).astype(np.uint8),
        source=source,
    )


def fitting_textures(faces: Sequence["Face"], image: "ImageSource", *, color: ColorOrder = "rgb") -> list[Texture]:
    """Take the textures of several faces, each at the size that holds what the photo shows of it (`fitting_size`)."""
    photo = read_rgb(image, color)
    return [texture_from_photo(face, photo, fitting_size(face)) for face in faces]


def fitting_size(face: "Face") -> int:
    """Return the power of two, 128 to 2048, from which on an atlas has a texel per pixel of the face and more."""
    side = float(np.ptp(face.vertices_px, axis=0).max())
    return int(2 ** np.clip(np.ceil(np.log2(max(1.5 * side, 1.0))), 7, 11))


def atlas_raster(face_model: FaceModel, size: int, threads: int) -> RasterBuffers:
    """Return which triangle of the face model each texel belongs to, with weights of its corners.

    The rasterizer draws the atlas: texture coordinates as x and y at constant depth, where perspective is linear.
    """
    corners = face_model.uv.reshape(-1, 2)
    points = np.stack([corners[:, 0], 1 - corners[:, 1], np.ones(len(corners), np.float32)], axis=1)
    points *= np.float32(1000.0)
    (a, b, c) = points.reshape(-1, 3, 3)[:, :, :2].swapaxes(0, 1)
    # The rasterizer drops triangles that run counter-clockwise in the atlas' rows; some models mirror parts of theirs.
    turned = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0] > 0
    triangles = np.arange(len(corners), dtype=np.int32).reshape(-1, 3)
    triangles[turned] = triangles[turned][:, ::-1]
    buffers = rasterize(points[None], triangles, Camera(float(size), (0.0, 0.0), (size, size)), threads)
    swapped = turned[buffers.triangle_id] & (buffers.triangle_id >= 0)
    barycentric = buffers.barycentric
    barycentric[swapped] = barycentric[swapped][:, ::-1]
    return replace(buffers, barycentric=barycentric)


def photo_of(dense: DenseFaces, image: "ImageSource", color: ColorOrder) -> NDArray[np.uint8]:
    """Read the photo that the faces were found in; ValueError if it has another size."""
    photo = read_rgb(image, color)
    if (photo.shape[1], photo.shape[0]) != dense.camera.size:
        width, height = dense.camera.size
        raise ValueError(
            f"'image' is {photo.shape[1]} x {photo.shape[0]} pixels, but the face is from a photo of {width} x {height}"
        )
    return photo


def shading_of(face: "Face") -> F32:
    """Return the shading (N, 3) of the vertices of a face; see CONVENTIONS.md §6."""
    normals = np.ascontiguousarray(face.normals * OPENGL_FROM_CAMERA)
    return _native.shading(normals[None], face.coefficients.illumination[None], face.dense.threads)[0]


@dataclass(frozen=True, eq=False)
class VisibilityWindow:
    """What the camera sees around one face, of all faces of the photo, at a resolution of its own."""

    camera: Camera
    buffers: RasterBuffers


def visibility_window(dense: DenseFaces, index: int) -> VisibilityWindow:
    """Draw the surroundings of a face for `visibility`."""
    pixels = dense.vertices_px[index]
    low, high = pixels.min(axis=0).astype(np.float64) - 1, pixels.max(axis=0).astype(np.float64) + 1
    scale = VISIBILITY_SIDE / float((high - low).max())
    width, height = (max(1, int(side)) for side in np.ceil((high - low) * scale))
    cx, cy = ((center - start) * scale for center, start in zip(dense.camera.principal_point, low, strict=True))
    camera = Camera(dense.camera.focal * scale, (cx, cy), (width, height))
    return VisibilityWindow(camera, rasterize(dense.vertices, dense.face_model.triangles, camera, dense.threads))


def visibility(
    points: F32,
    normals: F32,
    window: VisibilityWindow,
    photo_camera: Camera,
    index: int,
    scale: float = 1.0,
    *,
    grazing: tuple[float, float] = GRAZING,
) -> F32:
    """Return how well points on a face are seen in its photo, (M,) in [0, 1].

    0 outside the photo, facing away, or behind another part or another face; fading towards grazing views.

    Parameters
    ----------
    points, normals : (M, 3) float32
        Camera frame, mm; normals need not be of unit length.
    window : VisibilityWindow
    photo_camera : Camera
        Its size bounds the photo.
    index : int
        Number of the face in the window.
    scale : float
        Of the face (`Face.scale`): its millimetres per millimetre of the face model.
    grazing : (float, float)
        Cosines between normal and viewing ray up to which a point is not seen, and from which it is fully.
    """
    pixels = _native.project(points[None], photo_camera.focal, photo_camera.principal_point)[0]
    inside = ((pixels >= 0.5) & (pixels <= np.array(photo_camera.size) - 0.5)).all(axis=1) & (points[:, 2] > 0)
    lengths = np.linalg.norm(points, axis=1) * np.linalg.norm(normals, axis=1)
    cosine = -np.einsum("mc,mc->m", points, normals) / np.maximum(lengths, np.float32(1e-9))
    slant = np.sqrt(np.maximum(1 - cosine**2, 0)) / np.maximum(cosine, np.float32(0.05))
    # A surface nearer than this hides the point.
    pixel_mm = points[:, 2] / min(window.camera.focal, photo_camera.focal)
    nearest = points[:, 2] - DEPTH_TOLERANCE_MM * scale - 1.5 * pixel_mm * slant
    places = _native.project(points[None], window.camera.focal, window.camera.principal_point)[0]
    depth, face_id = window.buffers.depth, window.buffers.face_id
    reach = max(0.5, 0.5 * window.camera.focal / photo_camera.focal)  # half a pixel of the coarser of the two
    free = np.ones(len(points), bool)
    for dx in (-reach, reach):  # nothing near an edge takes colour from what hides it
        for dy in (-reach, reach):
            x, y = np.floor(places + np.array([dx, dy], np.float32)).astype(np.intp).T
            x, y = np.clip(x, 0, depth.shape[1] - 1), np.clip(y, 0, depth.shape[0] - 1)
            surface = depth[y, x]
            free &= ~((surface > 0) & (surface < nearest) | (face_id[y, x] >= 0) & (face_id[y, x] != index))
    weight: F32 = smoothstep(cosine, *grazing) * (inside & free)
    return weight.astype(np.float32)


def _feathered(weight: F32, inside: NDArray[np.bool_], radius: int) -> F32:
    """Fade the weight towards what is not seen, so that what is zero stays zero; at the border of the mesh, keep it."""
    radius = max(1, radius)
    share = blurred(weight, radius) / np.maximum(blurred(inside.astype(np.float32), radius), np.float32(1e-6))
    return np.minimum(weight, np.clip(2 * share - 1, 0, 1))


def is_grey(photo: NDArray[np.uint8], pixels: F32) -> bool:
    """Whether the photo is without colour at these (N, 2) pixels: then the model's colour would be foreign to it."""
    inside = ((pixels >= 0) & (pixels <= np.array(photo.shape[1::-1]))).all(axis=1)
    if not inside.any():
        return False
    samples = bilinear(photo, pixels[inside, 0], pixels[inside, 1])
    return bool(np.percentile(np.ptp(samples, axis=1), 95) <= GREY_RANGE)


def _tone(wanted: F32, given: F32, weight: F32) -> F32:
    """Return the factor (3,) that brings the median colour of `given` to that of `wanted` where it is well known."""
    well = weight > 0.5
    if not well.any():
        return np.ones(3, np.float32)
    return np.asarray(np.median(wanted[well], axis=0) / np.maximum(np.median(given[well], axis=0), 1.0), np.float32)


def _match(wanted: F32, given: F32, weight: F32) -> F32:
    """Return the factor (S, S, 3), smooth over an eighth of the atlas, that brings `given` to `wanted` where known."""
    size = len(weight)
    halvings = max(0, int(np.log2(size / 128)))  # the factor has no detail: a coarse grid of texels is enough
    part = (slice(2**halvings // 2, None, 2**halvings),) * 2
    ratio = np.log(np.maximum(wanted[part], DARKEST)) - np.log(np.maximum(given[part], DARKEST))
    bound = np.log(np.float32(MAX_MATCH))
    factor = np.exp(np.clip(continued(ratio, weight[part], 3), -bound, bound))
    for _ in range(halvings):
        factor = doubled(factor)
    missing = (0, max(0, size - len(factor)))
    return np.pad(factor, (missing, missing, (0, 0)), mode="edge")[:size, :size]


def _bytes(values: F32, inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    whole = continued(values, inside.astype(np.float32))
    return np.rint(np.clip(whole, 0, 255)).astype(np.uint8)


def _check_size(size: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int | np.integer):
        raise TypeError(f"'size' must be an int (texels), not {type(size).__name__}")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"'size' must be {MIN_SIZE} to {MAX_SIZE} texels, not {size}")
