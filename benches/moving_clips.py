"""Clips of known motion: a camera that pans, zooms and shakes over a still photo, with sensor noise, through H.264.

Faces move rigidly, so that every output can be carried back to the photo, where it should stand still.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import PIL.Image
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames with their motion: a point p of the photo lies at `zoom` · p + `shift` in the frame, px."""

    frames: list[NDArray[np.uint8]]
    """(H, W, 3) RGB each."""
    times: F64
    """(n,) seconds."""
    zoom: F64
    """(n,)"""
    shift: F64
    """(n, 2) px of the frame."""


def motion(
    times: F64, photo: tuple[int, int], size: tuple[int, int], seed: int, *, hand_held: bool = True
) -> tuple[F64, F64]:
    """Return zoom (n,) and shift (n, 2) of a camera over a photo; the window stays inside the photo.

    Pan and zoom at 0.1 to 0.4 Hz, with a shake of 1 to 3 Hz where the camera is hand-held; else a tenth of the pan
    alone, as of a tripod's slow turn.
    """
    rng = np.random.default_rng(seed)

    def wave(low: float, high: float, parts: int = 3) -> F64:
        rates, phases = rng.uniform(low, high, parts), rng.uniform(0, 2 * np.pi, parts)
        value = np.sin(2 * np.pi * rates * times[:, None] + phases).sum(1)
        return value / np.abs(value).max()

    least = max(size[0] / photo[0], size[1] / photo[1])
    change = wave(0.1, 0.3)
    zoom = least * np.exp(0.18 * (1.0 + (change if hand_held else 0.0 * change)))
    window = np.array(size) / zoom[:, None]
    room = np.array(photo) - window  # (n, 2) px of the photo
    place = np.stack([wave(0.1, 0.4) for _ in range(2)], 1)
    shake = np.stack([wave(1.0, 3.0) for _ in range(2)], 1)
    place = 0.5 + (0.42 * place + 0.06 * shake if hand_held else 0.042 * place)
    corner = np.clip(place, 0.0, 1.0) * room
    return zoom, -corner * zoom[:, None]


def moving_clip(
    photo: PIL.Image.Image,
    size: tuple[int, int],
    *,
    seconds: float,
    fps: int,
    seed: int,
    noise: float,
    crf: int,
    hand_held: bool = True,
) -> Clip:
    """Return a clip over a photo: `noise` is the sensor's (standard deviation, grey levels), `crf` that of x264."""
    times = np.arange(round(seconds * fps)) / fps
    zoom, shift = motion(times, photo.size, size, seed, hand_held=hand_held)
    rng = np.random.default_rng(seed + 1)

    def frames() -> Iterator[NDArray[np.uint8]]:
        for z, (x, y) in zip(zoom, shift, strict=True):
            inverse = (1 / z, 0.0, -x / z, 0.0, 1 / z, -y / z)
            view = photo.transform(size, PIL.Image.Transform.AFFINE, inverse, PIL.Image.Resampling.BICUBIC)
            pixels = np.asarray(view, np.float32) + rng.normal(0, noise, (size[1], size[0], 3)).astype(np.float32)
            yield np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)

    return Clip(through_h264(frames(), size, fps, crf), times, zoom, shift)


def through_h264(
    frames: Iterator[NDArray[np.uint8]], size: tuple[int, int], fps: int, crf: int
) -> list[NDArray[np.uint8]]:
    """Encode frames with x264 and decode them again."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
