"""Error measures, pure functions of arrays. Landmarks: the 68 of CONVENTIONS.md §5, pixels; NaN = not annotated."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wm3dr_training.data.landmarks import INNER_LANDMARKS, landmark_box

OUTER_EYE_CORNERS = (36, 45)
PNP_LANDMARKS = np.arange(17, 68)
SAME_FACE_DISTANCE = 0.35
"""Largest distance between the centres of two boxes of one face, over √(w·h) of the reference's."""
SAME_FACE_RATIO = 2.0
"""Largest ratio of the √(w·h) of two boxes of one face."""


def box_size(box: NDArray) -> NDArray:
    """√(w·h) of boxes (..., 4), pixels."""
    return np.sqrt(np.maximum(box[..., 2] - box[..., 0], 0) * np.maximum(box[..., 3] - box[..., 1], 0))


def interocular_nme(landmarks: NDArray, reference: NDArray, points: NDArray = INNER_LANDMARKS) -> float:
    """Mean distance of `points` over the distance of the outer eye corners (300-W), per cent."""
    between = np.linalg.norm(reference[OUTER_EYE_CORNERS[0]] - reference[OUTER_EYE_CORNERS[1]])
    return float(100 * np.linalg.norm(landmarks[points] - reference[points], axis=-1).mean() / between)


def box_nme(points: NDArray, reference: NDArray) -> float:
    """Mean distance of the annotated points over √(w·h) of their box, per cent (AFLW2000-3D's measure).

    points, reference : (P, 2) px; rows of `reference` that are NaN are left out.
    """
    known = np.isfinite(reference).all(axis=-1)
    size = box_size(landmark_box(reference[known]))
    return float(100 * np.linalg.norm(points[known] - reference[known], axis=-1).mean() / size)


def box_overlap(a: NDArray, b: NDArray) -> float:
    """Intersection over union of two boxes (4,)."""
    shared = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared
    return float(shared / union) if union > 0 else 0.0


def best_overlap(boxes: NDArray, reference: NDArray, least: float = 0.2) -> int | None:
    """Number of the box (F, 4) that overlaps the reference best; None when none reaches `least`."""
    if not len(boxes):
        return None
    overlaps = [box_overlap(box, reference) for box in boxes]
    best = int(np.argmax(overlaps))
    return best if overlaps[best] >= least else None


def match_faces(found: NDArray, reference: NDArray) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """One-to-one matches of boxes, nearest centres first.

    Two boxes are of one face when their centres are at most `SAME_FACE_DISTANCE` apart and their sizes differ by
    at most `SAME_FACE_RATIO`.

    Returns
    -------
    recalled : (R,) bool
        References that have a match.
    right : (F,) bool
        Found boxes that have a match.
    """
    recalled, right = np.zeros(len(reference), bool), np.zeros(len(found), bool)
    if not len(found) or not len(reference):
        return recalled, right
    between = np.linalg.norm(_centers(reference)[:, None] - _centers(found)[None], axis=-1)
    distance = between / np.maximum(box_size(reference), 1e-6)[:, None]
    ratio = np.maximum(box_size(found), 1e-6)[None] / np.maximum(box_size(reference), 1e-6)[:, None]
    distance[(ratio > SAME_FACE_RATIO) | (ratio < 1 / SAME_FACE_RATIO)] = np.inf
    while distance.min() <= SAME_FACE_DISTANCE:
        row, column = np.unravel_index(np.argmin(distance), distance.shape)
        recalled[row] = right[column] = True
        distance[row], distance[:, column] = np.inf, np.inf
    return recalled, right


def _centers(boxes: NDArray) -> NDArray:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def cumulative_errors(errors: NDArray, count: int, largest: float) -> tuple[NDArray, NDArray]:
    """Curve of cumulative errors: (201,) error bounds up to `largest` and the share of `count` photos below each.

    `count` includes missed photos, whose error is not in `errors`.
    """
    bounds = np.linspace(0, largest, 201)
    return bounds, (np.asarray(errors)[None] <= bounds[:, None]).sum(axis=1) / max(count, 1)


def area_under_roc(positive: NDArray, negative: NDArray) -> float:
    """Probability that a positive score exceeds a negative one, ties counted half."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left")
    not_above = np.searchsorted(ordered, positive, "right")
    return float(((below + not_above) / 2).mean() / len(negative))


def pnp_rotation(model_points: NDArray, pixels: NDArray, focal: float, principal_point: tuple[float, float]) -> NDArray:
    """Rotation (3, 3), model to camera, that fits fixed model points to annotated pixels best (cv2.solvePnP).

    model_points (P, 3) mm, model frame; pixels (P, 2); focal, principal_point in pixels.

    Raises
    ------
    ValueError
        No pose in front of the camera fits.
    """
    camera = np.array([[focal, 0, principal_point[0]], [0, focal, principal_point[1]], [0, 0, 1.0]])
    points, seen = np.ascontiguousarray(model_points, np.float64), np.ascontiguousarray(pixels, np.float64)
    # a frontal face at the depth that its size asks for
    depth = focal * np.ptp(points[:, 1]) / max(float(np.ptp(seen[:, 1])), 1.0)
    ray = (seen.mean(axis=0) - np.array(principal_point)) / focal
    start, place = np.array([np.pi, 0.0, 0.0]), depth * np.array([ray[0], ray[1], 1.0])
    done, vector, place = cv2.solvePnP(
        points, seen, camera, None, start.copy(), place.copy(), useExtrinsicGuess=True, flags=cv2.SOLVEPNP_ITERATIVE
    )
    if not done or float(place.ravel()[2]) <= 0:
        raise ValueError("no pose in front of the camera fits the points")
    return cv2.Rodrigues(vector)[0]


def skin_tone_angle(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """Individual typology angle of the median skin colour, degrees: arctan((L* − 50) / b*). Large is light.

    image (H, W, 3) uint8 RGB; mask (H, W), at least one pixel. NaN for a grey photo (chroma below 3).
    """
    lab = cv2.cvtColor(image[None, mask].astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB)[0]
    lightness, a, b = np.median(lab, axis=0)
    if np.hypot(a, b) < 3:
        return float("nan")
    return float(np.degrees(np.arctan2(lightness - 50, b)))
