"""Edited faces put back into their photo.

In the mode "photo", every pixel that an edited face covers is taken from where the photo shows the same point of the
face, times new over old shading: pores, stubble and the eyes stay. Around the face, displacement and light fade out.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from . import _native
from .camera import Camera
from .dense import RasterBuffers, interpolate, rasterize
from .edit import changed_rows, check_belongs, with_faces
from .face_model import FaceModel
from .image import ColorOrder
from .layers import draw_layer
from .result import LANDMARK_GROUPS, Face, Result
from .sampling import F32, bilinear, blurred, continued, smoothstep
from .texture import (
    LUMA,
    MIN_RELATIVE_SHADING,
    Texture,
    fitting_size,
    is_grey,
    photo_of,
    shading_of,
    visibility,
    visibility_window,
)

if TYPE_CHECKING:
    from .image import ImageSource

MODES = ("photo", "model")
SURROUNDINGS = 0.2
"""Displacements fade out around a face over this share of its size, about."""
LIT_BORDER = 0.04
"""A change of light fades across the border of a face, inside as outside, over this share of its size, about."""
SEEN_FROM = (0.0, 0.15)
"""Cosines between normal and viewing ray from which the photo is trusted to show a point that has moved."""
STAYED = (0.006, 0.02)
"""What has moved by at most these shares of the face's size is taken from the photo wholly, or no longer, where the
mesh does not count it as seen: at outlines, mesh and photo differ by that much."""
LIGHT_RANGE = 3.0
"""New over old shading is taken for at most this, and at least its inverse."""
MOUTH_DARKNESS = 0.22
"""Colour of the inside of an opened mouth, of the colour of the lips."""


def composite(
    result: Result,
    image: "ImageSource",
    faces: "Result | Face | Sequence[Face]",
    *,
    mode: str = "photo",
    color: ColorOrder = "rgb",
) -> Image.Image:
    """Put edited faces back into the photo; see `Result.composite`."""
    if mode not in MODES:
        raise ValueError(f"'mode' must be 'photo' or 'model', not {mode!r}")
    if isinstance(faces, Result):
        for face in faces:
            check_belongs(result, face)
        edited = faces
    else:
        edited = with_faces(result, [faces] if isinstance(faces, Face) else faces)
    photo = photo_of(result.dense, image, color)
    changes = [changed_rows(result.dense, edited.dense, index) for index in range(len(result))]
    changed = [index for index, names in enumerate(changes) if names]
    if mode == "model":
        return _with_model_colors(photo, edited, changed)
    pixels = photo.astype(np.float32)
    for index in sorted(changed, key=lambda index: -edited.faces[index].translation[2]):  # the nearest last
        _put_back(pixels, photo, result, edited, index, moved=bool(changes[index] - {"illumination", "albedo"}))
    return Image.fromarray(np.rint(np.clip(pixels, 0, 255)).astype(np.uint8))


def _with_model_colors(photo: NDArray[np.uint8], edited: Result, changed: list[int]) -> Image.Image:
    """Lay the rendered faces of some numbers over the photo; the others hide them where they are nearer."""
    dense = edited.dense
    if not changed:
        return Image.fromarray(photo)
    chosen = np.isin(np.arange(len(dense)), changed).astype(np.float32)[:, None, None]
    attributes = np.concatenate([dense.colors * np.float32(255.0), np.ones((*dense.colors.shape[:2], 1))], axis=2)
    layer = draw_layer(dense, (attributes * chosen).astype(np.float32), dense.camera).values
    pixels = photo * (1 - layer[:, :, 3:]) + layer[:, :, :3]
    return Image.fromarray(np.rint(np.clip(pixels, 0, 255)).astype(np.uint8))


def _put_back(
    pixels: F32, photo: NDArray[np.uint8], result: Result, edited: Result, index: int, *, moved: bool
) -> None:
    """Write one edited face and its surroundings into the pixels (H, W, 3), 0 to 255."""
    before, after = result.faces[index], edited.faces[index]
    side = float(np.ptp(before.vertices_px, axis=0).max())
    reach = max(1, round(SURROUNDINGS * side))
    window = _window(before, after, 2 * reach)
    if window is None:
        return
    left, top, camera = window
    width, height = camera.size
    there = (slice(top, top + height), slice(left, left + width))
    model, threads = result.face_model, result.dense.threads
    buffers = rasterize(edited.dense.vertices, model.triangles, camera, threads)
    covered = buffers.face_id == index
    others = (buffers.face_id >= 0) & ~covered
    others |= np.isin(result.dense.raster.face_id[there], [index, -1], invert=True)
    if not covered.any():
        return
    light = _light_change(before, after, grey=is_grey(photo, before.vertices_px))
    surface = np.concatenate([before.vertices, before.normals, light], axis=1)
    carried = _at_pixels(buffers, model, covered, surface, threads)
    change = np.zeros((height, width, 5), np.float32)  # displacement x, y; logarithm of the light's factor
    change[covered, 2:] = carried[:, 6:]
    places = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1).astype(np.float32)
    places += np.array([left, top], np.float32)
    if moved:
        points = np.ascontiguousarray(carried[:, :3])
        shown = _native.project(points[None], result.camera.focal, result.camera.principal_point)[0]
        change[covered, :2] = shown - places[covered]
    own = covered.astype(np.float32)
    far = np.where(covered, 1, smoothstep(blurred(own, reach), 0.0, 0.5)) * ~others
    near = smoothstep(blurred(_without_holes(own), max(1, round(LIT_BORDER * side))), 0.1, 0.9) * ~others
    displacement = continued(change[:, :, :2], own) * far[:, :, None]
    levels = max(0, round(np.log2(max(side, 1.0) / 12)))
    around = continued(change[:, :, 2:], own, levels)  # light of the neighbourhood: a rim is not continued as a beam
    factor = np.exp(np.where(covered[:, :, None], change[:, :, 2:], around) * near[:, :, None])
    if moved:
        source = places + displacement
        moved_photo = bilinear(photo, source[..., 0].ravel(), source[..., 1].ravel()).reshape(height, width, 3)
        found = moved_photo * factor
        seen = visibility(
            points,
            np.ascontiguousarray(carried[:, 3:6]),
            visibility_window(result.dense, index),
            result.camera,
            index,
            before.scale,
            grazing=SEEN_FROM,
        )
        distance = np.abs(shown - places[covered]).max(axis=1) / np.float32(side)
        seen = np.maximum(seen, smoothstep(-distance, -STAYED[1], -STAYED[0]))
        if (seen < 0.99).any():
            texture = before.texture(photo, min(fitting_size(before), 1024))
            found[covered] = found[covered] * seen[:, None] + (1 - seen[:, None]) * _textured(
                after, texture, buffers, covered
            )
        found = _with_mouth(found, before, after, covered, (left, top), side)
    else:
        found = pixels[there] * factor
    weight = (far > 0)[:, :, None]
    pixels[there] = np.where(weight, found, pixels[there])


def _window(before: Face, after: Face, margin: int) -> tuple[int, int, Camera] | None:
    """Return left, top and camera of the part of the photo that the face may touch; None if there is none."""
    whole = before.dense.camera
    points = np.concatenate([before.vertices_px, after.vertices_px])
    low = np.maximum(np.floor(points.min(axis=0)).astype(int) - margin, 0)
    high = np.minimum(np.ceil(points.max(axis=0)).astype(int) + margin, whole.size)
    if (high <= low).any():
        return None
    (left, top), (width, height) = low.tolist(), (high - low).tolist()
    cx, cy = whole.principal_point
    return left, top, Camera(whole.focal, (cx - left, cy - top), (width, height))


def _light_change(before: Face, after: Face, *, grey: bool) -> F32:
    """Return the logarithm of new over old shading (N, 3), the same in all channels for a grey photo."""
    shadings = []
    old = shading_of(before)
    least = np.float32(MIN_RELATIVE_SHADING) * np.maximum(old, 0).mean(axis=0)
    for shading in (shading_of(after), old):
        shadings.append(np.log(np.maximum(shading, np.maximum(least, np.float32(1e-3)))))
    bound = np.log(np.float32(LIGHT_RANGE))
    change = np.clip(shadings[0] - shadings[1], -bound, bound)
    return np.repeat(change @ LUMA, 3, axis=1) if grey else change


def _without_holes(own: F32) -> F32:
    """Set to 1 what has ones on all four sides: eyes and mouth, which are holes of the mesh, get the light around."""
    filled = np.ones(own.shape, bool)
    for axis in (0, 1):
        filled &= np.maximum.accumulate(own, axis) > 0
        filled &= np.flip(np.maximum.accumulate(np.flip(own, axis), axis), axis) > 0
    return np.maximum(own, filled)


def _at_pixels(
    buffers: RasterBuffers, model: FaceModel, where: NDArray[np.bool_], attributes: F32, threads: int
) -> F32:
    """Carry the attributes (N, C) of one face to the pixels `where` (M of them) that show it, (M, C)."""
    triangle_id, face_id = np.where(where, buffers.triangle_id, -1), np.where(where, 0, -1).astype(np.int32)
    one = RasterBuffers(triangle_id, face_id, buffers.depth, buffers.barycentric)
    return interpolate(one, model.triangles, np.ascontiguousarray(attributes)[None], threads)[where]


def _textured(after: Face, texture: Texture, buffers: RasterBuffers, where: NDArray[np.bool_]) -> F32:
    """Return the colours (M, 3) that the texture's reflectance has in the face's light at the pixels `where`."""
    model = after.face_model
    uv = np.einsum("mk,mkc->mc", buffers.barycentric[where], model.uv[buffers.triangle_id[where]])
    shading = _at_pixels(buffers, model, where, np.maximum(shading_of(after), 0), after.dense.threads)
    return np.asarray(texture.sample(uv, delight=True) * shading, np.float32)


def _with_mouth(
    found: F32, before: Face, after: Face, covered: NDArray[np.bool_], corner: tuple[int, int], side: float
) -> F32:
    """Darken what has opened between the lips: the face model has no inside, and the photo shows none of it."""
    lips = [face.landmarks[LANDMARK_GROUPS["inner_lips"]] for face in (before, after)]
    areas = np.array([_polygon_area(points) for points in lips], np.float32)
    opened = smoothstep(1 - areas[:1] / max(float(areas[1]), 1e-6), 0.2, 0.7)[0]
    if opened <= 0 or areas[1] < 4.0:
        return found
    height, width = covered.shape
    middle = lips[1].mean(axis=0)
    # A little wider than the landmarks: the mesh decides where the lips end.
    outline = ((middle + (lips[1] - middle) * 1.25 - corner) * 4).ravel().tolist()
    mask = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    inside = np.asarray(mask.resize((width, height), Image.Resampling.BOX), np.float32)
    hole = (inside / 255 * ~covered).astype(np.float32)
    hole = np.minimum(blurred(hole, max(1, round(side / 250))) * np.float32(1.3), 1) * opened
    x, y = (after.landmarks[LANDMARK_GROUPS["outer_lips"]] - corner).T.astype(np.float32)
    dark = np.median(bilinear(found, x, y), axis=0) * np.float32(MOUTH_DARKNESS)
    darkened: F32 = found * (1 - hole[:, :, None]) + dark * hole[:, :, None]
    return darkened


def _polygon_area(points: F32) -> float:
    x, y = points.T.astype(np.float64)
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
