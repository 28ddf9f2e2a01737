"""Maps as PNG and TIFF files that any software opens, and back (docs/maps.md)."""

import colorsys
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .dense import OPENGL_FROM_CAMERA
from .files import require_file, whole_file
from .maps import ncc_bounds

if TYPE_CHECKING:
    from PIL.Image import Image

    from .maps import Raster
    from .result import Result

FORMAT, VERSION = "wm3dr-map", 1
PNG_KEY = "wm3dr"
"""Keyword of the PNG text chunk that holds what the file says about itself, as JSON."""
TIFF_DESCRIPTION = 270
"""The same of the TIFF file: ImageDescription."""
FILES = {
    "face_id": "face_id.png",
    "region": "region.png",
    "depth": "depth.tiff",
    "normals": "normals.png",
    "pncc": "pncc.png",
    "visibility": "visibility.png",
}
"""What `save_maps` writes, by map."""
PALETTE_SIZE = 256


class MapFile(NamedTuple):
    """A map read back."""

    array: NDArray[Any]
    """As the property of `Raster` of this name; "visibility": (F, N) bool, `face.visible` of every face."""
    info: dict[str, Any]
    """What the file says about itself: map, camera, metric, face_model and what docs/maps.md lists for the map."""


def save_maps(result: "Result", folder: str | os.PathLike[str]) -> None:
    """Write the maps of a result into a folder; see `Result.save_maps`."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"cannot write maps to {folder}: it is a file")
    folder.mkdir(parents=True, exist_ok=True)
    raster = result.render()
    for name, file in FILES.items():
        if name == "visibility" and not len(result):
            (folder / file).unlink(missing_ok=True)  # of an earlier result; a picture has at least one row
            continue
        content = _encoded(result, raster, name)
        with whole_file(folder / file) as stream:
            stream.write(content)


def read_map(path: str | os.PathLike[str]) -> MapFile:
    """Read a file of `Result.save_maps` back.

    Normals are exact to 0.4°, PNCC to 1/510; the others exactly what was saved.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no map of wm3dr, or broken.
    """
    import PIL.Image

    path = require_file(path, "path")
    try:
        with PIL.Image.open(path) as image:
            image.load()
            text = image.getexif().get(TIFF_DESCRIPTION) if image.format == "TIFF" else image.info.get(PNG_KEY)
            info = json.loads(text) if text else {}
            stored = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"'path': {path} cannot be read as a map: {error}") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT or info.get("map") not in FILES:
        raise ValueError(f"'path': {path} is no map of wm3dr")
    if info.get("version") != VERSION:
        raise ValueError(f"'path': {path} has version {info.get('version')!r} of {FORMAT}, not {VERSION}")
    return MapFile(_DECODERS[info["map"]](stored), info)


def _encoded(result: "Result", raster: "Raster", name: str) -> bytes:
    """Return the content of the file of one map."""
    import PIL.Image
    from PIL.PngImagePlugin import PngInfo

    face_model = result.face_model
    info: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "map": name,
        "camera": result.camera.to_dict(),
        "metric": result.metric,
        "face_model": {"name": face_model.name, "sha256": face_model.sha256},
    }
    if name == "face_id":
        info["faces"] = len(result)
        image = _numbered(raster.face_id, len(result), _face_palette)
    elif name == "region":
        info["names"] = list(face_model.region_names)
        image = _numbered(raster.region, len(face_model.region_names), lambda: _region_palette(face_model.region_names))
    elif name == "depth":
        info["unit"] = "mm"
        image = PIL.Image.fromarray(raster.depth)
    elif name == "normals":
        info["frame"] = "opengl"
        image = PIL.Image.fromarray(_bytes_from_normals(raster.normals, raster.face_id >= 0))
    elif name == "pncc":
        low, high = ncc_bounds(face_model)
        info |= {"low_mm": low.astype(float).tolist(), "high_mm": high.astype(float).tolist()}
        image = PIL.Image.fromarray(_bytes_from_pncc(raster.pncc, raster.face_id >= 0))
    else:
        info["landmark_vertices"] = face_model.landmark_vertices.tolist()
        image = PIL.Image.fromarray(result.dense.visible)
    stream, text = io.BytesIO(), json.dumps(info)
    if name == "depth":
        image.save(stream, format="TIFF", compression="tiff_adobe_deflate", tiffinfo={TIFF_DESCRIPTION: text})
    else:
        png = PngInfo()
        png.add_text(PNG_KEY, text)
        image.save(stream, format="PNG", pnginfo=png, compress_level=4)
    return stream.getvalue()


def _numbered(numbers: NDArray[Any], count: int, palette: Callable[[], list[int]]) -> "Image":
    """Return an image of the numbers from -1 plus 1: 8 bits with a palette, or 16 bits grey where they do not fit."""
    import PIL.Image

    if count >= PALETTE_SIZE:
        return PIL.Image.fromarray((numbers + 1).astype(np.uint16))
    image = PIL.Image.fromarray((numbers + 1).astype(np.uint8))
    image.putpalette([0, 0, 0, *palette()])
    return image


def _face_palette() -> list[int]:
    """Return colours of face 0, 1, ...: hues a golden section apart, so that neighbours in number differ."""
    hues = [(0.02 + k * 0.618034) % 1.0 for k in range(PALETTE_SIZE - 1)]
    shades = [(0.55 + 0.35 * (k % 2), 1.0 - 0.22 * (k % 3)) for k in range(PALETTE_SIZE - 1)]
    return [
        round(255 * channel)
        for hue, (saturation, value) in zip(hues, shades, strict=True)
        for channel in colorsys.hsv_to_rgb(hue, saturation, value)
    ]


def _region_palette(names: tuple[str, ...]) -> list[int]:
    from .draw import region_palette

    return [channel for _, color in region_palette(names) for channel in color]


def _bytes_from_normals(normals: NDArray[np.float32], hit: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Encode camera-frame normals as the usual normal map: round(127.5 (n + 1)), OpenGL frame; 0 where nothing is."""
    stored = np.rint(127.5 * (normals * OPENGL_FROM_CAMERA + 1.0)).astype(np.uint8)
    stored[~hit] = 0
    return stored


def _normals_from_bytes(stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    normals = (stored.astype(np.float32) / np.float32(127.5) - 1.0) * OPENGL_FROM_CAMERA
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    normals[~stored.any(axis=2)] = 0.0
    return normals


def _bytes_from_pncc(pncc: NDArray[np.float32], hit: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Encode as round(255 c); black is kept for nothing, so that a code that rounds to it becomes (0, 0, 1)."""
    stored = np.rint(255.0 * pncc).astype(np.uint8)
    stored[hit & ~stored.any(axis=2), 2] = 1
    return stored


_DECODERS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "face_id": lambda stored: stored.astype(np.int32) - 1,
    "region": lambda stored: stored.astype(np.int16) - np.int16(1),
    "depth": lambda stored: stored.astype(np.float32),
    "normals": _normals_from_bytes,
    "pncc": lambda stored: stored.astype(np.float32) / np.float32(255.0),
    "visibility": lambda stored: stored.astype(bool),
}
