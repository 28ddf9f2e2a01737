"""Square crops around a face, with the affine map that carries points along."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .landmarks import landmark_box

CROP_SIZE = 192
CROP_SCALE = 2.0
"""Side of the crop over the longer side of the landmark box."""


def square_around(points: NDArray, scale: float = CROP_SCALE) -> NDArray[np.float64]:
    """The square centred on the box of the landmarks, `scale` times as large as its longer side.

    Parameters
    ----------
    points : (P, 2) float
        Pixels; NaN points are ignored.

    Returns
    -------
    square : (4,) float64
        (x0, y0, x1, y1), pixels; may reach outside the photo.

    Raises
    ------
    ValueError
        Fewer than two distinct points, so that there is no size.
    """
    box = landmark_box(np.asarray(points, np.float64)) if np.isfinite(points).any() else np.zeros(4)
    side = scale * max(box[2] - box[0], box[3] - box[1])
    if not side > 0:
        raise ValueError("points span no area: at least two distinct points are needed for a crop")
    center = (box[:2] + box[2:]) / 2
    return np.concatenate([center - side / 2, center + side / 2])


def affine_from_square(square: NDArray, size: int = CROP_SIZE) -> NDArray[np.float32]:
    """(2, 3) map from pixels of the photo to pixels of the crop: `p_crop = A[:, :2] p + A[:, 2]`."""
    scale = size / (square[2] - square[0])
    return np.array([[scale, 0, -scale * square[0]], [0, scale, -scale * square[1]]], np.float32)


def apply_affine(affine: NDArray, points: NDArray) -> NDArray[np.float32]:
    """Map points (..., P, 2) by a (..., 2, 3) affine."""
    return (np.einsum("...ij,...pj->...pi", affine[..., :2], points) + affine[..., None, :, 2]).astype(np.float32)


def crop_square(image: NDArray[np.uint8], square: NDArray, size: int = CROP_SIZE) -> NDArray[np.uint8]:
    """Cut a square out of a photo and resize it with antialiasing (Lanczos); black outside the photo.

    Pixel (0, 0)'s outer corner of the crop is exactly the square's corner, so `affine_from_square` holds to rounding.

    Parameters
    ----------
    image : (H, W, 3) uint8
        RGB.
    square : (4,) float
        (x0, y0, x1, y1), pixels of the photo; may reach outside.
    size : int
        Side of the result, pixels.

    Returns
    -------
    crop : (size, size, 3) uint8
    """
    corner = np.floor(square[:2]).astype(int)
    far = np.ceil(square[2:]).astype(int)
    height, width = image.shape[:2]
    region = np.zeros((far[1] - corner[1], far[0] - corner[0], 3), np.uint8)
    x0, y0 = np.maximum(corner, 0)
    x1, y1 = np.minimum(far, (width, height))
    if x1 > x0 and y1 > y0:
        region[y0 - corner[1] : y1 - corner[1], x0 - corner[0] : x1 - corner[0]] = image[y0:y1, x0:x1]
    box = tuple(np.concatenate([square[:2] - corner, square[2:] - corner]))
    return np.asarray(Image.fromarray(region).resize((size, size), Image.Resampling.LANCZOS, box=box))


def covered_box(affine: NDArray, width: int, height: int, size: int = CROP_SIZE) -> NDArray[np.float32]:
    """The part of a crop that the photo covers, (x0, y0, x1, y1) in crop pixels; the rest is black."""
    corners = apply_affine(affine, np.array([[0, 0], [width, height]], np.float64))
    return np.clip(corners, 0, size).reshape(4)


def center_crop(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize so that the short side is `size`, then cut the central square: (size, size, 3) uint8."""
    height, width = image.shape[:2]
    side = min(height, width)
    x0, y0 = (width - side) / 2, (height - side) / 2
    return crop_square(image, np.array([x0, y0, x0 + side, y0 + side]), size)
