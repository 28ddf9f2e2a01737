"""Labels → the arrays a trainer maps into memory: crops, landmarks in crop pixels, splits."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .correspondence import load_correspondence
from .crops import (
    CROP_SIZE,
    affine_from_square,
    apply_affine,
    center_crop,
    covered_box,
    crop_square,
    square_around,
)
from .landmarks import MEDIAPIPE_68, N_LANDMARKS, N_MEDIAPIPE, fiducial_numbers, visible478
from .quality import PROFILE_MARK
from .records import CorruptImageError, Record

BACKGROUND_SIZE = 384


def save_npz(path: Path, **arrays: NDArray) -> None:
    """`numpy.savez_compressed` that leaves either the whole file or the former one."""
    temporary = path.with_name(path.stem + ".partial.npz")
    np.savez_compressed(temporary, **arrays)
    os.replace(temporary, path)


def crop_points(landmarks478: NDArray | None, landmarks68: NDArray | None) -> NDArray[np.float64]:
    """The points a crop is placed by: manual landmarks when all 68 are there, else MediaPipe's, else what is there."""
    if landmarks68 is not None and np.isfinite(landmarks68).all():
        return np.asarray(landmarks68, np.float64)
    if landmarks478 is not None:
        return np.asarray(landmarks478[MEDIAPIPE_68, :2], np.float64)
    if landmarks68 is not None:
        return np.asarray(landmarks68, np.float64)
    raise ValueError("a photo without any landmarks has no crop")


def write_arrays(
    records: list[Record],
    labels: dict[str, NDArray],
    out: Path,
    progress: Callable[[Iterable], Iterable] = lambda x: x,
) -> dict[str, int]:
    """Write `train_SOURCE.npy` (n, 192, 192, 3) uint8 RGB and `train_SOURCE.npz` for the usable photos of a source.

    The npz holds, all in crop pixels unless said: `names`; `landmarks478` (n, 478, 2) with `has478` (n,) and
    `visible478` (n, 478), False for the far half of a profile; `landmarks68` (n, 68, 2), manual, NaN where a point is not annotated, with `has68` (n,), all 68 are; `affine` (n, 2, 3), photo →
    crop; `covered` (n, 4), the part that is photo; `split` (0 train, 1 validation); `group`; `faces`, detections in the
    photo. A source with fiducials also has `fiducials30` (n, 30, 2), `hasfid` (n, 30), `fiducial_numbers` (n, 30) and
    `profile`.

    Parameters
    ----------
    records : list of Record
        The source, in the order of `labels`.
    labels : dict
        What `label.label_records` returned for it.
    out : Path
        Folder of the results.

    Returns
    -------
    counts : dict
        `kept`, `unlabelled` and `corrupt` photos.
    """
    source = records[0].source
    names = [str(name) for name in labels["names"]]
    if names != [record.name for record in records]:
        raise ValueError(f"labels of {source} are for other photos than the source has; delete them and label again")
    fiducials = labels.get("fiducials30")
    use478 = labels["valid"]
    manual = np.array([record.landmarks68 is not None for record in records])
    chosen = np.flatnonzero((use478 | manual) & ~labels["other_face"])

    temporary = out / f"train_{source}.partial.npy"
    images = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(chosen), CROP_SIZE, CROP_SIZE, 3))
    rows: list[dict[str, NDArray]] = []
    corrupt = 0
    for index in progress(chosen):
        record = records[index]
        try:
            image = record.image()
        except CorruptImageError:
            corrupt += 1
            continue
        row, images[len(rows)] = _row(record, image, labels["landmarks478"][index] if use478[index] else None)
        row |= {"faces": labels["faces"][index], "index": np.int32(index)}
        rows.append(row)
    if corrupt:
        images = _shortened(images, temporary, len(rows))
    images.flush()
    del images

    columns = {key: np.stack([row[key] for row in rows]) for key in rows[0]} if rows else {}
    if rows:
        index = columns.pop("index")
        columns["visible478"] = visible478(labels["landmarks478"][index], load_correspondence().side)
    if fiducials is not None and rows:
        columns["fiducials30"] = apply_affine(columns["affine"], fiducials[index])
        columns["hasfid"] = np.isfinite(fiducials[index]).all(axis=-1)
        columns["fiducial_numbers"] = fiducial_numbers(fiducials[index]).astype(np.int32)
        columns["profile"] = np.array([PROFILE_MARK in str(name) for name in columns["names"]])
    os.replace(temporary, out / f"train_{source}.npy")
    save_npz(out / f"train_{source}.npz", **columns)
    return {"kept": len(rows), "unlabelled": len(records) - len(chosen), "corrupt": corrupt}


def _row(record: Record, image: NDArray[np.uint8], landmarks478: NDArray | None) -> tuple[dict, NDArray[np.uint8]]:
    square = square_around(crop_points(landmarks478, record.landmarks68))
    affine = affine_from_square(square)
    empty478 = np.full((N_MEDIAPIPE, 2), np.nan, np.float32)
    empty68 = np.full((N_LANDMARKS, 2), np.nan, np.float32)
    points68 = record.landmarks68
    row = {
        "names": np.array(record.name),
        "landmarks478": empty478 if landmarks478 is None else apply_affine(affine, landmarks478[:, :2]),
        "has478": np.array(landmarks478 is not None),
        "landmarks68": empty68 if points68 is None else apply_affine(affine, points68),
        "has68": np.array(points68 is not None and bool(np.isfinite(points68).all())),
        "affine": affine,
        "covered": covered_box(affine, image.shape[1], image.shape[0]),
        "split": np.uint8(record.split == "validation"),
        "group": np.array(record.group),
    }
    return row, crop_square(image, square)


def _shortened(images: np.memmap, path: Path, count: int) -> np.memmap:
    """The first `count` rows as a file of its own, in place of `path`."""
    shorter = path.with_suffix(".short.npy")
    out = np.lib.format.open_memmap(shorter, "w+", images.dtype, (count, *images.shape[1:]))
    out[:] = images[:count]
    os.replace(shorter, path)
    return out


def write_background(
    records: list[Record], out: Path, progress: Callable[[Iterable], Iterable] = lambda x: x
) -> dict[str, int]:
    """Write `background.npy` (n, 384, 384, 3) uint8 RGB, central squares, and `background.npz` with `names`, `split`.

    Every third photo of the sorted names is for validation only (`split` 1).
    """
    temporary = out / "background.partial.npy"
    shape = (len(records), BACKGROUND_SIZE, BACKGROUND_SIZE, 3)
    images = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
    kept: list[Record] = []
    for record in progress(records):
        try:
            images[len(kept)] = center_crop(record.image(), BACKGROUND_SIZE)
        except CorruptImageError:
            continue
        kept.append(record)
    if len(kept) < len(records):
        images = _shortened(images, temporary, len(kept))
    images.flush()
    del images
    os.replace(temporary, out / "background.npy")
    save_npz(
        out / "background.npz",
        names=np.array([record.name for record in kept]),
        split=np.array([record.split == "validation" for record in kept], np.uint8),
    )
    return {"kept": len(kept), "corrupt": len(records) - len(kept)}
