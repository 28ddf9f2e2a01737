"""The London photos and their landmarks, and where those landmarks lie on the mesh."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data.correspondence import Correspondence
from .registration import Observations

# template189 → the 68 landmarks (Multi-PIE order). Points whose places along a curve differ are resampled on it.
EYE_CURVES = {
    (36, 37, 38, 39): (18, 19, 20, 21, 22),
    (36, 41, 40, 39): (18, 28, 29, 30, 22),
    (42, 43, 44, 45): (23, 24, 25, 26, 27),
    (42, 47, 46, 45): (23, 31, 32, 33, 27),
}
LIP_POINTS = {
    49: 88, 50: 89, 51: 90, 52: 91, 53: 92, 55: 108, 56: 107, 57: 106, 58: 105, 59: 104,
    61: 95, 62: 96, 63: 97, 65: 102, 66: 101, 67: 100,
}  # fmt: skip
TEMPLATE_JAW = range(125, 134)
DENSE_JAW = (58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288)
SIGMA_BY_HAND_PX, SIGMA_DENSE_PX = 2.0, 2.5
MIN_CONFIDENCE = 0.3
"""Dense points that slide over the skin (face oval, forehead) are less sure than this and not used."""


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
        npz with `names` (P,) and `landmarks478` (P, 478, 2 or 3) px, as `wm3dr-train label`
        writes it. Without it only the neutral photos,
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
            dense = dict(zip(pack["names"].tolist(), pack["landmarks478"][..., :2].astype(np.float64), strict=True))
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
    """Landmark number (of 68) → pixel, for those that the 189 points define: eyes and lips."""
    found: dict[int, NDArray[np.float64]] = {}
    for landmarks, curve in EYE_CURVES.items():
        found |= dict(zip(landmarks, resampled(template[list(curve)], 4), strict=True))
    return found | {landmark: template[point] for landmark, point in LIP_POINTS.items()}


def observations_of(photo: Photo, landmark_vertices: NDArray[np.int32], correspondence: Correspondence) -> Observations:
    """All that is known of a photo: eyes and lips set by hand, MediaPipe's points, the jaw's contour."""
    corners, weights, points, sigma = [], [], [], []
    if photo.template is not None:
        by_hand = template_landmarks(photo.template)
        corners.append(np.repeat(landmark_vertices[list(by_hand)][:, None], 3, axis=1))
        weights.append(np.tile([1.0, 0.0, 0.0], (len(by_hand), 1)))
        points.append(np.array(list(by_hand.values())))
        sigma.append(np.full(len(by_hand), SIGMA_BY_HAND_PX))
    if photo.dense is not None:
        used = np.flatnonzero(correspondence.confidence >= MIN_CONFIDENCE)
        corners.append(correspondence.vertex_ids[used])
        weights.append(correspondence.weights[used].astype(np.float64))
        points.append(photo.dense[used])
        sigma.append(SIGMA_DENSE_PX / correspondence.confidence[used].astype(np.float64))
    return Observations(
        corners=np.concatenate(corners).astype(np.int64),
        weights=np.concatenate(weights),
        points_px=np.concatenate(points),
        sigma_px=np.concatenate(sigma),
        contour_px=jaw_contour(photo),
    )


def jaw_contour(photo: Photo) -> NDArray[np.float64]:
    """(C, 2) px: jaw points set by hand, or the lower face oval of the dense points."""
    if photo.template is not None:
        return photo.template[list(TEMPLATE_JAW)]
    return photo.dense[list(DENSE_JAW)]
