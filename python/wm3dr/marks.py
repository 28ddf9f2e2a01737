"""Lines, dots, labels, legends and frames of the drawn pictures."""

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

from PIL import Image, ImageDraw, ImageFont

Color: TypeAlias = tuple[int, int, int]

PAPER: Color = (250, 250, 248)
INK: Color = (34, 38, 46)
MARGIN, TITLE_HEIGHT, TITLE_SIZE, LEGEND_SIZE = 24, 44, 24.0, 17.0
"""Of framed panels, px."""


@functools.lru_cache(maxsize=64)
def font(size: float) -> Any:
    """Return Pillow's own font at a size in px; the last ones are kept, for videos."""
    return ImageFont.load_default(max(6.0, size))


class Marks:
    """A transparent layer for lines and dots, drawn enlarged (`scale`) and reduced again, in pixels of the picture."""

    def __init__(self, size: tuple[int, int], scale: int | None = None) -> None:
        self._scale = scale or (4 if size[0] * size[1] < 1_000_000 else 2)
        self._size = size
        self._layer = Image.new("RGBA", (size[0] * self._scale, size[1] * self._scale))
        self._draw = ImageDraw.Draw(self._layer)

    def line(self, points: Any, color: Color, width: float, *, alpha: int = 255, closed: bool = False) -> None:
        """Draw a polyline through (n, 2) points with round joints."""
        path = [(float(x) * self._scale, float(y) * self._scale) for x, y in points]
        if closed:
            path.append(path[0])
        thick = max(1, round(width * self._scale))
        self._draw.line(path, fill=(*color, alpha), width=thick, joint="curve")

    def dot(self, point: Any, color: Color, radius: float, *, rim: float = 0.0, alpha: int = 255) -> None:
        """Draw a disc with a dark rim."""
        x, y = float(point[0]) * self._scale, float(point[1]) * self._scale
        for r, c in (((radius + rim) * self._scale, INK), (radius * self._scale, color)):
            if r > 0:
                self._draw.ellipse((x - r, y - r, x + r, y + r), fill=(*c, alpha))

    def box(self, corners: Any, color: Color, width: float) -> None:
        """Draw a rounded rectangle over a dark one of the same place, to be seen on any ground."""
        x0, y0, x1, y1 = (float(value) * self._scale for value in corners)
        radius = 0.06 * min(x1 - x0, y1 - y0)
        for thick, c, alpha in ((width + 1.2, INK, 130), (width, color, 255)):
            self._draw.rounded_rectangle(
                (x0, y0, x1, y1), radius, outline=(*c, alpha), width=max(1, round(thick * self._scale))
            )

    def label(self, corner: Any, text: str, color: Color, size: float) -> None:
        """Write dark text on a coloured tag whose lower left corner is given."""
        typeface = font(size * self._scale)
        left, top, right, bottom = typeface.getbbox(text)
        pad = 0.28 * size * self._scale
        x, y = float(corner[0]) * self._scale, float(corner[1]) * self._scale
        y = max(y, bottom - top + 2 * pad)
        box = (x, y - (bottom - top) - 2 * pad, x + right - left + 2 * pad, y)
        self._draw.rounded_rectangle(box, pad, fill=(*color, 255))
        self._draw.text((x + pad - left, box[1] + pad - top), text, font=typeface, fill=(*INK, 255))

    def on(self, photo: Image.Image) -> Image.Image:
        """Return the photo with the marks on it."""
        layer = self._layer.resize(self._size, Image.Resampling.BOX)
        return Image.alpha_composite(photo.convert("RGBA"), layer).convert("RGB")


def framed(panels: Sequence[tuple[Image.Image, str, list[tuple[str, Color]]]], *, stacked: bool) -> Image.Image:
    """Put panels side by side, or one above the other, with titles and legends on paper."""
    margin, title = MARGIN, TITLE_HEIGHT
    width, height = panels[0][0].size
    legends = [_legend(entries, width) for _, _, entries in panels]
    extra = [0 if legend is None else legend.height + 12 for legend in legends]
    if stacked:
        sheet = Image.new("RGB", (width + 2 * margin, sum(title + height + e for e in extra) + 2 * margin), PAPER)
    else:
        total = (len(panels) * width + (len(panels) + 1) * margin, title + height + max(extra) + 2 * margin)
        sheet = Image.new("RGB", total, PAPER)
    pen = ImageDraw.Draw(sheet)
    x, y = margin, margin
    for (picture, text, _), legend, more in zip(panels, legends, extra, strict=True):
        pen.text((x, y + 4), text, font=font(TITLE_SIZE), fill=INK)
        sheet.paste(picture, (x, y + title))
        if legend is not None:
            sheet.paste(legend, (x, y + title + height + 12))
        if stacked:
            y += title + height + more
        else:
            x += width + margin
    return sheet


def _legend(entries: Sequence[tuple[str, Color]], width: int) -> Image.Image | None:
    """Return swatches with names, flowing into rows of the panel's width."""
    if not entries:
        return None
    typeface, step, swatch = font(LEGEND_SIZE), 28, 16
    places, x, y = [], 0, 0
    for name, color in entries:
        length = swatch + 8 + round(typeface.getlength(name)) + 18
        if x and x + length > width:
            x, y = 0, y + step
        places.append((x, y, name, color))
        x += length
    legend = Image.new("RGB", (width, y + step), PAPER)
    pen = ImageDraw.Draw(legend)
    for x, y, name, color in places:
        pen.rounded_rectangle((x, y + 4, x + swatch, y + 4 + swatch), 4, fill=color)
        pen.text((x + swatch + 8, y + 2), name, font=typeface, fill=INK)
    return legend
