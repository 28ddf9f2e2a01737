"""Meshes with texture coordinates, and the OBJ files that carry a texture."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .face_model import FaceModel
from .files import whole_file

if TYPE_CHECKING:
    from .result import Face
    from .texture import Texture

TEXTURED_SUFFIXES = (".glb", ".obj")


@dataclass(frozen=True, eq=False)
class Unwrapped:
    """The triangles of a face model with one texture coordinate per vertex: vertices on seams of the atlas repeat."""

    vertex: NDArray[np.intp]
    """(M,) number of the face model's vertex; the first of each stands in the model's order where no seam exists."""
    uv: NDArray[np.float32]
    """(M, 2) v up."""
    triangles: NDArray[np.int32]
    """(T, 3) numbers of these M vertices; the same triangles in the same order."""


@lru_cache(maxsize=4)
def unwrapped(face_model: FaceModel) -> Unwrapped:
    """Return the face model's surface with one texture coordinate per vertex."""
    corners, uv = face_model.triangles.reshape(-1), face_model.uv.reshape(-1, 2)
    keys = np.concatenate([corners[:, None].astype(np.float32), uv], axis=1)
    rows = np.ascontiguousarray(keys).view([("", np.float32)] * 3)[:, 0]
    _, first, number = np.unique(rows, return_index=True, return_inverse=True)  # sorted by vertex, then by uv
    triangles = number.reshape(-1, 3).astype(np.int32)
    return Unwrapped(corners[first].astype(np.intp), uv[first], triangles)


def check_textures(faces: Sequence["Face"], textures: Sequence["Texture"], path: Path) -> None:
    """Raise what `Result.save` says of textures."""
    from .texture import Texture

    if path.suffix.lower() not in TEXTURED_SUFFIXES:
        raise ValueError(f"a {path.suffix} file holds no textures, .glb and .obj do: {path}")
    if len(textures) != len(faces):
        raise ValueError(f"'textures' has {len(textures)} textures for {len(faces)} faces")
    for texture in textures:
        if not isinstance(texture, Texture):
            raise TypeError(
                f"'textures' must hold wm3dr textures (`face.texture(photo)`), not {type(texture).__name__}"
            )


def save_textured_obj(faces: Sequence["Face"], textures: Sequence["Texture"], path: Path) -> None:
    """Write PATH.obj (OpenGL frame, mm), PATH.mtl and PATH_face_0.png … beside it, the OBJ last."""
    if not faces:
        raise ValueError("no face to write as .obj")
    stem = path.stem
    header = "# wm3dr: OpenGL frame (x right, y up, z towards the camera), mm"
    lines, materials = [header, f"mtllib {stem}.mtl"], ["# wm3dr: the colours carry the light of the photo"]
    surface = unwrapped(faces[0].face_model)
    vertex_of_corner = surface.vertex[surface.triangles] + 1
    vertices = uvs = 0
    for face, texture in zip(faces, textures, strict=True):
        name, picture = f"face_{face.index}", f"{stem}_face_{face.index}.png"
        write_bytes(path.with_name(picture), png_from_array(texture.color))
        materials += [f"newmtl {name}", "Ka 0 0 0", "Kd 1 1 1", "Ks 0 0 0", "illum 1", f"map_Kd {picture}"]
        lines += [f"o {name}", f"usemtl {name}"]
        positions = face.mesh().vertices
        lines.extend("v %.4f %.4f %.4f" % tuple(row) for row in positions.tolist())  # noqa: UP031 (faster)
        lines.extend("vt %.6f %.6f" % tuple(row) for row in surface.uv.tolist())  # noqa: UP031
        corners = np.stack([vertex_of_corner + vertices, surface.triangles + 1 + uvs], axis=2).reshape(-1, 6)
        lines.extend("f %d/%d %d/%d %d/%d" % tuple(row) for row in corners.tolist())  # noqa: UP031
        vertices, uvs = vertices + len(positions), uvs + len(surface.uv)
    write_bytes(path.with_suffix(".mtl"), "\n".join(materials).encode() + b"\n")
    write_bytes(path, "\n".join(lines).encode() + b"\n")


def png_from_array(pixels: NDArray[np.uint8]) -> bytes:
    """Return the (H, W, 3) picture as a PNG file."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as file:
        file.write(content)
