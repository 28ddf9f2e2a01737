"""What the EXIF data of a photo say about its lens. Pillow is imported when a photo is read."""

import contextlib
import io
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

DIAGONAL_35MM = math.hypot(36.0, 24.0)
"""Diagonal of 35-mm film's frame, mm."""
SIDES_TOLERANCE = 0.01
"""Aspect ratios that differ by more are those of a cropped photo."""
_EXIF_IFD, _ORIENTATION = 0x8769, 0x0112
_FOCAL, _FOCAL_35MM = 0x920A, 0xA405
_PIXELS_X, _PIXELS_Y = 0xA002, 0xA003
_PLANE_X, _PLANE_UNIT = 0xA20E, 0xA210
_MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 1e-3}
"""FocalPlaneResolutionUnit: inch and centimetre (EXIF); millimetre and micrometre (some makers)."""


def focal_from_exif(
    image: "str | os.PathLike[str] | bytes | bytearray | memoryview | Image",
) -> tuple[float, tuple[int, int]]:
    """Return focal length, px, and size (width, height), px; see `Camera.from_exif`."""
    import PIL.Image

    if isinstance(image, PIL.Image.Image):
        return _focal(image, "the image"), image.size
    with _opened(image) as (opened, name):
        return _focal(opened, name), _upright_size(opened)


def upright_size(image: "str | os.PathLike[str] | bytes | bytearray | memoryview") -> tuple[int, int]:
    """Return the (width, height) of an image file after orientation, px, without decoding it; raises as above."""
    with _opened(image) as (opened, _):
        return _upright_size(opened)


def _upright_size(image: "Image") -> tuple[int, int]:
    turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    width, height = image.size
    return (height, width) if turned else (width, height)


@contextlib.contextmanager
def _opened(source: "str | os.PathLike[str] | bytes | bytearray | memoryview") -> Iterator[tuple["Image", str]]:
    """Open an image file, not decoded, with what to call it in messages."""
    import PIL.Image

    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"'image': no such file: {path}")
        name, content = str(path), path.read_bytes()
    elif isinstance(source, bytes | bytearray | memoryview):
        name, content = f"{len(source)} bytes", bytes(source)
    else:
        raise TypeError(
            f"'image' must be a path, the bytes of an image file or a PIL image, not {type(source).__name__}"
        )
    try:
        with PIL.Image.open(io.BytesIO(content)) as opened:
            yield opened, name
    except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(f"'image': {name} is not an image that Pillow reads, or broken") from error


def _focal(image: "Image", name: str) -> float:
    tags: dict[int, Any] = dict(image.getexif().get_ifd(_EXIF_IFD))
    width, height = image.size
    taken = (_number(tags.get(_PIXELS_X)), _number(tags.get(_PIXELS_Y)))
    reduced = 1.0
    if min(taken) > 0:
        aspect, stored = max(taken) / min(taken), max(image.size) / min(image.size)
        if abs(aspect / stored - 1.0) > SIDES_TOLERANCE:
            raise ValueError(
                f"'image': {name} was cropped after it was taken: {width} x {height} pixels, "
                f"{taken[0]:g} x {taken[1]:g} by its EXIF data; its optical axis is not known"
            )
        reduced = max(image.size) / max(taken)
    focal_35mm = _number(tags.get(_FOCAL_35MM))
    if focal_35mm > 0:
        return focal_35mm * math.hypot(width, height) / DIAGONAL_35MM
    focal, resolution = _number(tags.get(_FOCAL)), _number(tags.get(_PLANE_X))
    unit = _MM_PER_UNIT.get(int(_number(tags.get(_PLANE_UNIT, 2))))
    if focal > 0 and resolution > 0 and unit is not None and min(taken) > 0:
        return focal * resolution / unit * reduced
    raise ValueError(
        f"'image': the EXIF data of {name} have no 35-mm equivalent focal length (nor focal length and focal-plane "
        "resolution); Camera.from_fov takes what you know of the lens"
    )


def _number(value: Any) -> float:
    """Return an EXIF number; 0, which EXIF writes for unknown, where there is none."""
    try:
        number = float(Fraction(value)) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0
    return number if math.isfinite(number) else 0.0
