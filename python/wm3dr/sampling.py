"""Reading images between their pixels, and continuing what is known of an image to where it is not."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


def bilinear(image: NDArray[Any], x: F32, y: F32) -> F32:
    """Return the values of an image at points, interpolated between pixel centres; beyond the edge, those of the edge.

    Parameters
    ----------
    image : (H, W, C)
    x, y : (M,) float32
        Pixels; (0, 0) is the outer corner of the top-left pixel (CONVENTIONS.md §1).

    Returns
    -------
    values : (M, C) float32
    """
    height, width = image.shape[:2]
    x = np.clip(x - np.float32(0.5), 0, width - 1)
    y = np.clip(y - np.float32(0.5), 0, height - 1)
    left, top = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (x - left)[:, None].astype(np.float32), (y - top)[:, None].astype(np.float32)
    upper = image[top, left] * (1 - across) + image[top, right] * across
    lower = image[bottom, left] * (1 - across) + image[bottom, right] * across
    values: F32 = upper * (1 - down) + lower * down
    return values


def continued(values: F32, weights: F32, smooth: int = 0) -> F32:
    """Continue an image smoothly from where it is known (pull-push: a pyramid of weighted means).

    Parameters
    ----------
    values : (H, W, C) float32
    weights : (H, W) float32
        How well each pixel is known, in [0, 1]. Where it is 1 the value stays (with `smooth` 0).
    smooth : int
        Forget detail finer than 2^smooth pixels.

    Returns
    -------
    continued : (H, W, C) float32
        Zero everywhere if no weight is above zero.
    """
    height, width = weights.shape
    if max(height, width) == 1:
        return np.where(weights[:, :, None] > 0, values, 0).astype(np.float32)
    padding = ((0, height % 2), (0, width % 2))
    w = np.pad(weights, padding).astype(np.float32)
    v = np.pad(values, (*padding, (0, 0))) * w[:, :, None]
    total = w[::2, ::2] + w[1::2, ::2] + w[::2, 1::2] + w[1::2, 1::2]
    mean = v[::2, ::2] + v[1::2, ::2] + v[::2, 1::2] + v[1::2, 1::2]
    mean /= np.maximum(total, np.float32(1e-12))[:, :, None]
    if smooth > 0:
        # The share that is known, not all or nothing: every pixel counts alike.
        coarse = continued(mean, total / np.float32(4), smooth - 1)
    else:
        coarse = continued(mean, np.minimum(total, 1))
    fine = doubled(coarse)[:height, :width]
    if smooth > 0:
        return fine
    known = np.clip(weights, 0, 1)[:, :, None].astype(np.float32)
    result: F32 = np.where(known > 0, values, 0) * known + fine * (1 - known)
    return result


def blurred(values: F32, radius: int) -> F32:
    """Return the mean over squares of 2 `radius` + 1 pixels, twice (a tent); the image's edge is repeated.

    Parameters
    ----------
    values : (H, W) float32
    radius : int
        Pixels, at least 0.
    """
    for axis in (0, 1, 0, 1):
        padding = [(0, 0), (0, 0)]
        padding[axis] = (radius + 1, radius)
        sums = np.cumsum(np.pad(values, padding, mode="edge"), axis=axis, dtype=np.float64)
        length = 2 * radius + 1
        high, low = (sums[length:], sums[:-length]) if axis == 0 else (sums[:, length:], sums[:, :-length])
        values = ((high - low) / length).astype(np.float32)
    return values


def smoothstep(values: F32, low: float, high: float) -> F32:
    """Return 0 up to `low`, 1 from `high`, and a smooth step (3 t² − 2 t³) between."""
    t = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    step: F32 = t * t * (3 - 2 * t)
    return step


def doubled(values: F32) -> F32:
    """Enlarge (H, W, C) twofold, linear between the centres."""
    for axis in (0, 1):
        before = np.concatenate([values.take([0], axis), values.take(range(values.shape[axis] - 1), axis)], axis)
        after = np.concatenate([values.take(range(1, values.shape[axis]), axis), values.take([-1], axis)], axis)
        pair = np.stack([0.75 * values + 0.25 * before, 0.75 * values + 0.25 * after], axis=axis + 1)
        shape = list(values.shape)
        shape[axis] *= 2
        values = pair.reshape(shape).astype(np.float32)
    return values
