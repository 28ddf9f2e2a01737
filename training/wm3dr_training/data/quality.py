"""Which labels are good enough to train on.

Measured on the 1,675 manually annotated photos of helen_train and lfpw_train: the mean of the landmarks of a photo and
of its mirror image is nearer to the manual points than either alone, and the distance between the two correlates with
the error (0.66), so it serves as a test where nothing was annotated.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .landmarks import INNER_LANDMARKS, MEDIAPIPE_68, inner_error, landmark_box

PROFILE_MARK = "profile"


@dataclass(frozen=True)
class Thresholds:
    """Limits beyond which a label is rejected; lengths in units of √(w·h) of the landmark box."""

    score: float = 0.6
    """Least score of the main face."""
    other_face: float = 0.7
    """Largest size of a second face over that of the main face, where no annotation says which one is meant."""
    disagreement: float = 0.035
    """Largest mean distance between the inner landmarks of the photo and of its mirror image."""
    disagreement_profile: float = 0.065
    """The same for profile photos, where half of the points are guesses."""
    error: float = 0.085
    """Largest mean distance of the inner landmarks to the annotated ones."""


def mirror_disagreement(direct: NDArray, mirrored: NDArray) -> NDArray[np.float64]:
    """Mean distance of the inner points of two labellings, over √(w·h) of the box of their mean's 68.

    Parameters
    ----------
    direct, mirrored : (n, 478, ≥2) float
        Pixels of the unmirrored photo, in the same numbering.

    Returns
    -------
    disagreement : (n,) float64
        Infinity where one of the two has no landmarks.
    """
    found = np.isfinite(direct[:, 0, 0]) & np.isfinite(mirrored[:, 0, 0])
    out = np.full(len(direct), np.inf)
    first, second = (x[found][:, MEDIAPIPE_68, :2].astype(np.float64) for x in (direct, mirrored))
    box = landmark_box((first + second) / 2)
    size = np.sqrt((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]))
    out[found] = np.linalg.norm((first - second)[:, INNER_LANDMARKS], axis=2).mean(axis=1) / size
    return out


def judge(
    names: NDArray,
    direct: NDArray,
    mirrored: NDArray,
    score: NDArray,
    second: NDArray,
    landmarks68: NDArray,
    limits: Thresholds | None = None,
) -> dict[str, NDArray]:
    """Merge the two labellings of each photo and say which to use.

    Parameters
    ----------
    names : (n,) str
        A name with "profile" is measured by the profile limits.
    direct, mirrored : (n, 478, 3) float
        MediaPipe's points of the photo and, mapped back, of its mirror image; NaN where it found none.
    score, second : (n,) float
        Detection score of the main face; size of the next face over its size.
    landmarks68 : (n, 68, 2) float
        Annotated points, NaN where there are none.
    limits : Thresholds, optional

    Returns
    -------
    labels : dict
        `landmarks478` (n, 478, 3) float32, the mean; `disagreement`, `error` (n,) float32 (error NaN without
        annotation); `valid` (n,) bool; `other_face` (n,) bool: not exactly one main face, the photo is unusable;
        `reason` (n,) str, empty where valid.
    """
    limits = limits or Thresholds()
    merged = np.where(np.isfinite(mirrored), (direct + mirrored) / 2, direct).astype(np.float32)
    found = np.isfinite(merged[:, 0, 0])
    annotated = np.isfinite(landmarks68).all(axis=2).any(axis=1)
    error = np.full(len(names), np.nan)
    both = found & annotated
    if both.any():
        error[both] = inner_error(merged[both][:, MEDIAPIPE_68, :2], landmarks68[both])
    profile = np.array([PROFILE_MARK in str(name) for name in names], bool)
    disagreement = mirror_disagreement(direct, mirrored)
    other_face = ~annotated & (second >= limits.other_face)

    reason = np.full(len(names), "", dtype="<U24")
    checks = (
        ("differs from annotation", both & (error > limits.error)),
        (
            "mirror image disagrees",
            disagreement > np.where(profile, limits.disagreement_profile, limits.disagreement),
        ),
        ("low detection score", ~annotated & (score < limits.score)),
        ("no landmarks", ~found),
        ("another main face", other_face),
    )
    for text, failed in checks:  # the last failing check names the reason
        reason[failed] = text
    return {
        "landmarks478": merged,
        "disagreement": disagreement.astype(np.float32),
        "error": error.astype(np.float32),
        "valid": reason == "",
        "other_face": other_face,
        "reason": reason,
    }
