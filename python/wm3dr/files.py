"""Files written whole or not at all, and where the released models lie."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MODELS_FOLDER = Path(__file__).parent / "models"
DEFAULT_ENCODER = MODELS_FOLDER / "wm3dr-lite.onnx"
DEFAULT_FACE_MODEL = MODELS_FOLDER / "wm3dr-face.safetensors"
CHECKSUMS = MODELS_FOLDER / "CHECKSUMS"
PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jp2", ".avif"}
"""Ends of the names of photos, as they are looked for in folders."""


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary neighbour of `path` for writing; rename it to `path` at the end, remove it on any error.

    An existing file is replaced. Readers see the old content or the new, never a part.

    Raises
    ------
    FileNotFoundError
        The folder does not exist.
    OSError
        The folder may not be written (PermissionError), `path` is a folder, or the disk is full.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        file = open(temporary, "xb")
    except OSError as error:
        raise type(error)(f"cannot write {path}: {error.strerror or error} ({path.parent})") from error
    try:
        with file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def require_file(path: str | os.PathLike[str], argument: str) -> Path:
    """Return `path` as a Path, or raise FileNotFoundError naming the argument and, for our own files, the repair."""
    path = Path(path)
    if path.is_file():
        return path
    if path.parent == MODELS_FOLDER:
        hint = "this installation does not carry it; reinstall wm3dr, or pass a file of your own (see `wm3dr doctor`)"
    else:
        hint = "it is a folder" if path.is_dir() else "no such file"
    raise FileNotFoundError(f"'{argument}': {path}: {hint}")
