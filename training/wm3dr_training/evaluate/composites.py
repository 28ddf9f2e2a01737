"""Composites of validation faces on photos without faces, with exact annotation; the same ones for the same seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wm3dr_training.data.landmarks import landmark_box, mirror_landmarks

SIZE = (640, 480)  # width, height
SMALLEST, LARGEST = 32.0, 200.0  # px, longer side of the landmark box
MOST_FACES = 10
ROLL = math.radians(12)  # standard deviation
REACH = 0.92  # half side of the pasted ellipse over the face's size
APART = 0.8  # least distance of two centres over the sum of the sizes


@dataclass(frozen=True, eq=False)
class AnnotatedFace:
    """A photo of one face: image (H, W, 3) uint8 RGB and its landmarks (68, 2), pixels."""

    image: NDArray[np.uint8]
    landmarks: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Composite:
    """image (H, W, 3) uint8 RGB; landmarks (F, 68, 2) px; sizes (F,) px, longer sides of the landmark boxes."""

    image: NDArray[np.uint8]
    landmarks: NDArray[np.float32]
    sizes: NDArray[np.float32]


def face_size(landmarks: NDArray) -> float:
    """Longer side of the landmark box, px."""
    box = landmark_box(landmarks)
    return float(max(box[2] - box[0], box[3] - box[1]))


def background_canvas(photo: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The middle of a photo, enlarged until it covers (width, height)."""
    factor = max(size[0] / photo.shape[1], size[1] / photo.shape[0])
    shape = (max(size[0], round(photo.shape[1] * factor)), max(size[1], round(photo.shape[0] * factor)))
    large = cv2.resize(photo, shape, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    x, y = (shape[0] - size[0]) // 2, (shape[1] - size[1]) // 2
    return np.ascontiguousarray(large[y : y + size[1], x : x + size[0]])


def paste(
    canvas: NDArray[np.uint8], face: AnnotatedFace, center: NDArray, size: float, angle: float, mirrored: bool
) -> NDArray[np.float32]:
    """Paste a face into the canvas in place; returns its landmarks (68, 2) there.

    center: where the middle of its landmark box goes, inside the canvas, px; size: longer side of that box before it
    is turned, px; angle: rad, clockwise.
    """
    image, landmarks = face.image, face.landmarks.astype(np.float64)
    if mirrored:
        image, landmarks = image[:, ::-1], mirror_landmarks(landmarks, image.shape[1])
    covered = _covered(image)
    factor = size / face_size(landmarks)
    if factor < 1:  # shrink by area first: an affine warp alone would alias
        shape = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
        unit = np.array(shape) / (image.shape[1], image.shape[0])
        image = cv2.resize(np.ascontiguousarray(image), shape, interpolation=cv2.INTER_AREA)
        landmarks, covered = landmarks * unit, covered * np.tile(unit, 2)
    factor = size / face_size(landmarks)
    box = landmark_box(landmarks)
    middle = (box[:2] + box[2:]) / 2
    linear = factor * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    affine = np.column_stack([linear, center - linear @ middle])
    reach = REACH * size + 1
    low = np.maximum(np.floor(center - reach).astype(int), 0)
    high = np.minimum(np.ceil(center + reach).astype(int), (canvas.shape[1], canvas.shape[0]))
    width, height = (int(side) for side in np.maximum(high - low, 1))
    warp = affine.copy()
    warp[:, 2] += linear @ (0.5, 0.5) - 0.5 - low  # OpenCV counts from the centre of the first pixel
    warped = cv2.warpAffine(
        np.ascontiguousarray(image), warp, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    x, y = np.meshgrid(low[0] + np.arange(width) + 0.5, low[1] + np.arange(height) + 0.5)
    alpha = np.clip((REACH - np.hypot(x - center[0], y - center[1]) / size) / 0.08, 0, 1)
    inverse = np.linalg.inv(linear)
    at = np.stack([x, y], axis=-1) @ inverse.T + (middle - inverse @ center)
    border = np.minimum(at - covered[:2], covered[2:] - at).min(axis=-1) * factor
    alpha = (alpha * np.clip(border / max(1.0, 0.02 * size), 0, 1))[..., None]
    region = canvas[low[1] : low[1] + height, low[0] : low[0] + width]
    region[:] = np.rint(alpha * warped + (1 - alpha) * region).astype(np.uint8)
    return (landmarks @ linear.T + affine[:, 2]).astype(np.float32)


def _covered(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(4,) box of the rows and columns that are not black."""
    rows, columns = (np.flatnonzero(image.max(axis=(axis, 2)) > 8) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return np.zeros(4)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


def make_composites(
    faces: Sequence[AnnotatedFace], backgrounds: Sequence[NDArray[np.uint8]], count: int, seed: int = 0
) -> list[Composite]:
    """`count` composites of 1–10 faces at log-uniform sizes, whole inside the frame, hardly overlapping."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(faces))
    used = 0
    made = []
    for number in range(count):
        canvas = background_canvas(backgrounds[number % len(backgrounds)], SIZE)
        places: list[tuple[float, float, float]] = []
        largest = SMALLEST * (LARGEST / SMALLEST) ** rng.uniform(0.2, 1.0)
        for _ in range(int(rng.integers(1, MOST_FACES + 1))):
            size = SMALLEST * (largest / SMALLEST) ** rng.uniform()
            for _ in range(30):
                x, y = (rng.uniform(0.75 * size, side - 0.75 * size) for side in SIZE)
                if all(math.hypot(x - a, y - b) > APART * (size + s) for a, b, s in places):
                    places.append((x, y, size))
                    break
        landmarks = []
        for x, y, size in places:
            face = faces[order[used % len(faces)]]
            used += 1
            angle = float(np.clip(rng.normal(0, ROLL), -0.5, 0.5))
            landmarks.append(paste(canvas, face, np.array([x, y]), size, angle, bool(rng.integers(2))))
        made.append(Composite(canvas, np.stack(landmarks), np.array([p[2] for p in places], np.float32)))
    return made


def at_scale(face: AnnotatedFace, background: NDArray[np.uint8], size: float, side: int = 640) -> Composite:
    """One upright face of the given size in the middle of a side² canvas."""
    canvas = background_canvas(background, (side, side))
    landmarks = paste(canvas, face, np.array([side / 2, side / 2]), size, 0.0, False)
    return Composite(canvas, landmarks[None], np.array([size], np.float32))
