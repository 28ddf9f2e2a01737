"""The London photos and their landmarks, and where those landmarks lie on the mesh."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .registration import Fit, Observations, Shapes

# template189 → the 68 landmarks (Multi-PIE order). Points whose places along a curve differ are resampled on it.
RIGHT_BROW, LEFT_BROW = (71, 72, 73, 74, 75), (78, 79, 80, 81, 82)
EYE_CURVES = {
    (36, 37, 38, 39): (18, 19, 20, 21, 22),
    (36, 41, 40, 39): (18, 28, 29, 30, 22),
    (42, 43, 44, 45): (23, 24, 25, 26, 27),
    (42, 47, 46, 45): (23, 31, 32, 33, 27),
}
LIP_POINTS = {
    48: 87, 49: 88, 50: 89, 51: 90, 52: 91, 53: 92, 54: 93, 55: 108, 56: 107, 57: 106, 58: 105, 59: 104,
    61: 95, 62: 96, 63: 97, 65: 102, 66: 101, 67: 100,
}  # fmt: skip
TEMPLATE_JAW = range(125, 134)
# MediaPipe's 478 points → the 68 landmarks, 17 … 67 (brows, nose, eyes, lips).
DENSE_TO_68 = (
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300, 168, 197, 5, 4, 98, 97, 2, 326, 327, 33, 160, 158, 133, 153, 144,
    362, 385, 387, 263, 373, 380, 61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip
DENSE_JAW = (58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288)
DENSE_FIXED = {33: 36, 133: 39, 362: 42, 263: 45, 78: 60, 82: 61, 13: 62, 312: 63, 308: 64, 317: 65, 14: 66, 87: 67}
"""Dense points whose vertex is a landmark's: eye corners and the inner lips, whose sides touch in a closed mouth."""
DENSE_UNUSED = (
    191, 80, 81, 310, 311, 415, 95, 88, 178, 402, 318, 324,
    *DENSE_JAW, 127, 234, 93, 132, 361, 323, 454, 356, 10, 338, 297, 332, 284, 251, 389, 109, 67, 103, 54, 21, 162,
    *range(468, 478),
)  # fmt: skip
"""Inner lip points between the above, the face oval (a contour, not points of the head) and the irises."""


@dataclass(frozen=True)
class Photo:
    """One London photo: sRGB (H, W, 3) uint8 and the landmarks known for it, pixels."""

    name: str
    image: NDArray[np.uint8]
    template: NDArray[np.float64] | None
    """(189, 2), neutral photos only."""
    dense: NDArray[np.float64] | None
    """(478, 2) MediaPipe points."""

    @property
    def expression(self) -> str:
        """ "neutral" (stems …_03) or "smiling" (…_08)."""
        return "neutral" if self.name.endswith("_03") else "smiling"

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), px."""
        return self.image.shape[1], self.image.shape[0]


def load_photos(archive: Path, landmarks: Path | None) -> list[Photo]:
    """Photos of ``london.zip`` (beside it ``london.npz``) sorted by name, those without any landmarks left out.

    Parameters
    ----------
    landmarks : path or None
        npz with `names` (P,) and `points` (P, 478, 2 or 3) px: MediaPipe's points. Without it only the neutral photos,
        whose points were set by hand, are used.

    Raises
    ------
    FileNotFoundError
        A file is missing.
    """
    with np.load(archive.with_suffix(".npz"), allow_pickle=False) as pack:
        template = dict(zip(pack["names"].tolist(), pack["template189"].astype(np.float64), strict=True))
    dense = {}
    if landmarks is not None:
        with np.load(landmarks, allow_pickle=False) as pack:
            dense = dict(zip(pack["names"].tolist(), pack["points"][..., :2].astype(np.float64), strict=True))
    photos = []
    with zipfile.ZipFile(archive) as images:
        for member in sorted(images.namelist()):
            name = Path(member).stem
            if name in template or name in dense:
                image = np.asarray(Image.open(io.BytesIO(images.read(member))).convert("RGB"))
                photos.append(Photo(name, image, template.get(name), dense.get(name)))
    return photos


def resampled(curve: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """`n` points at equal arc length along the open polyline `curve` (M, 2), ends included."""
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    wanted = np.linspace(0, along[-1], n)
    return np.stack([np.interp(wanted, along, curve[:, i]) for i in range(2)], axis=1)


def template_landmarks(template: NDArray[np.float64]) -> dict[int, NDArray[np.float64]]:
    """Landmark number (of 68) → pixel, for those that the 189 points define: brows, eyes, lips."""
    found = dict(zip(range(17, 22), resampled(template[list(RIGHT_BROW)], 5), strict=True))
    found |= dict(zip(range(22, 27), resampled(template[list(LEFT_BROW)], 5), strict=True))
    for landmarks, curve in EYE_CURVES.items():
        found |= dict(zip(landmarks, resampled(template[list(curve)], 4), strict=True))
    return found | {landmark: template[point] for landmark, point in LIP_POINTS.items()}


def sparse_observations(photo: Photo, landmark_vertices: NDArray[np.int32]) -> Observations:
    """Landmarks 17 … 67 of a photo: set by hand where there are such, MediaPipe's for the rest; jaw as contour."""
    by_hand = template_landmarks(photo.template) if photo.template is not None else {}
    vertices, points, sigma = [], [], []
    for landmark, point in enumerate(DENSE_TO_68, start=17):
        if landmark in by_hand:
            points.append(by_hand[landmark])
            sigma.append(2.0)
        elif photo.dense is not None:
            points.append(photo.dense[point])
            sigma.append(4.0)
        else:
            continue
        vertices.append(landmark_vertices[landmark])
    return Observations(np.array(vertices, np.int64), np.array(points), np.array(sigma), jaw_contour(photo))


def dense_observations(
    photo: Photo, landmark_vertices: NDArray[np.int32], dense_vertices: NDArray[np.int64]
) -> Observations:
    """The dense points at their learned vertices (−1: unused), with the landmarks set by hand where there are such."""
    used = np.flatnonzero(dense_vertices >= 0)
    vertices, points = dense_vertices[used], photo.dense[used]
    sigma = np.full(len(used), 5.0)
    sigma[np.isin(used, DENSE_TO_68)] = 2.5
    if photo.template is not None:
        by_hand = template_landmarks(photo.template)
        vertices = np.concatenate([vertices, landmark_vertices[list(by_hand)]])
        points = np.concatenate([points, np.array(list(by_hand.values()))])
        sigma = np.concatenate([sigma, np.full(len(by_hand), 1.5)])
    return Observations(vertices.astype(np.int64), points, sigma, jaw_contour(photo))


def jaw_contour(photo: Photo) -> NDArray[np.float64]:
    """(C, 2) px: jaw points set by hand, or the lower face oval of the dense points."""
    if photo.template is not None:
        return photo.template[list(TEMPLATE_JAW)]
    return photo.dense[list(DENSE_JAW)]


def dense_vertices_from_fits(
    shapes: Shapes, photos: list[Photo], fits: list[Fit], landmark_vertices: NDArray[np.int32], exterior: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The refined vertex of every dense point, (478,) int64, −1 where none is sought.

    On every fitted photo the nearest projected vertex is looked up; the average of their places on the mean shape over
    the photos, made symmetric with the points' own left-right pairs, decides. `exterior` (N,) marks vertices that may
    be seen from the front.
    """
    from scipy.spatial import cKDTree

    candidates = np.flatnonzero(exterior)
    places = np.zeros((478, 3))
    mean_px = np.zeros((478, 2))
    for photo, fit in zip(photos, fits, strict=True):
        px = fit.project(fit.camera_points(shapes.mean[candidates], shapes.basis[candidates]))
        distance, index = cKDTree(px).query(photo.dense, k=4)
        weight = 1 / (distance + 0.1)
        weight /= weight.sum(axis=1, keepdims=True)
        places += (weight[..., None] * shapes.mean[candidates[index]]).sum(axis=1)
        eyes = photo.dense[[33, 263]]
        mean_px += (photo.dense - eyes.mean(axis=0)) / np.linalg.norm(eyes[1] - eyes[0])
    places /= len(photos)
    mean_px /= len(photos)
    _, pair = cKDTree(mean_px).query(mean_px * [-1, 1])
    mutual = pair[pair] == np.arange(478)
    symmetric = np.where(mutual[:, None], (places + places[pair] * [-1, 1, 1]) / 2, places)
    _, nearest = cKDTree(shapes.mean[candidates]).query(symmetric)
    vertices = candidates[nearest].astype(np.int64)
    vertices[list(DENSE_UNUSED)] = -1
    for point, landmark in DENSE_FIXED.items():
        vertices[point] = landmark_vertices[landmark]
    return vertices
