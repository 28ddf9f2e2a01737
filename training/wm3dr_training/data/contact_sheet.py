"""Pictures to look at: crops with their landmarks and skin masks."""

from pathlib import Path

import numpy as np
from PIL import Image

from .crops import CROP_SIZE

COLUMNS, ROWS = 8, 4
DENSE_COLOR, MANUAL_COLOR = (0, 255, 0), (255, 0, 0)


def contact_sheet(out: Path, source: str, seed: int = 0) -> Image.Image:
    """Random crops of a source: landmarks (MediaPipe green, manual red) above the skin mask of the same photo.

    Parameters
    ----------
    out : Path
        Folder of `train_SOURCE.npy`, `train_SOURCE.npz` and `skin_SOURCE.npy`.
    source : str
    seed : int
        Chooses the photos.
    """
    images = np.load(out / f"train_{source}.npy", mmap_mode="r")
    skins = np.load(out / f"skin_{source}.npy", mmap_mode="r")
    with np.load(out / f"train_{source}.npz") as table:
        dense, manual = table["landmarks478"], table["landmarks68"]
    count = min(len(images), COLUMNS * ROWS)
    chosen = np.sort(np.random.default_rng(seed).choice(len(images), count, replace=False))
    sheet = np.zeros((2 * ROWS * CROP_SIZE, COLUMNS * CROP_SIZE, 3), np.uint8)
    for place, index in enumerate(chosen):
        y, x = 2 * CROP_SIZE * (place // COLUMNS), CROP_SIZE * (place % COLUMNS)
        marked = images[index].copy()
        for points, color in ((dense[index], DENSE_COLOR), (manual[index], MANUAL_COLOR)):
            pixels = np.floor(points[np.isfinite(points).all(axis=1)]).astype(int)
            pixels = pixels[((pixels >= 0) & (pixels < CROP_SIZE)).all(axis=1)]
            marked[pixels[:, 1], pixels[:, 0]] = color
        mask = skins[index].repeat(2, axis=0).repeat(2, axis=1)[..., None] > 0
        sheet[y : y + CROP_SIZE, x : x + CROP_SIZE] = marked
        sheet[y + CROP_SIZE : y + 2 * CROP_SIZE, x : x + CROP_SIZE] = np.where(mask, images[index], images[index] // 4)
    return Image.fromarray(sheet)
