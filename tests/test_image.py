"""Letterbox, EXIF orientation and DCT-scaled decoding against Pillow's full-size path."""

import io

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wm3dr.image import PADDING, network_input, read_rgb


def smooth_photo(width, height):
    """A smooth colour photo whose red grows to the right and green downwards: places can be read from colours."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * (x + 0.5) / width, 255 * (y + 0.5) / height
    return np.stack([red, green, np.full_like(red, 90)], -1).round().astype(np.uint8)


def jpeg(photo, orientation=1):
    stream = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(photo).save(stream, "JPEG", quality=98, subsampling=0, exif=exif)
    return stream.getvalue()


@given(width=st.integers(1, 500), height=st.integers(1, 500), max_side=st.integers(32, 400))
@settings(max_examples=60, deadline=None)
def test_letterbox_keeps_scale_and_places(width, height, max_side):
    photo = smooth_photo(width, height)
    found = network_input(photo, max_side)
    assert found.size == (width, height)
    assert found.scale == min(1.0, max_side / max(width, height))
    _, rows, columns, channels = found.pixels.shape
    assert (channels, rows % 32, columns % 32) == (3, 0, 0)
    inner = [max(1, int(side * found.scale + 1e-6)) for side in (width, height)]
    assert columns - 32 < inner[0] <= columns and rows - 32 < inner[1] <= rows
    assert (found.pixels[0, inner[1] :] == PADDING).all() and (found.pixels[0, :, inner[0] :] == PADDING).all()
    if found.scale == 1.0:
        np.testing.assert_array_equal(found.pixels[0, :height, :width], photo)
    if min(inner) >= 8:
        # A network pixel (i, j) shows the place ((j + ½)/s, (i + ½)/s) of the photo, away from the clamped edges.
        red = found.pixels[0, : inner[1], : inner[0], 0]
        place = 255 * (np.arange(inner[0]) + 0.5) / found.scale / width
        edge = slice(2, -2)
        assert np.abs(red[:, edge] - place[None, edge]).max() <= 1.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(301, 203), (1203, 803)])
def test_exif_orientation_as_pillow_applies_it(orientation, size):
    photo = smooth_photo(*size)
    data = jpeg(photo, orientation)
    upright = np.asarray(PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(read_rgb(data), upright)
    found, expected = network_input(data, 200), network_input(upright, 200)
    assert (found.size, found.scale) == (expected.size, expected.scale)
    # 1203 px are decoded at a quarter; the partial pixels at its edges are the only ones that may differ more.
    difference = np.abs(found.pixels.astype(int) - expected.pixels)
    assert difference.max() <= 6 and difference.mean() <= 0.5


def test_large_jpegs_are_decoded_reduced(monkeypatch):
    calls = []
    draft = PIL.Image.Image.draft
    monkeypatch.setattr(
        "PIL.JpegImagePlugin.JpegImageFile.draft",
        lambda self, mode, size: calls.append(size) or draft(self, mode, size),
    )
    network_input(jpeg(smooth_photo(1600, 1200)), 400)
    assert calls == [(400, 300)]


@pytest.mark.parametrize(
    ("mode", "expected"), [("L", 100), ("LA", 100), ("RGBA", 100), ("P", 100), ("1", 255), ("I;16", 100), ("CMYK", 100)]
)
def test_modes_of_files(mode, expected):
    if mode == "I;16":
        image = PIL.Image.fromarray(np.full((20, 30), 100 * 257, np.uint16))
    else:
        image = PIL.Image.new("RGB", (30, 20), (expected,) * 3).convert(mode, palette=PIL.Image.Palette.ADAPTIVE)
    stream = io.BytesIO()
    image.save(stream, "TIFF" if mode == "CMYK" else "PNG")
    pixels = read_rgb(stream.getvalue())
    assert pixels.shape == (20, 30, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_a_pil_image_is_left_as_it_was():
    image = PIL.Image.open(io.BytesIO(jpeg(smooth_photo(800, 600), orientation=6)))
    found = network_input(image, 100)
    assert found.size == (800, 600) and image.size == (800, 600)  # as it is: no EXIF, no reduced decoding
