"""One HTML file to look at a result in 3D: photo, faces and everything about them, without network.

three.js comes from the installed trimesh, which carries it for its own viewer.
"""

import base64
import gzip
import html
import io
import json
import os
import re
import zipfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .coarse import coarse_model, expression_offsets, neutral_shapes
from .dense import OPENGL_FROM_CAMERA
from .files import whole_file

if TYPE_CHECKING:
    from .image import ColorOrder, ImageSource
    from .result import Face, Result

PAGE_FOLDER = Path(__file__).parent / "viewer_page"
SHAPE_STEP_MM = 0.01
"""Coordinates are stored as whole multiples of this."""
PHOTO_SIDE = 2048
"""Longer side of the photo in the page, at most; larger photos are scaled down."""
JPEG_QUALITY = 90
NOTEBOOK_HEIGHT = 560
NOTEBOOK_PICTURE_SIDE = 1024
GROUND = (43, 46, 51)
"""Ground of the picture that notebooks show."""
_THREE_END = "THREE.GLTFLoader=GLTFLoader;})();"


def html_from_result(
    result: "Result", image: "ImageSource | None" = None, *, color: "ColorOrder" = "rgb", title: str | None = None
) -> str:
    """Return the page of `Result.to_html`.

    Parameters
    ----------
    result : Result
    image : array, path, bytes or PIL image, optional
        The photo that was reconstructed; without it the faces stand on a plain ground.
    color : "rgb" or "bgr"
        Channel order of an array.
    title : str, optional
        Title of the page; None takes the file's name, where there is one.

    Raises
    ------
    ValueError
        The image has another size than the result.
    ImportError
        The installed trimesh does not carry the three.js that the page needs.
    """
    if title is None:
        title = Path(image).name if isinstance(image, str | os.PathLike) else "wm3dr"
    scene = _scene(result, None if image is None else _photo(result, image, color), title)
    # "<" never stands in a script that is data, so that no name can end it.
    data = json.dumps(scene, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = {
        "title": html.escape(title),
        "style": _part("viewer.css"),
        "three": three_script(),
        "scene": data,
        "script": _part("viewer.js"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], _part("viewer.html"))


def save_html(
    result: "Result",
    path: str | os.PathLike[str],
    image: "ImageSource | None" = None,
    *,
    color: "ColorOrder" = "rgb",
    title: str | None = None,
) -> None:
    """Write the page of `html_from_result` to a file, whole or not at all; an existing file is replaced."""
    content = html_from_result(result, image, color=color, title=title).encode()
    with whole_file(path) as file:
        file.write(content)


def notebook_html(result: "Result") -> str:
    """Return the page without photo in a frame, as notebooks show it."""
    page = html.escape(html_from_result(result), quote=True)
    return (
        f'<iframe srcdoc="{page}" style="width:100%;height:{NOTEBOOK_HEIGHT}px;border:0" '
        f'title="wm3dr: {len(result)} faces"></iframe>'
    )


def notebook_png(result: "Result") -> bytes:
    """Return the render of all faces on a neutral ground as PNG, longer side at most 1024 px."""
    from PIL import Image

    from .layers import draw_layer

    camera = result.camera.scaled(min(1.0, NOTEBOOK_PICTURE_SIDE / max(result.size)))
    ground = np.broadcast_to(np.array(GROUND, np.float32), (*camera.size[::-1], 3))
    pixels = draw_layer(result.dense, result.dense.colors * np.float32(255.0), camera).over(ground)
    stream = io.BytesIO()
    Image.fromarray(np.rint(np.clip(pixels, 0.0, 255.0)).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@cache
def three_script() -> str:
    """Return three.js (MIT) with its glTF loader, as the installed trimesh carries them: one script, global `THREE`.

    Raises
    ------
    ImportError
        The installed trimesh carries none, or another one than since 4.9.
    """
    import trimesh

    path = Path(trimesh.__file__).parent / "resources" / "templates" / "viewer.zip"
    try:
        with zipfile.ZipFile(path) as archive:
            page = archive.read("viewer.html.template").decode()
        start = page.index("<script>") + len("<script>")
        script = page[start : page.index(_THREE_END) + len(_THREE_END)]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ImportError(
            f"trimesh {trimesh.__version__} does not carry the three.js that the viewer needs ({path}): "
            "pip install --upgrade 'trimesh>=4.9'"
        ) from error
    if "SPDX-License-Identifier: MIT" not in script or "</script" in script:
        raise ImportError(f"trimesh {trimesh.__version__}: {path} holds something else than three.js under MIT")
    return script


def _part(name: str) -> str:
    return (PAGE_FOLDER / name).read_text(encoding="utf-8")


def _photo(result: "Result", image: "ImageSource", color: "ColorOrder") -> str:
    """Return the photo as the URL of a JPEG, at most PHOTO_SIDE px long."""
    from PIL import Image

    from .image import read_rgb

    pixels = read_rgb(image, color)
    size = (pixels.shape[1], pixels.shape[0])
    if size != result.size:
        raise ValueError(f"'image' is {size[0]} x {size[1]} pixels, but the result is of a photo of {result.size}")
    photo = Image.fromarray(pixels)
    photo.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=JPEG_QUALITY, optimize=True, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _scene(result: "Result", photo: str | None, title: str) -> dict[str, Any]:
    """Everything that the page shows; arrays lie in one compressed block."""
    from .draw import LANDMARK_COLOR, region_palette
    from .result import LANDMARK_GROUPS

    model = result.face_model
    coarse = coarse_model(model)
    n = coarse.n_vertices
    shapes = np.zeros((0, n, 3), np.float32)
    albedo = shapes
    if len(result):
        identity = np.stack([face.coefficients.identity for face in result])
        shapes = neutral_shapes(model, identity, result.dense.threads)[:, :n] - coarse.mean_shape
        albedo = result.dense.albedo[:, :n]
    offsets = expression_offsets(model, result.dense.threads)[:, :n]
    arrays: dict[str, NDArray[Any]] = {
        "mean_shape": coarse.mean_shape,
        "triangles": coarse.triangles,
        "landmark_ends": coarse.landmark_ends,
        "regions": coarse.regions,
        # Coordinate by coordinate: neighbours move alike, which compresses better.
        "expression_offsets": _steps(offsets).transpose(0, 2, 1),
        "shapes": _steps(shapes).transpose(0, 2, 1),
        "albedo": np.rint(np.clip(albedo, 0.0, 1.0) * 255.0).astype(np.uint8).transpose(0, 2, 1),
    }
    camera = result.camera
    return {
        "title": title,
        "size": list(result.size),
        "camera": {"focal": camera.focal, "principal_point": list(camera.principal_point)},
        "photo": photo,
        "step_mm": SHAPE_STEP_MM,
        "expression": {"names": list(model.expression_names), "kind": model.metadata.expression_kind},
        "regions": [{"name": name, "color": list(color)} for name, color in region_palette(model.region_names)],
        "landmark_groups": [[part.start, part.stop] for part in LANDMARK_GROUPS.values()],
        "landmark_color": list(LANDMARK_COLOR),
        "faces": [_face(face) for face in result],
        **_packed(arrays),
    }


def _face(face: "Face") -> dict[str, Any]:
    sparse = face.to_dict()
    signs = OPENGL_FROM_CAMERA.astype(np.float64)
    return {
        "score": sparse["score"],
        "pose": sparse["pose"],
        "box": sparse["box"],
        "scale": face.scale,
        "rotation": (face.rotation * signs[:, None]).ravel().tolist(),
        "translation": (face.translation * signs).tolist(),
        "illumination": face.coefficients.illumination.astype(np.float64).ravel().tolist(),
        "expression": sparse["coefficients"]["expression"],
    }


def _steps(lengths: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return lengths in mm as whole steps; 327 mm is the most, three times what a head reaches."""
    limits = np.iinfo(np.int16)
    return np.rint(np.clip(lengths / SHAPE_STEP_MM, limits.min, limits.max)).astype(np.int16)


def _packed(arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Return arrays as one gzip block in base64 and its table; bytes of equal weight stand together."""
    table, planes = [], []
    for name, array in arrays.items():
        kind = array.dtype.newbyteorder("<")
        flat = np.ascontiguousarray(array, kind).reshape(-1)
        table.append({"name": name, "type": flat.dtype.name, "length": len(flat)})
        planes.append(flat.view(np.uint8).reshape(-1, kind.itemsize).T.tobytes())
    # mtime: equal results make equal pages
    return {"arrays": table, "block": base64.b64encode(gzip.compress(b"".join(planes), 6, mtime=0)).decode()}
