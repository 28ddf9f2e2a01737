"""One record per photo, whatever data set it comes from."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = (".webp", ".jpg", ".jpeg", ".png", ".bmp")
SPLITS = ("train", "validation")


class MissingDataError(FileNotFoundError):
    """A data set is not where it was looked for; the message shows the expected layout."""


class CorruptImageError(ValueError):
    """A photo that cannot be decoded; whoever reads photos skips and counts these."""


@dataclass(frozen=True)
class Record:
    """One photo and what is known about it."""

    source: str
    """Name of the data set."""
    name: str
    """Name of the photo, unique in its source."""
    open: Callable[[], bytes | NDArray[np.uint8]]
    """Returns the encoded file, or an (H, W, 3) uint8 RGB array."""
    landmarks68: NDArray[np.float32] | None = None
    """(68, 2) pixels, (0, 0) = outer corner of the top-left pixel; NaN for points without annotation."""
    box: NDArray[np.float32] | None = None
    """(4,) (x0, y0, x1, y1) of the face, pixels."""
    split: str = "train"
    """`train` or `validation`."""
    group: str = ""
    """The person, where the source tells; photos of one person share it."""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split is {self.split!r}, wanted one of {SPLITS}")
        if self.landmarks68 is not None and np.shape(self.landmarks68) != (68, 2):
            raise ValueError(f"landmarks68 of {self.name} has shape {np.shape(self.landmarks68)}, wanted (68, 2)")

    def image(self) -> NDArray[np.uint8]:
        """The photo, (H, W, 3) uint8 RGB, after EXIF orientation.

        Raises
        ------
        CorruptImageError
            The file cannot be decoded.
        """
        data = self.open()
        return decode_image(data, f"{self.source}/{self.name}") if isinstance(data, bytes) else data


def decode_image(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode an image file to (H, W, 3) uint8 RGB, EXIF orientation applied.

    Raises
    ------
    CorruptImageError
        `data` is not a whole image; the message has `name`.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptImageError(f"{name} cannot be decoded: {error}") from error


def require(path: Path, source: str, layout: str) -> Path:
    """`path` when it exists.

    Raises
    ------
    MissingDataError
        Otherwise; the message names the source and its expected layout.
    """
    if not path.exists():
        raise MissingDataError(f"{source}: {path} does not exist. Expected layout:\n{layout}")
    return path
