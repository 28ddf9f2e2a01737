"""The paper's figure 12: front, right and top view of all faces in the space that they share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .camera import Camera
from .layers import draw_layer
from .marks import INK, MARGIN, PAPER, TITLE_HEIGHT, TITLE_SIZE, font

if TYPE_CHECKING:
    from .result import Result

F32 = NDArray[np.float32]

SHEET_SIDE = 1800
"""Width and height of the sheet without margins, at most, px."""
NOTE_SIZE, NOTE_STEP = 18.0, 26
BORDER_MM = 80.0
"""Free space around the faces."""
FAR = 200.0
"""Distance of the virtual cameras in extents of the scene: far enough to look orthographic (below 0.3 %)."""
GROUND = (255, 255, 255)
INSIDE = (196.0, 200.0, 206.0)
GRID = (226, 229, 233)
GRID_MM = (50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)


@dataclass(frozen=True)
class View:
    """An orthographic view: rows of `rotation` are its right, down and forward axes in the camera frame."""

    title: str
    rotation: tuple[tuple[int, int, int], ...]
    axes: tuple[int, int]
    """Camera axes along its right and down, for its extent."""


FRONT = View("front", ((1, 0, 0), (0, 1, 0), (0, 0, 1)), (0, 1))
RIGHT = View("right", ((0, 0, 1), (0, 1, 0), (-1, 0, 0)), (2, 1))
TOP = View("top", ((1, 0, 0), (0, 0, -1), (0, 1, 0)), (0, 2))


def views(result: "Result", *, sheet_side: int = SHEET_SIDE) -> Image.Image:
    """Draw all faces from the front, from the right and from above, to one scale.

    The views share their axes as in a technical drawing: the right view stands beside the front view at the same
    heights, the top view below it at the same places from left to right. The camera is in front: at the left of the
    right view and below the top view.

    Parameters
    ----------
    result : Result
    sheet_side : int
        Width and height of the picture without margins, at most, px.
    """
    low, high = _extent(result)
    span = high - low
    scale = sheet_side / max(span[0] + span[2], span[1] + span[2])  # px a mm
    columns = [max(1, round(span[axis] * scale)) for axis in (0, 2)]
    rows = [max(1, round(span[axis] * scale)) for axis in (1, 2)]
    note = _note(_grid_step(scale), len(result), sum(columns) + MARGIN)
    height = sum(rows) + 2 * TITLE_HEIGHT + 3 * MARGIN + NOTE_STEP * len(note)
    sheet = Image.new("RGB", (sum(columns) + 3 * MARGIN, height), PAPER)
    places = [(FRONT, 0, 0), (RIGHT, 1, 0), (TOP, 0, 1)]
    for view, column, row in places:
        x = MARGIN + column * (columns[0] + MARGIN)
        y = MARGIN + TITLE_HEIGHT + row * (rows[0] + TITLE_HEIGHT)
        picture = _view(result, view, (columns[column], rows[row]), low, high, scale)
        ImageDraw.Draw(sheet).text((x, y - TITLE_HEIGHT + 6), view.title, font=font(TITLE_SIZE), fill=INK)
        sheet.paste(picture, (x, y))
    for number, line in enumerate(reversed(note), start=1):
        ImageDraw.Draw(sheet).text((MARGIN, height - MARGIN - NOTE_STEP * number), line, font=font(NOTE_SIZE), fill=INK)
    return sheet


def _extent(result: "Result") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the corners (3,), mm, camera frame, of a box around all faces."""
    if not len(result):
        return np.array([-300.0, -300.0, 700.0]), np.array([300.0, 300.0, 1300.0])
    points = result.dense.vertices.reshape(-1, 3)
    return points.min(axis=0).astype(np.float64) - BORDER_MM, points.max(axis=0).astype(np.float64) + BORDER_MM


def _view(
    result: "Result",
    view: View,
    size: tuple[int, int],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    scale: float,
) -> Image.Image:
    ground = Image.new("RGB", size, GROUND)
    pen = ImageDraw.Draw(ground)
    rotation = np.array(view.rotation, np.float64)
    middle = 0.5 * (low + high)
    step = _grid_step(scale)
    for along, (axis, side) in enumerate(zip(view.axes, size, strict=True)):
        sign = rotation[along, axis]
        for k in range(int(np.ceil(low[axis] / step)), int(np.floor(high[axis] / step)) + 1):
            at = round(side / 2 + sign * (k * step - middle[axis]) * scale)
            pen.line([(at, 0), (at, size[1])] if along == 0 else [(0, at), (size[0], at)], fill=GRID)
    if len(result):
        distance = FAR * float((high - low).max())
        camera = Camera(scale * distance, (size[0] / 2, size[1] / 2), size)
        vertices = (result.dense.vertices - middle.astype(np.float32)) @ rotation.T.astype(np.float32)
        vertices += np.array([0.0, 0.0, distance], np.float32)
        layer = draw_layer(
            result.dense,
            result.dense.colors * np.float32(255.0),
            camera,
            vertices=np.ascontiguousarray(vertices),
            inside=INSIDE,
        )
        pixels = layer.over(np.asarray(ground, np.float32))
        ground = Image.fromarray(np.rint(np.clip(pixels, 0.0, 255.0)).astype(np.uint8))
    return ground


def _grid_step(scale: float) -> float:
    """Return the distance of grid lines, mm: the first that is at least 40 px."""
    return next((step for step in GRID_MM if step * scale >= 40.0), GRID_MM[-1])


def _note(step: float, faces: int, width: int) -> list[str]:
    """Return what the grid and the views mean, in lines of at most `width` px."""
    words = (
        f"{faces} face{'s' * (faces != 1)} in one camera space. "
        f"Grid: {step:g} mm of the face model's scale (not metric). "
        "The camera is at the left of the right view and below the top view."
    ).split()
    lines = [words[0]]
    for word in words[1:]:
        longer = f"{lines[-1]} {word}"
        if font(NOTE_SIZE).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
