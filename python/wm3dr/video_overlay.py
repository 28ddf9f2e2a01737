"""Faces drawn on frames of a video: quicker than `draw.overlay`, and every face in the colour of its id."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .draw import CLOSED_GROUPS, LANDMARK_COLOR
from .marks import Color, Marks
from .result import LANDMARK_GROUPS, Result
from .tracker import TrackedFace, TrackedResult

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

ID_COLORS: tuple[Color, ...] = (
    (255, 196, 61),
    (94, 201, 255),
    (255, 122, 122),
    (136, 224, 120),
    (206, 147, 255),
    (255, 160, 87),
    (92, 224, 205),
    (255, 139, 203),
    (176, 190, 255),
    (214, 222, 92),
)
"""Colours of ids, in turn."""


def draw_frame(
    result: TrackedResult, image: U8, *, opacity: float = 0.85, meshes: bool = True, marks: bool = True
) -> U8:
    """Draw the faces of a frame over it.

    Parameters
    ----------
    result : TrackedResult
    image : (H, W, 3) uint8 RGB
        The frame.
    opacity : float
        Of the meshes, in [0, 1].
    meshes : bool
        Draw the reconstructed faces.
    marks : bool
        Draw boxes, ids and landmarks.

    Returns
    -------
    picture : (H, W, 3) uint8

    Raises
    ------
    ValueError
        The frame has another size than the result.
    """
    if (image.shape[1], image.shape[0]) != result.size:
        raise ValueError(f"'image' is {image.shape[1]} x {image.shape[0]} pixels, but the result is of {result.size}")
    picture = image.copy()
    if not len(result):
        return picture
    if meshes:
        _blend(result, picture, opacity)
    if marks:
        for face in sorted(result, key=lambda face: -float(face.translation[2])):  # the nearest on top
            _mark(face, picture)
    return picture


def _blend(result: Result, picture: U8, opacity: float) -> None:
    """Lay the rendered faces over the picture; edge pixels in part, by how many of their neighbours are covered."""
    boxes = np.array([face.box for face in result])
    low = np.clip(np.floor(boxes[:, :2].min(0)) - 2, 0, result.size).astype(int)
    high = np.clip(np.ceil(boxes[:, 2:].max(0)) + 2, 0, result.size).astype(int)
    part = (slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0])))
    if not picture[part].size:
        return
    raster = result.render()
    hit = (raster.alpha[part] > 0).astype(np.float32)
    color = raster.color[part].astype(np.float32)
    share = _box3(hit)
    edge = (share > 0.0) & (share < 1.0)
    spread = _box3(color)[edge] / share[edge][:, None]  # colour is 0 where nothing is covered
    color[edge] = np.where(hit[edge][:, None] > 0, color[edge], spread)
    alpha = (opacity * share)[:, :, None]
    below = picture[part].astype(np.float32)
    picture[part] = np.rint(below + alpha * (color - below)).astype(np.uint8)


def _box3(values: F32) -> F32:
    """Mean over 3 x 3 pixels; beyond the edge the nearest counts."""
    for axis in (0, 1):
        pad = [(1, 1) if k == axis else (0, 0) for k in range(values.ndim)]
        padded = np.pad(values, pad, mode="edge")
        n = values.shape[axis]
        total = np.take(padded, range(n), axis=axis)
        for offset in (1, 2):
            total += np.take(padded, range(offset, offset + n), axis=axis)
        values = total / np.float32(3.0)
    return values


def _mark(face: TrackedFace, picture: U8) -> None:
    """Draw box, id and landmarks into the part of the picture that they need."""
    side = float(max(face.box[2] - face.box[0], face.box[3] - face.box[1]))
    text = float(round(np.clip(side / 9.0, 9.0, 22.0)))
    margin = 2.0 * text
    shape = np.array([picture.shape[1], picture.shape[0]])
    x0, y0 = (int(v) for v in np.clip(np.floor(face.box[:2] - margin), 0, shape))
    x1, y1 = (int(v) for v in np.clip(np.ceil(face.box[2:] + margin), 0, shape))
    if x1 - x0 < 2 or y1 - y0 < 2:
        return
    origin = np.array([x0, y0], np.float32)
    color = ID_COLORS[face.id % len(ID_COLORS)]
    thin = float(np.clip(side / 150.0, 0.7, 3.0))
    marks = Marks((x1 - x0, y1 - y0), scale=2)  # 4 smooths a still picture better and takes four times as long
    box = face.box - np.tile(origin, 2)
    marks.box(box, color, thin)
    points = face.landmarks - origin
    for name, group in LANDMARK_GROUPS.items():
        marks.line(points[group], LANDMARK_COLOR, 0.8 * thin, alpha=200, closed=name in CLOSED_GROUPS)
    marks.label((box[0], box[1]), str(face.id), color, text)
    part = (slice(y0, y1), slice(x0, x1))
    picture[part] = np.asarray(marks.on(Image.fromarray(picture[part])))
