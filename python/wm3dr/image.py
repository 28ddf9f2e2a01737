"""Photos: reading whatever the caller has, and the letterboxed input of the network.

Pillow is imported when a photo is read, not with wm3dr.
"""

import io
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

ImageSource: TypeAlias = "NDArray[np.uint8] | str | os.PathLike[str] | bytes | bytearray | memoryview | Image"
"""uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); path or bytes of an image file; PIL image."""
ColorOrder: TypeAlias = Literal["rgb", "bgr"]

MAX_PIXELS = 100_000_000
"""Photos with more pixels are refused: decoding and drawing them would take gigabytes."""
MULTIPLE = 32
"""Sides of the network's input are multiples of this."""
PADDING = 0
"""Value of the pixels right of and below the photo in the network's input."""
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error)
_ORIENTATION_TAG = 0x0112
# EXIF orientation -> (transpose first, then flip left-right, then flip top-bottom) that brings the photo upright.
_UPRIGHT = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


@dataclass(frozen=True, eq=False)
class NetworkInput:
    """A letterboxed photo (CONVENTIONS.md §3): scaled by `scale` <= 1, at the top-left, padded right and below."""

    pixels: NDArray[np.uint8]
    """(1, H, W, 3) RGB; H and W are multiples of 32."""
    scale: float
    """Network pixels per pixel of the caller's image."""
    size: tuple[int, int]
    """(width, height) of the caller's image, after EXIF orientation for files."""

    @property
    def covered(self) -> tuple[int, int]:
        """(width, height) of the photo in network pixels; the rest is padding."""
        return _covered(self.size, self.scale)


def _covered(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return how many whole network pixels (width, height) the photo covers, so that the scale is exact: at most one is
    lost at the right and lower edge.
    """
    return max(1, int(size[0] * scale + 1e-6)), max(1, int(size[1] * scale + 1e-6))


def network_input(source: ImageSource, max_side: int, color: ColorOrder = "rgb") -> NetworkInput:
    """Read a photo and letterbox it for the network; never stretched, never enlarged.

    JPEG files are decoded at the smallest eighth (DCT scaling) that is not below the network's resolution.

    Parameters
    ----------
    source : ImageSource
        See `read_rgb`.
    max_side : int
        The longer side of the photo at network scale, at most.
    color : "rgb" or "bgr"
        Channel order of an array.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        As `read_rgb`.
    """
    photo = _open(source, color)
    stored = photo.size
    transpose, flip_x, flip_y = _UPRIGHT[photo.orientation]
    size = stored[::-1] if transpose else stored
    scale = min(1.0, max_side / max(size))
    small = _covered(size, scale)
    # The box of the upright photo that they cover, in the stored pixels.
    covered = [min(float(side), pixels / scale) for side, pixels in zip(size, small, strict=True)]
    left = size[0] - covered[0] if flip_x else 0.0
    top = size[1] - covered[1] if flip_y else 0.0
    box = (left, top, left + covered[0], top + covered[1])
    if transpose:
        box = (box[1], box[0], box[3], box[2])
    stored_small = (small[1], small[0]) if transpose else small
    if isinstance(photo.content, np.ndarray) and scale == 1.0:
        pixels = np.atleast_3d(photo.content)
    else:
        try:
            pixels = _resized(photo, stored_small, scale, box)
        except _DECODE_ERRORS as error:
            raise ValueError(f"'image' cannot be decoded: {_name(source)}: {error}") from error
    pixels = _upright(pixels, photo.orientation)
    if photo.reverse:
        pixels = pixels[:, :, ::-1]
    width, height = (-(-side // MULTIPLE) * MULTIPLE for side in small)
    padded = np.empty((1, height, width, 3), np.uint8)
    padded[0, : small[1], : small[0]] = pixels
    padded[0, small[1] :] = padded[0, :, small[0] :] = PADDING
    return NetworkInput(padded, scale, size)


def _resized(
    photo: "_Opened", size: tuple[int, int], scale: float, box: tuple[float, float, float, float]
) -> NDArray[np.uint8]:
    """Return `box` of the stored photo at `size` (width, height): (H, W, 3) RGB."""
    image = photo.image
    if photo.from_file:
        image.draft(None, size)  # DCT scaling; only JPEG files know it
    decoded = [_decoded_scale(d, s) for d, s in zip(image.size, photo.size, strict=True)]
    image = _rgb(image)
    if image.size != size or scale < 1.0:
        from PIL.Image import Resampling

        box = (box[0] * decoded[0], box[1] * decoded[1], box[2] * decoded[0], box[3] * decoded[1])
        image = image.resize(size, Resampling.BILINEAR, box=box, reducing_gap=2.0)
    return np.asarray(image)


def coarse_input(photo: NetworkInput, side: int) -> NetworkInput:
    """Return the letterboxed photo reduced by the whole factor that brings its longer side nearest to `side`.

    Each pixel is the mean of a block, rounded; places keep the exact scale of the letterbox.
    """
    import PIL.Image

    _, height, width, _ = photo.pixels.shape
    factor = max(1, round(max(photo.size) * photo.scale / side))
    rows, columns = (-(-length // (factor * MULTIPLE)) * MULTIPLE for length in (height, width))
    padded = np.full((rows * factor, columns * factor, 3), PADDING, np.uint8)
    padded[:height, :width] = photo.pixels[0]
    reduced = np.asarray(PIL.Image.fromarray(padded).reduce(factor))
    return NetworkInput(reduced[None], photo.scale / factor, photo.size)


def read_rgb(source: ImageSource, color: ColorOrder = "rgb") -> NDArray[np.uint8]:
    """Read a photo at full size as uint8 (H, W, 3) RGB.

    Parameters
    ----------
    source : array, path, bytes or PIL image
        Arrays are uint8: grey (H, W) or (H, W, 1), colour (H, W, 3), or with alpha (H, W, 4), which is ignored. Files
        and bytes may be anything that Pillow reads; their EXIF orientation is honoured. A PIL image is taken as it is.
    color : "rgb" or "bgr"
        Channel order of an array with colours; files know their own.

    Returns
    -------
    image : (H, W, 3) uint8

    Raises
    ------
    TypeError
        `source` is none of these, or an array of another dtype.
    ValueError
        The shape does not fit, a side is zero, there are more than 100 million pixels, or the file is no image or
        truncated.
    FileNotFoundError
        There is no such file.
    """
    photo = _open(source, color)
    try:
        pixels = np.asarray(_rgb(photo.image))
    except _DECODE_ERRORS as error:
        raise ValueError(f"'image' cannot be decoded: {_name(source)}: {error}") from error
    pixels = _upright(pixels, photo.orientation)
    return np.ascontiguousarray(pixels[:, :, ::-1] if photo.reverse else pixels)


@dataclass(frozen=True, eq=False)
class _Opened:
    """A photo that is checked but, for files, not decoded yet."""

    content: "Image | NDArray[np.uint8]"
    """An array is (H, W) or (H, W, 3)."""
    orientation: int = 1
    """EXIF orientation of a file, 1-8."""
    reverse: bool = False
    """The channels are BGR."""
    from_file: bool = False
    size: tuple[int, int] = field(init=False)
    """(width, height) as stored."""

    def __post_init__(self) -> None:
        shape = self.content.shape[1::-1] if isinstance(self.content, np.ndarray) else self.content.size
        object.__setattr__(self, "size", (shape[0], shape[1]))

    @property
    def image(self) -> "Image":
        """As Pillow has it."""
        import PIL.Image

        return PIL.Image.fromarray(self.content) if isinstance(self.content, np.ndarray) else self.content


def _open(source: ImageSource, color: ColorOrder) -> _Opened:
    """Check what the caller passed; TypeError, ValueError or FileNotFoundError as `read_rgb` says."""
    import PIL.Image

    if color not in ("rgb", "bgr"):
        raise ValueError(f"'color' must be 'rgb' or 'bgr', not {color!r}")
    if isinstance(source, np.ndarray):
        array = _checked_array(source)
        return _Opened(array, reverse=color == "bgr" and array.ndim == 3)
    if color == "bgr":
        raise ValueError(f"color='bgr' is for arrays; {_name(source)} knows its own channel order")
    if isinstance(source, PIL.Image.Image):
        _check_size(*source.size)
        return _Opened(source)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if not path.exists():
            raise FileNotFoundError(f"'image': no such file: {path}")
        if path.is_dir():
            raise ValueError(f"'image': {path} is a folder, not an image file")
        stream = io.BytesIO(path.read_bytes())
    elif isinstance(source, bytes | bytearray | memoryview):
        stream = io.BytesIO(source)
    else:
        raise TypeError(
            f"'image' must be a uint8 array, a path, the bytes of an image file or a PIL image, "
            f"not {type(source).__name__}"
        )
    try:
        image = PIL.Image.open(stream)
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(f"'image': {_name(source)}: more than {MAX_PIXELS} pixels ({error})") from error
    except _DECODE_ERRORS as error:
        reason = "empty" if not stream.getbuffer().nbytes else "not an image that Pillow reads, or broken"
        raise ValueError(f"'image': {_name(source)}: {reason}") from error
    _check_size(*image.size)
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)  # PNG files are decoded for it
    except _DECODE_ERRORS as error:
        raise ValueError(f"'image' cannot be decoded: {_name(source)}: {error}") from error
    return _Opened(image, orientation if orientation in _UPRIGHT else 1, from_file=True)


def _checked_array(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the array as (H, W) or (H, W, 3); TypeError or ValueError for what is no photo."""
    if array.dtype != np.uint8:
        raise TypeError(f"'image' has dtype {array.dtype}, not uint8 (values 0-255)")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))):
        raise ValueError(f"'image' has shape {array.shape}, not (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    _check_size(array.shape[1], array.shape[0])
    if array.ndim == 3:
        array = array[:, :, 0] if array.shape[2] == 1 else array[:, :, :3]
    return array


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"'image' is {width} x {height} pixels; both sides must be at least 1")
    if width * height > MAX_PIXELS:
        raise ValueError(f"'image' is {width} x {height} pixels, more than {MAX_PIXELS}; make it smaller first")


def _decoded_scale(decoded: int, stored: int) -> float:
    """Return the scale of a DCT-scaled side: exactly 1, 1/2, 1/4 or 1/8 (the decoded side is rounded up)."""
    return next(1.0 / eighths for eighths in (1, 2, 4, 8) if -(-stored // eighths) == decoded)


def _rgb(image: "Image") -> "Image":
    """Return the image in mode RGB; 16-bit grey is scaled down, alpha ignored."""
    if image.mode.startswith("I"):
        import PIL.Image

        return PIL.Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)).convert(
            "RGB"
        )
    if image.mode == "P":
        image = image.convert("RGBA")  # palettes with transparency
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn stored pixels (H, W, 3) upright as their EXIF orientation says."""
    transpose, flip_x, flip_y = _UPRIGHT[orientation]
    if transpose:
        pixels = pixels.swapaxes(0, 1)
    return pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def _name(source: object) -> str:
    """Say what the caller passed, short enough for a message."""
    if isinstance(source, str | os.PathLike):
        return str(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{len(source)} bytes"
    return type(source).__name__
