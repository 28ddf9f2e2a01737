"""Readers for photo packs, folders and zips.

A *pack* is `NAME.zip` with images and, optionally, `NAME.npz` with `names` and annotations (`landmarks68`,
`fiducials30`) in pixels of the stored image. The licence-bound public sets are in `external.py`.
"""

import functools
import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .landmarks import landmarks68_from_fiducials
from .records import IMAGE_SUFFIXES, Record, require

MANUAL_PACKS = ("helen_train", "lfpw_train")
FACE_PACKS = (*MANUAL_PACKS, "scut", "london", "lfw", "cfp", "utkface")
BACKGROUND_PACK = "background"
VALIDATION_SHARE = 0.1
BACKGROUND_HELD_OUT = (3, 2)
"""Backgrounds whose sorted number modulo the first is the second are for validation."""

PACK_LAYOUT = """  DATA/NAME.zip   images (webp, jpg or png)
  DATA/NAME.npz   optional: names (n,), landmarks68 (n, 68, 2) or fiducials30 (n, 30, 2), pixels"""
FOLDER_LAYOUT = "  FOLDER/**/*.jpg|png|webp   photos, at least one"


def split_of(source: str, index: int, count: int) -> str:
    """Split of photo number `index` of the `count` sorted stems of a pack.

    The last tenth of helen_train and lfpw_train and every third background are never trained on.
    """
    if source in MANUAL_PACKS and index >= count - math.ceil(count * VALIDATION_SHARE):
        return "validation"
    modulus, held_out = BACKGROUND_HELD_OUT
    if source == BACKGROUND_PACK and index % modulus == held_out:
        return "validation"
    return "train"


def read_pack(data: Path, name: str) -> list[Record]:
    """Records of one pack, sorted by name.

    Parameters
    ----------
    data : Path
        Folder of the packs.
    name : str
        Pack without suffix.

    Raises
    ------
    MissingDataError
        `data/name.zip` is missing.
    ValueError
        It holds no image, or the annotation file does not fit: wrong shape, or names without a photo.
    """
    archive = require(Path(data) / f"{name}.zip", name, PACK_LAYOUT)
    images = _images_in_zip(archive)
    annotations = _read_annotations(archive.with_suffix(".npz"), images)
    stems = sorted(images)
    return [
        Record(
            source=name,
            name=stem,
            open=_zip_opener(archive, images[stem]),
            landmarks68=annotations.get(stem),
            split=split_of(name, index, len(stems)),
            group=stem.split("_")[0] if name in ("cfp", "london") else "",
        )
        for index, stem in enumerate(stems)
    ]


def read_photos(path: Path, name: str | None = None) -> list[Record]:
    """Records of a folder (searched recursively) or a zip of photos without annotation, sorted by name.

    Raises
    ------
    MissingDataError
        The path does not exist.
    ValueError
        There is no image in it.
    """
    path = require(Path(path), name or Path(path).stem, FOLDER_LAYOUT)
    source = name or path.stem
    if path.is_file():
        images = _images_in_zip(path)
        return [Record(source, stem, _zip_opener(path, images[stem])) for stem in sorted(images)]
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ValueError(f"{path} holds no image. Expected layout:\n{FOLDER_LAYOUT}")
    return [Record(source, str(file.relative_to(path).with_suffix("")), file.read_bytes) for file in files]


def _images_in_zip(archive: Path) -> dict[str, str]:
    """Stem → member of every image in a zip."""
    try:
        with zipfile.ZipFile(archive) as file:
            members = [m for m in file.namelist() if Path(m).suffix.lower() in IMAGE_SUFFIXES]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is not a zip file: {error}") from error
    if not members:
        raise ValueError(f"{archive} holds no image. Expected layout:\n{PACK_LAYOUT}")
    stems = {Path(member).stem: member for member in members}
    if len(stems) != len(members):
        stems = {str(Path(member).with_suffix("")): member for member in members}
    return stems


def _zip_opener(archive: Path, member: str) -> Callable[[], bytes]:
    return lambda: _open_zip(archive, os.getpid()).read(member)


@functools.lru_cache(maxsize=32)
def _open_zip(archive: Path, process: int) -> zipfile.ZipFile:
    """An open zip; one per process, because forked workers would share the file position of an inherited one."""
    return zipfile.ZipFile(archive)


def _read_annotations(path: Path, images: dict[str, str]) -> dict[str, np.ndarray]:
    """Stem → (68, 2) landmarks, NaN where a point has no annotation."""
    if not path.exists():
        return {}
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    if "names" not in arrays:
        raise ValueError(f"{path} has no array 'names'; it has {sorted(arrays)}")
    names = arrays["names"]
    if "landmarks68" in arrays:
        points = arrays["landmarks68"]
    elif "fiducials30" in arrays:
        points = landmarks68_from_fiducials(arrays["fiducials30"])
    else:
        return {}
    if points.shape != (len(names), 68, 2):
        raise ValueError(f"landmarks of {path} have shape {points.shape}, wanted ({len(names)}, 68, 2)")
    unknown = [str(name) for name in names if str(name) not in images]
    if unknown:
        raise ValueError(f"{path} annotates {len(unknown)} photos that are not in the zip, first {unknown[0]!r}")
    return {str(name): np.asarray(p, np.float32) for name, p in zip(names, points, strict=True)}
