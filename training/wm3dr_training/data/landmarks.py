"""Landmark schemes and the maps between them.

The common scheme is the 68 points of CONVENTIONS.md §5. MediaPipe's 478 and CFP's 30 points are mapped to it here and
nowhere else.
"""

import numpy as np
from numpy.typing import NDArray

N_LANDMARKS = 68
N_MEDIAPIPE = 478
N_FIDUCIALS = 30

INNER_LANDMARKS = np.arange(17, 68)
"""The points that are fixed on the face; 0–16 are the visible contour."""

MIRROR_68 = np.array(
    [
        *(*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46),
        *(39, 38, 37, 36, 41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),
    ]
)
"""Number of each landmark's mirror image: `mirrored = landmarks[MIRROR_68]` after x → width − x."""

MEDIAPIPE_68 = np.array(
    [
        *(127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356),  # jaw
        *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),  # brows
        *(168, 197, 5, 4, 98, 97, 2, 326, 327),  # nose
        *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),  # eyes
        *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),  # outer lips
        *(78, 82, 13, 312, 308, 317, 14, 87),  # inner lips
    ]
)
"""MediaPipe's point for each of the 68. Against the manual points of 300-W: see `wm3dr-train label`'s summary."""

PROFILE_YAW_DEG = 36.0
"""|`mediapipe_yaw_deg`| above which the far half of MediaPipe's points counts as hidden. MediaPipe flattens profiles:
on CFP's profile photos (60–90°) it says 36–61° (5–95 %), on HELEN and LFPW at most 33° (99 %)."""

# CFP annotates one side; these are the 68-point numbers when that is the subject's right (image left).
_FIDUCIALS_RIGHT = np.array(
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 17, 19, 21, 36, 37, 38, 39, 40, 41, 27, 28, 29, 30, 33, 32, 31, 48, 51, 62, 57, 66]
)
_LOWER_LID = (16, 17)
_EYE_OUTER = 12
_MOUTH_CORNER = 25
_LIP_MIDDLE = (26, 27, 28, 29)


def landmark_box(points: NDArray) -> NDArray:
    """Smallest box around points.

    Parameters
    ----------
    points : (..., P, 2) float
        Pixels; a point with NaN is ignored.

    Returns
    -------
    box : (..., 4) float
        (x0, y0, x1, y1), pixels.
    """
    return np.concatenate([np.nanmin(points, axis=-2), np.nanmax(points, axis=-2)], axis=-1)


def mirror_landmarks(points: NDArray, width: float, mirror: NDArray = MIRROR_68) -> NDArray:
    """Landmarks of the photo turned left to right.

    x → width − x, and every point takes the number of its mirror image.

    Parameters
    ----------
    points : (..., P, D) float
        Pixels, D ≥ 2; only the first coordinate changes.
    width : float
        Width of the photo, pixels.
    mirror : (P,) int
        Number of each point's mirror image.
    """
    out = np.array(points)[..., mirror, :]
    out[..., 0] = width - out[..., 0]
    return out


def fiducial_numbers(fiducials: NDArray) -> NDArray[np.int64]:
    """The 68-point number of each CFP fiducial, photo by photo.

    CFP marks one side of the face: the mouth corner (25) tells which. The two points of the lower lid (16, 17) come in
    either order; the one nearer to the outer corner (12) gets the outer number.

    Parameters
    ----------
    fiducials : (n, 30, 2) float
        Pixels.

    Returns
    -------
    numbers : (n, 30) int64
        `numbers[i, k] = j`: fiducial k of photo i is landmark j.

    Raises
    ------
    ValueError
        The shape differs from the above.
    """
    fiducials = np.asarray(fiducials, np.float64)
    if fiducials.ndim != 3 or fiducials.shape[1:] != (N_FIDUCIALS, 2):
        raise ValueError(f"fiducials has shape {fiducials.shape}, wanted (n, {N_FIDUCIALS}, 2)")
    shows_right = fiducials[:, _MOUTH_CORNER, 0] < fiducials[:, _LIP_MIDDLE, 0].mean(axis=1)
    numbers = np.where(shows_right[:, None], _FIDUCIALS_RIGHT, MIRROR_68[_FIDUCIALS_RIGHT])
    inner, outer = (np.linalg.norm(fiducials[:, k] - fiducials[:, _EYE_OUTER], axis=1) for k in _LOWER_LID)
    swapped = inner < outer
    numbers[np.ix_(swapped, _LOWER_LID)] = numbers[np.ix_(swapped, _LOWER_LID[::-1])]
    return numbers


def landmarks68_from_fiducials(fiducials: NDArray) -> NDArray[np.float32]:
    """CFP's 30 fiducials as 68 landmarks; the points CFP does not mark are NaN.

    Parameters
    ----------
    fiducials : (n, 30, 2) float
        Pixels.

    Returns
    -------
    landmarks68 : (n, 68, 2) float32
        Pixels.
    """
    numbers = fiducial_numbers(fiducials)
    out = np.full((len(numbers), N_LANDMARKS, 2), np.nan, np.float32)
    np.put_along_axis(out, numbers[..., None], np.asarray(fiducials, np.float32), axis=1)
    return out


def inner_error(landmarks: NDArray, reference: NDArray) -> NDArray[np.float64]:
    """Mean distance over the inner points (17–67) that the reference has, in units of the reference's box.

    The unit is √(w·h) of the box around all of the reference's points, so that profile photos, whose eyes nearly
    coincide, compare with frontal ones.

    Parameters
    ----------
    landmarks, reference : (n, 68, 2) float
        Pixels; NaN in `reference` where a point is not annotated.

    Returns
    -------
    error : (n,) float64
        NaN where `landmarks` is NaN.
    """
    box = landmark_box(reference)
    size = np.sqrt((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]))
    known = np.isfinite(reference[:, INNER_LANDMARKS]).all(axis=-1)
    distance = np.linalg.norm(landmarks[:, INNER_LANDMARKS] - reference[:, INNER_LANDMARKS], axis=-1)
    return np.where(known, distance, 0).sum(axis=1) / known.sum(axis=1) / size


def mediapipe_yaw_deg(landmarks478: NDArray) -> NDArray[np.float64]:
    """Yaw by MediaPipe's own depth: the direction from ear to ear. Degrees, > 0 when the nose points to image right.

    Parameters
    ----------
    landmarks478 : (n, 478, 3) float
        Pixels; z grows away from the camera.
    """
    across = landmarks478[:, 454].astype(np.float64) - landmarks478[:, 234]
    return np.degrees(np.arctan2(across[:, 2], across[:, 0]))


def visible478(landmarks478: NDArray, side: NDArray) -> NDArray[np.bool_]:
    """Which of MediaPipe's points are on the visible half of the face.

    All of them up to `PROFILE_YAW_DEG`; beyond it those of the near side and of the middle. MediaPipe puts the far
    points of a profile outside of the silhouette.

    Parameters
    ----------
    landmarks478 : (n, 478, 3) float
        Pixels.
    side : (478,) int
        −1 subject's right, 0 middle, +1 subject's left (`mediapipe_to_mesh.npz`).
    """
    yaw = mediapipe_yaw_deg(landmarks478)
    hidden_side = np.where(np.abs(yaw) > PROFILE_YAW_DEG, np.sign(yaw), np.nan)
    return side[None, :] != hidden_side[:, None]
