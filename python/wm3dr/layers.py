"""Antialiased renderings of the faces in any camera of their frame, for drawing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .camera import Camera
from .dense import DenseFaces, interpolate, rasterize

F32 = NDArray[np.float32]

BAND_PIXELS = 1_500_000
"""Samples drawn at once: bounds the memory of large or supersampled pictures."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A transparent picture of the faces."""

    values: F32
    """(H, W, C) attributes, premultiplied by `coverage`."""
    coverage: F32
    """(H, W) share of the pixel that faces cover, in [0, 1]."""

    def over(self, background: F32, opacity: float = 1.0) -> F32:
        """Return the layer laid over a background (H, W, C), at an opacity in [0, 1]."""
        return background * (1.0 - opacity * self.coverage[:, :, None]) + opacity * self.values


def draw_layer(
    dense: DenseFaces,
    attributes: F32,
    camera: Camera,
    *,
    supersample: int = 2,
    vertices: F32 | None = None,
    inside: tuple[float, float, float] | None = None,
) -> Layer:
    """Draw vertex attributes through a camera, `supersample`² samples a pixel.

    Parameters
    ----------
    dense : DenseFaces
    attributes : (F, N, C) float32
    camera : Camera
        Its size is the picture's.
    supersample : int
        Samples a pixel along x and along y.
    vertices : (F, N, 3) float32, optional
        mm, in the frame of `camera`; None takes those of `dense`.
    inside : (3,) float, optional
        Attributes of the inside of the faces, which are shells; None leaves it transparent.
    """
    width, height = camera.size
    channels = attributes.shape[2]
    values = np.zeros((height, width, channels), np.float32)
    coverage = np.zeros((height, width), np.float32)
    if not len(dense):
        return Layer(values, coverage)
    vertices = dense.vertices if vertices is None else vertices
    triangles = dense.face_model.triangles
    n_outside = len(triangles)
    if inside is not None:
        triangles = np.concatenate([triangles, triangles[:, ::-1]])
    focal = camera.focal * supersample
    cx, cy = (coordinate * supersample for coordinate in camera.principal_point)
    band = max(1, BAND_PIXELS // (width * supersample * supersample))
    for top in range(0, height, band):
        rows = min(band, height - top)
        window = Camera(focal, (cx, cy - top * supersample), (width * supersample, rows * supersample))
        buffers = rasterize(vertices, triangles, window, dense.threads)
        hit = buffers.triangle_id >= 0
        if not hit.any():
            continue
        samples = interpolate(buffers, triangles, attributes, dense.threads)
        if inside is not None:
            samples[buffers.triangle_id >= n_outside] = inside
        coverage[top : top + rows] = _box(hit.astype(np.float32)[:, :, None], supersample)[:, :, 0]
        values[top : top + rows] = _box(samples, supersample)
    return Layer(values, coverage)


def _box(samples: F32, factor: int) -> F32:
    """Return the mean over blocks of `factor`² samples, (H f, W f, C) -> (H, W, C)."""
    total = np.zeros((samples.shape[0] // factor, samples.shape[1] // factor, samples.shape[2]), np.float32)
    for row in range(factor):
        for column in range(factor):
            total += samples[row::factor, column::factor]
    total /= np.float32(factor * factor)
    return total
