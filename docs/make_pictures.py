"""Draw the README's pictures anew with the installed models: `python docs/make_pictures.py`."""

from pathlib import Path

import numpy as np
from PIL import Image

import wm3dr

DOCS = Path(__file__).parent
BACK_ROW = (0.11, 0.29, 0.57, 0.58)
"""Left, top, right, bottom of the picture of what goes wrong, in shares of the photo of 1927."""
WIDTHS = {"overlay": 1280, "attributes": 2000, "views": 1600}


def main() -> None:
    photo = DOCS / "photos" / "solvay_1927.jpg"
    result = wm3dr.reconstruct(photo)
    for kind, width in WIDTHS.items():
        picture = result.draw(photo, kind)
        picture.thumbnail((width, 4 * width))
        picture.save(DOCS / "pictures" / f"{photo.stem}_{kind}.jpg", quality=80, optimize=True)
    people = DOCS / "photos" / "london_four.jpg"
    rows = [beside(people, wm3dr.reconstruct(people), (0, 0, 1, 1)), beside(photo, result, BACK_ROW)]
    picture = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    for row, top in zip(rows, (0, rows[0].height), strict=True):
        picture.paste(row, (0, top))
    picture.save(DOCS / "pictures" / "likeness.jpg", quality=85, optimize=True)
    print(f"{len(result)} faces")


def beside(path: Path, result: wm3dr.Result, part: tuple[float, float, float, float]) -> Image.Image:
    """Part of a photo, and beside it the same with the render of its faces put in."""
    photo = np.asarray(Image.open(path).convert("RGB"))
    raster = result.render()
    both = (photo, np.where((raster.face_id >= 0)[..., None], raster.color, photo))
    height, width = photo.shape[:2]
    box = tuple(round(share * side) for share, side in zip(part, (width, height) * 2, strict=True))
    cut = [Image.fromarray(image).crop(box) for image in both]
    half = (700, round(700 * cut[0].height / cut[0].width))
    row = Image.new("RGB", (1400, half[1]))
    for image, left in zip(cut, (0, 700), strict=True):
        row.paste(image.resize(half, Image.Resampling.LANCZOS), (left, 0))
    return row


if __name__ == "__main__":
    main()
