"""Photos with a given number of faces: tiles of the Face Research Lab London Set (CC-BY 4.0) on a grid.

`london.zip` (WebP images NNN_03.webp) and `london.npz` (`names`, `template189`) are read from a folder; see
training/README.md for the format of such packs.
"""

import io
import math
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

ROOM = 1.25
"""Side of a tile over the larger side of the box around the points of its head."""


def london_photo(data: Path, faces: int, size: int = 512) -> NDArray[np.uint8]:
    """Return (size, size, 3) RGB with `faces` people, one per tile.

    Raises
    ------
    FileNotFoundError
        `data` has no london.zip or london.npz.
    """
    annotated = np.load(data / "london.npz")
    columns = math.ceil(math.sqrt(faces))
    tile = size // columns
    photo = PIL.Image.new("RGB", (size, size), (90, 90, 90))
    with zipfile.ZipFile(data / "london.zip") as pack:
        chosen = [k for k, points in enumerate(annotated["template189"]) if np.isfinite(points).all()]
        chosen = [k for k in chosen if np.ptp(annotated["template189"][k]) > 0]
        for place in range(faces):
            k = chosen[place % len(chosen)]
            image = PIL.Image.open(io.BytesIO(pack.read(f"{annotated['names'][k]}.webp"))).convert("RGB")
            points = annotated["template189"][k]
            middle, side = (points.min(0) + points.max(0)) / 2, ROOM * np.ptp(points, axis=0).max()
            low = [max(0.0, float(v)) for v in middle - side / 2]
            high = [min(float(n), float(v)) for n, v in zip(image.size, middle + side / 2, strict=True)]
            part = image.crop((round(low[0]), round(low[1]), round(high[0]), round(high[1])))
            part.thumbnail((tile, tile), PIL.Image.Resampling.LANCZOS)
            photo.paste(part, (place % columns * tile, place // columns * tile))
    return np.asarray(photo)
