"""Files to take away: JSON, GLB (a scene with its camera), OBJ and PLY."""

import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .camera import Camera
from .dense import OPENGL_FROM_CAMERA
from .files import whole_file
from .result import Face, Result
from .unwrap import check_textures, png_from_array, save_textured_obj, unwrapped

if TYPE_CHECKING:
    from .texture import Texture

METRES_PER_MM = 1e-3
NEAR_M, FAR_M = 0.01, 100.0
MESH_SUFFIXES = (".glb", ".obj", ".ply")
_FLOAT, _UINT16, _UINT32 = 5126, 5123, 5125
_COMPONENTS: dict[int, Any] = {_FLOAT: np.float32, _UINT16: np.uint16, _UINT32: np.uint32}
_VERTEX_BUFFER, _INDEX_BUFFER = 34962, 34963


def save_result(result: Result, path: str | os.PathLike[str], textures: "Sequence[Texture] | None" = None) -> None:
    """Write a result as its suffix says; see `Result.save`."""
    path = Path(path)
    if path.suffix.lower() == ".json":
        if textures is not None:
            raise ValueError(f"a .json file holds no textures, .glb and .obj do: {path}")
        content = json.dumps(result.to_dict(), indent=1, allow_nan=False).encode()
        with whole_file(path) as file:
            file.write(content)
    else:
        save_faces(result.faces, result.camera, path, textures)


def save_faces(
    faces: Sequence[Face],
    camera: Camera,
    path: str | os.PathLike[str],
    textures: "Sequence[Texture] | None" = None,
) -> None:
    """Write faces as .glb, .obj or .ply, those of textures as .glb or .obj; see `Result.save`."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in MESH_SUFFIXES:
        raise ValueError(f"'path' ends in {path.suffix!r}, not .json, .glb, .obj or .ply: {path}")
    if textures is not None:
        check_textures(faces, textures, path)
    if suffix == ".glb":
        content = glb_from_faces(faces, camera, textures)
    elif textures is not None:
        save_textured_obj(faces, textures, path)
        return
    else:
        content = _mesh_bytes(faces, suffix)
    with whole_file(path) as file:
        file.write(content)


def _mesh_bytes(faces: Sequence[Face], suffix: str) -> bytes:
    """All faces as one OBJ or PLY file, OpenGL frame, mm, sRGB vertex colours."""
    if not faces:
        raise ValueError(f"no face to write as {suffix}")
    if suffix == ".obj":
        return _obj(faces)
    import trimesh

    mesh = trimesh.util.concatenate([face.to_trimesh() for face in faces])
    content: bytes = mesh.export(file_type="ply", vertex_normal=True)
    return content


def _obj(faces: Sequence[Face]) -> bytes:
    """An object per face; `v x y z r g b`, as most software reads vertex colours. Ten times faster than trimesh's."""
    unit = "mm" if all(face.metric for face in faces) else "mm of the face model's scale"
    lines = [f"# wm3dr: OpenGL frame (x right, y up, z towards the camera), {unit}, sRGB colours"]
    offset = 1
    for face in faces:
        mesh = face.mesh()
        lines.append(f"o face_{face.index}")
        rows = np.hstack([mesh.vertices, mesh.colors]).tolist()
        lines.extend("v %.4f %.4f %.4f %.4f %.4f %.4f" % tuple(row) for row in rows)  # noqa: UP031 (faster)
        lines.extend("f %d %d %d" % tuple(row) for row in (mesh.triangles + offset).tolist())  # noqa: UP031
        offset += len(rows)
    return "\n".join(lines).encode() + b"\n"


def glb_from_faces(faces: Sequence[Face], camera: Camera, textures: "Sequence[Texture] | None" = None) -> bytes:
    """Return a binary glTF 2.0 scene: a node per face and the camera that saw them.

    Meshes are in the model frame, nodes place them in the OpenGL frame, where the camera sits at the origin and looks
    along -z, as glTF wants it. Lengths are mm / 1000: metres, or metres of the face model's scale where a face is not
    `metric`. Vertex colours carry the light already, hence KHR_materials_unlit; they are stored linear, as glTF
    demands, converted from sRGB. A camera whose principal point is not the centre of the image has no exact glTF
    counterpart; the exact values stand in its `extras`. Textures replace the vertex colours; where corners at one
    vertex have several texture coordinates, the vertex is repeated.
    """
    scene = _Gltf()
    nodes = [
        {
            "name": "camera",
            "camera": 0,
            "extras": camera.to_dict(),
        }
    ]
    indices: int | None = None
    for number, face in enumerate(faces):
        mesh = face.mesh("model")
        surface = None if textures is None else unwrapped(face.face_model)
        triangles = mesh.triangles if surface is None else surface.triangles
        if indices is None:  # the faces share them
            largest = int(triangles.max(initial=0))
            indices = scene.accessor(
                triangles.reshape(-1), _UINT16 if largest < 0xFFFF else _UINT32, "SCALAR", _INDEX_BUFFER
            )
        vertex = slice(None) if surface is None else surface.vertex
        positions = mesh.vertices[vertex] * np.float32(METRES_PER_MM)
        attributes = {
            "POSITION": scene.accessor(positions, _FLOAT, "VEC3", _VERTEX_BUFFER, bounds=True),
            "NORMAL": scene.accessor(_unit(mesh.normals[vertex]), _FLOAT, "VEC3", _VERTEX_BUFFER),
        }
        if textures is None or surface is None:
            colors = np.rint(linear_from_srgb(mesh.colors) * 65535.0)
            alpha = np.full((len(colors), 1), 65535.0)
            packed = np.hstack([colors, alpha])
            attributes["COLOR_0"] = scene.accessor(packed, _UINT16, "VEC4", _VERTEX_BUFFER, normalized=True)
        else:
            down = surface.uv * np.array([1, -1], np.float32) + np.array([0, 1], np.float32)  # v counts down in glTF
            attributes["TEXCOORD_0"] = scene.accessor(down, _FLOAT, "VEC2", _VERTEX_BUFFER)
            scene.image(png_from_array(textures[number].color))
        name = f"face_{face.index}"
        material = 0 if textures is None else number
        primitive = {"attributes": attributes, "indices": indices, "material": material}
        scene.meshes.append({"name": name, "primitives": [primitive]})
        rotation = face.rotation.astype(np.float64) * OPENGL_FROM_CAMERA[:, None]
        nodes.append(
            {
                "name": name,
                "mesh": len(scene.meshes) - 1,
                "rotation": quaternion_from_rotation(rotation),
                "translation": (face.translation * OPENGL_FROM_CAMERA * METRES_PER_MM).astype(np.float64).tolist(),
                "extras": {
                    "score": face.score,
                    "metric": face.metric,
                    "pose": face.pose._asdict(),
                    "blendshapes": face.blendshapes,
                },
            }
        )
    width, height = camera.size
    unit = "m" if faces and all(face.metric for face in faces) else "m, scale of the face model"
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "wm3dr", "extras": {"unit": unit}},
        "scene": 0,
        "scenes": [{"name": "photo", "nodes": list(range(len(nodes)))}],
        "nodes": nodes,
        "cameras": [
            {
                "name": "camera",
                "type": "perspective",
                "perspective": {
                    "yfov": 2.0 * float(np.arctan(height / (2.0 * camera.focal))),
                    "aspectRatio": width / height,
                    "znear": NEAR_M,
                    "zfar": FAR_M,
                },
            }
        ],
    }
    if scene.meshes:
        document |= scene.parts()
        document["extensionsUsed"] = ["KHR_materials_unlit"]
        document["materials"] = [
            _material(None if textures is None else number) for number in range(len(textures or [0]))
        ]
        if textures is not None:
            document["images"] = scene.images
            document["samplers"] = [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}]
            document["textures"] = [{"source": number, "sampler": 0} for number in range(len(scene.images))]
    return scene.glb(document)


def _material(texture: int | None) -> dict[str, Any]:
    """An unlit material: of the vertex colours, or of the texture with a number."""
    look: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    if texture is not None:
        look["baseColorTexture"] = {"index": texture}
    name = "face" if texture is None else f"face_texture_{texture}"
    return {"name": name, "pbrMetallicRoughness": look, "extensions": {"KHR_materials_unlit": {}}}


class _Gltf:
    """Accessors over one growing binary buffer."""

    def __init__(self) -> None:
        self.meshes: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self._accessors: list[dict[str, Any]] = []
        self._views: list[dict[str, Any]] = []
        self._chunks: list[bytes] = []
        self._length = 0

    def accessor(
        self,
        array: NDArray[Any],
        component: int,
        kind: str,
        target: int,
        *,
        bounds: bool = False,
        normalized: bool = False,
    ) -> int:
        """Append an array and return the number of its accessor."""
        values = np.ascontiguousarray(array, dtype=_COMPONENTS[component])
        view = self._view(values.tobytes())
        self._views[view]["target"] = target
        accessor = {
            "bufferView": view,
            "componentType": component,
            "count": len(values),
            "type": kind,
        }
        if bounds:
            accessor |= {
                "min": values.min(axis=0).astype(np.float64).tolist(),
                "max": values.max(axis=0).astype(np.float64).tolist(),
            }
        if normalized:
            accessor["normalized"] = True
        self._accessors.append(accessor)
        return len(self._accessors) - 1

    def image(self, png: bytes) -> None:
        """Append a PNG file to the images."""
        self.images.append({"bufferView": self._view(png), "mimeType": "image/png"})

    def _view(self, content: bytes) -> int:
        """Append bytes and return the number of their view."""
        self._views.append({"buffer": 0, "byteOffset": self._length, "byteLength": len(content)})
        content += b"\0" * (-len(content) % 4)
        self._chunks.append(content)
        self._length += len(content)
        return len(self._views) - 1

    def parts(self) -> dict[str, Any]:
        """Return the members of the document that describe the buffer."""
        return {
            "meshes": self.meshes,
            "accessors": self._accessors,
            "bufferViews": self._views,
            "buffers": [{"byteLength": self._length}],
        }

    def glb(self, document: dict[str, Any]) -> bytes:
        """Pack the document and the buffer."""
        text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        chunks = [struct.pack("<II", len(text), 0x4E4F534A), text]
        if self._length:
            chunks += [struct.pack("<II", self._length, 0x004E4942), *self._chunks]
        total = 12 + sum(map(len, chunks))
        return b"".join([struct.pack("<III", 0x46546C67, 2, total), *chunks])


def linear_from_srgb(srgb: NDArray[np.float32]) -> NDArray[np.float64]:
    """Decode sRGB values in [0, 1] to linear light (IEC 61966-2-1)."""
    values = np.clip(np.asarray(srgb, np.float64), 0.0, 1.0)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def quaternion_from_rotation(rotation: NDArray[np.float64]) -> list[float]:
    """Return the unit quaternion (x, y, z, w) of a (3, 3) rotation."""
    # The eigenvector of Bar-Itzhack's symmetric matrix: stable for every angle.
    r = rotation
    k = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], r[1, 0] + r[0, 1], r[2, 0] + r[0, 2], r[2, 1] - r[1, 2]],
            [r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], r[2, 1] + r[1, 2], r[0, 2] - r[2, 0]],
            [r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r[0, 0] + r[1, 1] + r[2, 2]],
        ]
    )
    quaternion = np.linalg.eigh(k)[1][:, -1]
    values: list[float] = (quaternion * np.sign(quaternion[3] or 1.0)).tolist()
    return values


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return unit vectors; those of no length point along z, as glTF allows none of length zero."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(length > 0, vectors / np.maximum(length, 1e-12), np.array([0, 0, 1], np.float32)).astype(np.float32)
