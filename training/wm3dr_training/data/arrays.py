"""Labels → the arrays a trainer maps into memory: crops, landmarks in crop pixels, splits."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
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
from .landmarks import MEDIAPIPE_68, N_LANDMARKS, N_MEDIAPIPE, visible478
from .quality import PROFILE_MARK
from .records import CorruptImageError, Record
from .skin import mask_from_parsing, read_parsing, skin_mask

BACKGROUND_SIZE = 384
FINE_SIZE, FINE_FROM = 2 * CROP_SIZE, 1.5 * CROP_SIZE
SKIN_SIZE = CROP_SIZE // 2


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

    Photos with more to show (crop at least 288 px wide) also get a crop of twice the resolution, `fine_SOURCE.npy`
    (m, 384, 384, 3), for composites with large faces; `fine_row` (n,) of the npz has their rows, −1 for the others.

    The npz holds, all in crop pixels unless said: `names`; `landmarks478` (n, 478, 2), NaN on the far half of a
    profile, with `has478` (n,); `landmarks68` (n, 68, 2), manual, NaN where a point is not annotated, with `has68`
    (n,), all 68 are; `affine` (n, 2, 3), photo → crop; `covered` (n, 4), the part that is photo; `split` (0 train,
    1 validation); `group`; `faces`, detections in the photo; `profile`, the name says so.

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
    use478 = labels["valid"]
    manual = np.array([record.landmarks68 is not None for record in records])
    chosen = np.flatnonzero((use478 | manual) & ~labels["other_face"])

    temporary = out / f"train_{source}.partial.npy"
    images = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(chosen), CROP_SIZE, CROP_SIZE, 3))
    fine_temporary = out / f"fine_{source}.partial.npy"
    fine = np.lib.format.open_memmap(fine_temporary, "w+", np.uint8, (len(chosen), FINE_SIZE, FINE_SIZE, 3))
    n_fine = 0
    rows: list[dict[str, NDArray]] = []
    corrupt = 0
    for index in progress(chosen):
        record = records[index]
        try:
            image = record.image()
        except CorruptImageError:
            corrupt += 1
            continue
        row, square = _row(record, image, labels["landmarks478"][index] if use478[index] else None)
        images[len(rows)] = crop_square(image, square)
        row["fine_row"] = np.int32(-1)
        if square[2] - square[0] >= FINE_FROM:
            fine[n_fine] = crop_square(image, square, FINE_SIZE)
            row["fine_row"], n_fine = np.int32(n_fine), n_fine + 1
        row |= {"faces": labels["faces"][index], "index": np.int32(index)}
        rows.append(row)
    if corrupt:
        images = _shortened(images, temporary, len(rows))
    fine = _shortened(fine, fine_temporary, n_fine)
    images.flush()
    fine.flush()
    del images, fine

    columns = {key: np.stack([row[key] for row in rows]) for key in rows[0]} if rows else {}
    if rows:
        index = columns.pop("index")
        hidden = ~visible478(labels["landmarks478"][index], load_correspondence().side)
        columns["landmarks478"][hidden] = np.nan
        columns["profile"] = np.array([PROFILE_MARK in name for name in columns["names"]])
    os.replace(temporary, out / f"train_{source}.npy")
    if n_fine:
        os.replace(fine_temporary, out / f"fine_{source}.npy")
    else:
        fine_temporary.unlink()
    save_npz(out / f"train_{source}.npz", **columns)
    return {"kept": len(rows), "unlabelled": len(records) - len(chosen), "corrupt": corrupt}


def _row(record: Record, image: NDArray[np.uint8], landmarks478: NDArray | None) -> tuple[dict, NDArray[np.float64]]:
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
    return row, square


def _shortened(images: np.memmap, path: Path, count: int) -> np.memmap:
    """The first `count` rows as a file of its own, in place of `path`."""
    shorter = path.with_suffix(".short.npy")
    out = np.lib.format.open_memmap(shorter, "w+", images.dtype, (count, *images.shape[1:]))
    out[:] = images[:count]
    os.replace(shorter, path)
    return out


def write_skin(
    source: str,
    out: Path,
    parsing: Path | None = None,
    progress: Callable[[Iterable], Iterable] = lambda x: x,
) -> dict[str, float]:
    """Write `skin_SOURCE.npy` (n, 96, 96) uint8, 0 or 255, aligned with `train_SOURCE.npy` (two crop pixels to one).

    Parameters
    ----------
    source : str
        A source whose arrays are in `out`.
    out : Path
        Folder of `train_SOURCE.npy` and `.npz`; the result goes there.
    parsing : Path, optional
        Folder with `SOURCE/NAME.png`, a face-parsing network's labels in the pixels of the photo; photos without such
        a file get the mask by landmarks and colour.

    Returns
    -------
    counts : dict
        `masks`, `empty` (no landmarks, or no skin found), `parsed`, and `coverage`, the mean share of the crop.
    """
    images = np.load(out / f"train_{source}.npy", mmap_mode="r")
    with np.load(out / f"train_{source}.npz") as table:
        names, landmarks, affine = table["names"], table["landmarks478"], table["affine"]
    temporary = out / f"skin_{source}.partial.npy"
    masks = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(images), SKIN_SIZE, SKIN_SIZE))
    scale = SKIN_SIZE / CROP_SIZE
    empty, parsed, covered = 0, 0, 0.0
    for index in progress(range(len(images))):
        file = None if parsing is None else parsing / source / f"{names[index]}.png"
        if file is not None and file.exists():
            skin = mask_from_parsing(read_parsing(file)).astype(np.uint8)
            to_mask = _centred(affine[index] * scale)
            mask = cv2.warpAffine(skin, to_mask, (SKIN_SIZE, SKIN_SIZE), flags=cv2.INTER_NEAREST)
            parsed += 1
        else:
            small = cv2.resize(images[index], (SKIN_SIZE, SKIN_SIZE), interpolation=cv2.INTER_AREA)
            mask = skin_mask(small, landmarks[index] * scale)
        masks[index] = np.where(mask, 255, 0)
        empty += not mask.any()
        covered += float(mask.mean())
    masks.flush()
    del masks
    os.replace(temporary, out / f"skin_{source}.npy")
    return {"masks": len(images), "empty": empty, "parsed": parsed, "coverage": covered / max(len(images), 1)}


def _centred(affine: NDArray) -> NDArray[np.float64]:
    """The same map for cv2, which counts pixel centres as integers."""
    half = np.array([0.5, 0.5])
    return np.column_stack([affine[:, :2], affine[:, :2] @ half + affine[:, 2] - half])


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
