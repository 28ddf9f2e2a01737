"""Pictures to look at: overlay, attributes (the paper's figure 11) and, in `views`, its figure 12."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .camera import Camera
from .image import ColorOrder, read_rgb
from .layers import Layer, draw_layer
from .marks import INK, Color, Marks, framed
from .result import LANDMARK_GROUPS, Face, Result
from .views import views

if TYPE_CHECKING:
    from .image import ImageSource

F32 = NDArray[np.float32]
MAX_SIDE = 2048
"""Longer side of a drawn photo, at most; larger photos are scaled down first."""
PANEL_SIDE = 960
"""Longer side of each panel of `attributes`."""
CLOSED_GROUPS = ("right_eye", "left_eye", "outer_lips", "inner_lips")

BOX_COLOR: Color = (255, 196, 61)
LANDMARK_COLOR: Color = (72, 235, 205)
AXIS_COLORS: tuple[Color, Color, Color] = ((235, 64, 52), (60, 190, 75), (52, 120, 246))
"""Model x (to the subject's left), y (up) and z (out of the face)."""
AXIS_MM = 110.0
REGION_COLORS: dict[str, Color] = {
    "skin": (244, 196, 160),
    "nose": (255, 140, 66),
    "left_brow": (108, 72, 190),
    "right_brow": (150, 110, 230),
    "left_eyelids": (28, 126, 214),
    "right_eyelids": (92, 180, 250),
    "upper_lip": (214, 40, 70),
    "lower_lip": (250, 100, 130),
    "left_ear": (46, 160, 110),
    "right_ear": (110, 205, 150),
    "neck": (200, 170, 140),
    "scalp": (150, 140, 130),
}
SPARE_COLORS: tuple[Color, ...] = ((120, 144, 156), (255, 213, 79), (77, 182, 172), (186, 104, 200), (161, 136, 127))
"""For regions of other face models."""


def draw(result: Result, image: "ImageSource | None", kind: str = "overlay", **options: Any) -> Image.Image:
    """Draw one of the pictures by name; see `Result.draw`."""
    kinds: dict[str, Callable[..., Image.Image]] = {"overlay": overlay, "attributes": attributes}
    if kind == "views":
        return views(result, **options)
    if kind not in kinds:
        raise ValueError(f"'kind' must be 'overlay', 'attributes' or 'views', not {kind!r}")
    return kinds[kind](result, image, **options)


def overlay(
    result: Result,
    image: "ImageSource",
    *,
    opacity: float = 0.85,
    meshes: bool = True,
    landmarks: bool = True,
    boxes: bool = True,
    max_side: int = MAX_SIDE,
    color: ColorOrder = "rgb",
) -> Image.Image:
    """Draw meshes, landmarks and boxes over the photo.

    Parameters
    ----------
    result : Result
    image : array, path, bytes or PIL image
        The photo that was reconstructed.
    opacity : float
        Of the meshes, in [0, 1].
    meshes, landmarks, boxes : bool
        What to draw.
    max_side : int
        A larger photo is scaled down to this first, px.
    color : "rgb" or "bgr"
        Channel order of an array.

    Returns
    -------
    picture : PIL.Image.Image
        RGB, the size of the photo or smaller.

    Raises
    ------
    ValueError
        The image has another size than the result.
    """
    photo, camera, factor = _canvas(result, image, max_side, color)
    if meshes:
        photo = _image(_rendered(result, camera).over(_array(photo), opacity))
    return _with_marks(photo, result.faces, factor, landmarks=landmarks, boxes=boxes)


def attributes(
    result: Result, image: "ImageSource", *, panel_side: int = PANEL_SIDE, color: ColorOrder = "rgb"
) -> Image.Image:
    """Draw the paper's figure 11: boxes and landmarks | render | head pose and face parts.

    Parameters
    ----------
    result : Result
    image : array, path, bytes or PIL image
        The photo that was reconstructed.
    panel_side : int
        Longer side of each panel, px.
    color : "rgb" or "bgr"
        Channel order of an array.

    Raises
    ------
    ValueError
        The image has another size than the result.
    """
    photo, camera, factor = _canvas(result, image, panel_side, color, enlarge=True)
    pixels = _array(photo)
    faded = 0.35 * pixels + 0.65 * 255.0 * np.array([0.16, 0.17, 0.19], np.float32)
    marks = _with_marks(photo, result.faces, factor)
    render = _image(_rendered(result, camera).over(faded))
    parts = _image(_parts(result, camera).over(pixels, 0.72))
    parts = _with_axes(parts, result.faces, result.camera, factor)
    legend = [(name.replace("_", " "), c) for name, c in region_palette(result.face_model.region_names)]
    axes = [("to the subject's left", AXIS_COLORS[0]), ("up", AXIS_COLORS[1]), ("out of the face", AXIS_COLORS[2])]
    panels = [
        (marks, "boxes and landmarks", []),
        (render, "render", []),
        (parts, "head pose and face parts", axes + legend),
    ]
    return framed(panels, stacked=photo.width > 1.45 * photo.height)


def _canvas(
    result: Result, image: "ImageSource", max_side: int, color: ColorOrder, *, enlarge: bool = False
) -> tuple[Image.Image, Camera, float]:
    """Return the photo at the size of the picture, its camera, and picture pixels per pixel of the photo."""
    pixels = read_rgb(image, color)
    size = (pixels.shape[1], pixels.shape[0])
    if size != result.size:
        raise ValueError(f"'image' is {size[0]} x {size[1]} pixels, but the result is of a photo of {result.size}")
    factor = max_side / max(size)
    factor = factor if enlarge else min(1.0, factor)
    camera = result.camera.scaled(factor)
    photo = Image.fromarray(pixels)
    if camera.size != size:
        photo = photo.resize(camera.size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return photo, camera, factor


def _rendered(result: Result, camera: Camera) -> Layer:
    return draw_layer(result.dense, result.dense.colors * np.float32(255.0), camera)


def _parts(result: Result, camera: Camera) -> Layer:
    palette = np.array([c for _, c in region_palette(result.face_model.region_names)], np.float32)
    colors = palette[result.face_model.regions]
    return draw_layer(result.dense, np.repeat(colors[None], len(result), axis=0), camera)


def region_palette(names: Sequence[str]) -> list[tuple[str, Color]]:
    """Return each face part with its colour, in the order of `names`."""
    spare = iter(SPARE_COLORS * (1 + len(names) // len(SPARE_COLORS)))
    return [(name, REGION_COLORS[name] if name in REGION_COLORS else next(spare)) for name in names]


def _array(image: Image.Image) -> F32:
    return np.asarray(image, np.float32)


def _image(pixels: F32) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(pixels, 0.0, 255.0)).astype(np.uint8))


def _with_marks(
    photo: Image.Image, faces: Sequence[Face], factor: float, *, landmarks: bool = True, boxes: bool = True
) -> Image.Image:
    marks = Marks(photo.size)
    for face in reversed(faces):  # the best on top
        box, points = face.box * factor, face.landmarks * factor
        side = float(max(box[2] - box[0], box[3] - box[1]))
        thin = float(np.clip(side / 150.0, 0.7, 4.0))
        if boxes:
            marks.box(box, BOX_COLOR, thin)
        if landmarks:
            for name, part in LANDMARK_GROUPS.items():
                marks.line(points[part], LANDMARK_COLOR, 0.8 * thin, alpha=200, closed=name in CLOSED_GROUPS)
            if side >= 110:
                for point in points:
                    marks.dot(point, (255, 255, 255), 0.95 * thin, rim=0.35 * thin)
        if boxes and side >= 40:
            size = float(np.clip(side / 11.0, 8.0, 22.0))
            marks.label((box[0], box[1]), f"{face.score:.2f}", BOX_COLOR, size)
    return marks.on(photo)


def _with_axes(photo: Image.Image, faces: Sequence[Face], camera: Camera, factor: float) -> Image.Image:
    """Draw the model axes of every face from its nose bridge, projected like the face itself."""
    marks = Marks(photo.size)
    for face in reversed(faces):
        origin = face.landmarks_camera[30].astype(np.float64)
        ends = origin + AXIS_MM * face.rotation.T.astype(np.float64)
        if min(origin[2], *ends[:, 2]) <= 1.0:
            continue
        start = camera.project(origin) * factor
        tips = camera.project(ends) * factor
        side = float(max(face.box[2:] - face.box[:2])) * factor
        width = float(np.clip(side / 45.0, 1.0, 9.0))
        for axis in np.argsort(-ends[:, 2]):  # the farthest first
            _arrow(marks, start, tips[axis], AXIS_COLORS[axis], width)
        marks.dot(start, (255, 255, 255), 0.9 * width, rim=0.3 * width)
    return marks.on(photo)


def _arrow(marks: Marks, start: NDArray[np.float64], tip: NDArray[np.float64], color: Color, width: float) -> None:
    marks.line([start, tip], INK, width + 1.2, alpha=150)
    marks.line([start, tip], color, width)
    marks.dot(tip, color, 1.1 * width, rim=0.6)
