"""Draw the README's pictures anew with the installed models: `python docs/make_pictures.py`."""

from pathlib import Path

import wm3dr

DOCS = Path(__file__).parent
WIDTHS = {"overlay": 1280, "attributes": 2000, "views": 1600}


def main() -> None:
    photo = DOCS / "photos" / "solvay_1927.jpg"
    result = wm3dr.reconstruct(photo)
    for kind, width in WIDTHS.items():
        picture = result.draw(photo, kind)
        picture.thumbnail((width, 4 * width))
        picture.save(DOCS / "pictures" / f"{photo.stem}_{kind}.jpg", quality=80, optimize=True)
    print(f"{len(result)} faces")


if __name__ == "__main__":
    main()
