"""Skin masks: where the photometric loss may compare colours.

Either the output of a face-parsing network (zllrunning's 19 labels), or, by default, the hull of the landmarks minus
eyes, brows and mouth, thinned by a colour model that is fitted to each photo on its own: cheeks, nose and forehead
give the skin colour, and pixels of the hull that do not fit it (hair, glasses, microphones, hard shadows) go.

Measured on the 102 neutral photos of london against its hand-set outlines of face, eyes, brows and lips, 96-px masks:
99.5 % of the mask is skin (worst photo 98.0 %), 95 % of the skin inside of the hull is in the mask (worst 81 %; the
darkest fifth of the photos 91 %). MediaPipe's hull ends below the hairline, so a third of the whole face is left out.
"""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

PARSING_LABELS = (
    *("background", "skin", "left_brow", "right_brow", "left_eye", "right_eye", "glasses", "left_ear", "right_ear"),
    *("earring", "nose", "mouth", "upper_lip", "lower_lip", "neck", "necklace", "cloth", "hair", "hat"),
)
"""The 19 labels of zllrunning/face-parsing.PyTorch, in the order of their numbers."""
PARSING_SKIN = ("skin", "nose")

FACE_OVAL = np.array(
    [
        *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
        *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
    ]
)
RIGHT_EYE = np.array([33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246])
LEFT_EYE = np.array([263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466])
RIGHT_BROW = np.array([70, 63, 105, 66, 107, 55, 65, 52, 53, 46])
LEFT_BROW = np.array([300, 293, 334, 296, 336, 285, 295, 282, 283, 276])
LIPS = np.array([61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185])
SEEDS = (
    np.array([117, 118, 119, 100, 142, 203, 206, 207, 187, 123]),  # right cheek
    np.array([346, 347, 348, 329, 371, 423, 426, 427, 411, 352]),  # left cheek
    np.array([168, 122, 196, 3, 51, 45, 4, 275, 281, 248, 419, 351]),  # nose
    np.array([108, 69, 104, 105, 66, 107, 9, 336, 296, 334, 333, 299, 337, 151]),  # forehead
)
"""Outlines of the regions that are skin on nearly every face; MediaPipe numbers."""

GROW_EYES, GROW_BROWS, GROW_LIPS = 0.05, 0.03, 0.02
"""How far the excluded parts are grown, in units of the square root of the hull's area."""
COLOR_FLOOR = np.diag([0.2, 0.015, 0.015]) ** 2
"""Least variance of (ln brightness, r, g): shading and compression vary that much on the plainest skin."""
MAX_DISTANCE = 3.0
"""Mahalanobis distance from the seed colour beyond which a pixel is not skin."""
MIN_SEED_PIXELS = 12


def mask_from_parsing(labels: NDArray, names: tuple[str, ...] = PARSING_SKIN) -> NDArray[np.bool_]:
    """Skin by a face-parsing network's label image.

    Parameters
    ----------
    labels : (H, W) int
        zllrunning's 19 labels (`PARSING_LABELS`).
    names : tuple of str
        Which labels count as skin.

    Raises
    ------
    ValueError
        `labels` is not 2-D or has a number beyond 18.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or (labels.size and (labels.min() < 0 or labels.max() >= len(PARSING_LABELS))):
        raise ValueError(
            f"labels has shape {labels.shape} and range {labels.min()}–{labels.max()}, "
            f"wanted (H, W) with 0–{len(PARSING_LABELS) - 1}"
        )
    return np.isin(labels, [PARSING_LABELS.index(name) for name in names])


def read_parsing(path: Path) -> NDArray[np.uint8]:
    """A label image as zllrunning's code saves it: one channel, values 0–18, any lossless format.

    Raises
    ------
    ValueError
        The file has more than one channel (a coloured picture of the labels is not the labels).
    """
    with Image.open(path) as image:
        if image.mode not in ("L", "P", "I", "I;16"):
            raise ValueError(f"{path} has mode {image.mode}, wanted one channel with the labels 0–18")
        labels = np.array(image)
    return labels.astype(np.uint8)


def skin_mask(image: NDArray[np.uint8], landmarks478: NDArray) -> NDArray[np.bool_]:
    """Skin of one face by landmarks and colour.

    Parameters
    ----------
    image : (H, W, 3) uint8
        RGB.
    landmarks478 : (478, ≥2) float
        Pixels of `image`; NaN where hidden.

    Returns
    -------
    mask : (H, W) bool
        All False when the points do not span a face or the seed regions are outside of the photo.
    """
    region = face_region(image.shape[:2], landmarks478)
    seed = region & _filled(image.shape[:2], [landmarks478[s, :2] for s in SEEDS], 0)
    if seed.sum() < MIN_SEED_PIXELS:
        return np.zeros(image.shape[:2], bool)
    skin = region & (color_distance(image, seed) < MAX_DISTANCE)
    return _cleaned(skin, region)


def face_region(shape: tuple[int, int], landmarks478: NDArray) -> NDArray[np.bool_]:
    """The hull of the visible landmarks minus eyes, brows and mouth, (H, W) bool."""
    points = np.asarray(landmarks478)[:, :2]
    known = points[:468][np.isfinite(points[:468]).all(axis=1)]
    if len(known) < 3:
        return np.zeros(shape, bool)
    oval = points[FACE_OVAL]
    outline = oval if np.isfinite(oval).all() else cv2.convexHull(known.astype(np.float32))[:, 0]
    size = np.sqrt(max(cv2.contourArea(outline.astype(np.float32)), 1.0))
    hull = _filled(shape, [outline], 0)
    holes = (((RIGHT_EYE, LEFT_EYE), GROW_EYES), ((RIGHT_BROW, LEFT_BROW), GROW_BROWS), ((LIPS,), GROW_LIPS))
    for parts, grow in holes:
        hull &= ~_filled(shape, [points[part] for part in parts], grow * size)
    return hull


def color_distance(image: NDArray[np.uint8], seed: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Mahalanobis distance of every pixel from the colour of the seed pixels.

    The colour is (ln brightness, r, g) with r = R/(R+G+B): light on a face changes the first much and the others
    little. Mean and covariance are refitted twice to the nearer part of the seed, so that glasses or hair in it do
    not count.

    Parameters
    ----------
    image : (H, W, 3) uint8
        RGB.
    seed : (H, W) bool
        At least one pixel.

    Returns
    -------
    distance : (H, W) float32
    """
    rgb = cv2.GaussianBlur(image, (3, 3), 0).astype(np.float32) + 2.0
    total = rgb.sum(axis=2)
    color = np.stack([np.log(total), rgb[..., 0] / total, rgb[..., 1] / total], axis=2)
    sample = color[seed].astype(np.float64)
    center = np.median(sample, axis=0)
    spread = 1.4826 * np.median(np.abs(sample - center), axis=0)
    covariance = np.diag(spread**2) + COLOR_FLOOR
    for _ in range(2):
        near = _mahalanobis(sample, center, covariance) < 2.5
        if near.sum() < MIN_SEED_PIXELS:
            break
        center = sample[near].mean(axis=0)
        covariance = np.cov(sample[near].T) + COLOR_FLOOR
    return _mahalanobis(color, center, covariance)


def _mahalanobis(color: NDArray, center: NDArray, covariance: NDArray) -> NDArray[np.float32]:
    difference = color - center
    squared = np.einsum("...i,ij,...j->...", difference, np.linalg.inv(covariance), difference)
    return np.sqrt(squared).astype(np.float32)


def _filled(shape: tuple[int, int], outlines: list[NDArray], grow: float) -> NDArray[np.bool_]:
    """Pixels whose centre is in one of the polygons, grown by `grow` pixels; polygons with NaN are left out."""
    canvas = np.zeros(shape, np.uint8)
    bits = 4  # fractional bits of cv2's fixed-point coordinates, in which a pixel's centre is an integer
    for outline in outlines:
        if np.isfinite(outline).all():
            fixed = np.round((np.asarray(outline, np.float64) - 0.5) * (1 << bits)).astype(np.int32)
            cv2.fillPoly(canvas, [fixed], 1, shift=bits)
            if grow > 0:
                cv2.polylines(canvas, [fixed], True, 1, max(1, round(2 * grow)), shift=bits)
    return canvas.astype(bool)


def _cleaned(skin: NDArray[np.bool_], region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without specks: closed and opened at a fiftieth of the face, then parts under 3 % of the region dropped."""
    radius = max(1, round(np.sqrt(region.sum()) * 0.02))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    mask = cv2.morphologyEx(skin.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel) & region.astype(np.uint8)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    large = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] >= 0.03 * region.sum()]
    return np.isin(parts, large)
