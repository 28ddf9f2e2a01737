"""The GLB of a clip: morph targets, their weights and the heads' motion as keyframes."""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _native
from .animation import Clip, Targets, Track, neutral_face, opengl_rotations, target_offsets
from .coarse import coarse_model
from .dense import OPENGL_FROM_CAMERA
from .export import FAR_M, METRES_PER_MM, NEAR_M, _Gltf, linear_from_srgb, quaternion_from_rotation

if TYPE_CHECKING:
    from .face_model import FaceModel

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_FLOAT, _UINT16, _UINT32 = 5126, 5123, 5125
_VERTEX_BUFFER, _INDEX_BUFFER = 34962, 34963
STILL_MM = 1e-3
"""A vertex that a target moves less is left out of it."""


def glb_from_clip(clip: Clip, wanted: Targets, refined: bool) -> bytes:
    """Return a binary glTF 2.0 scene with a node per track, the camera and, for more than one frame, an animation.

    Frames, units and colours are those of `wm3dr.export.glb_from_faces`. Time begins at 0, the first frame. Between
    keyframes, motion and weights are interpolated linearly, rotations on the sphere. A face that is not found in a
    frame has scale 0 until it is found again: core glTF knows no other way to hide a node.
    """
    model, camera, tracks = clip.face_model, clip.camera, clip.tracks
    triangles = model.triangles if refined else coarse_model(model).triangles
    n = model.n_vertices if refined else coarse_model(model).n_vertices
    gltf = _AnimatedGltf()
    nodes: list[dict[str, Any]] = [{"name": "camera", "camera": 0, "extras": camera.to_dict()}]
    channels: list[dict[str, Any]] = []
    samplers: list[dict[str, Any]] = []
    indices, morphs = -1, []
    if tracks:
        kind = _UINT16 if n < 0xFFFF else _UINT32
        indices = gltf.accessor(triangles.reshape(-1), kind, "SCALAR", _INDEX_BUFFER)
        morphs = [{"POSITION": gltf.sparse(offsets[:n])} for offsets in target_offsets(model, wanted)]
    for track in tracks:
        name = f"face_{track.id}"
        weights = clip.weights(track, wanted)
        primitive = {
            "attributes": _attributes(gltf, track, model, triangles, n),
            "indices": indices,
            "material": 0,
            "targets": morphs,
        }
        gltf.meshes.append(
            {
                "name": name,
                "primitives": [primitive],
                "weights": weights[0].astype(np.float64).tolist(),
                "extras": {"targetNames": list(wanted.names)},
            }
        )
        moves = _moves(track, clip, weights)
        nodes.append(
            {
                "name": name,
                "mesh": len(gltf.meshes) - 1,
                **{path: values[0].tolist() for path, (_, values, _) in moves.items() if path != "weights"},
                "extras": {"track": track.id, "identity": track.identity.astype(np.float64).tolist()},
            }
        )
        if len(clip) > 1:
            for path, (times, values, interpolation) in moves.items():
                samplers.append(
                    {
                        "input": gltf.keys(times, "SCALAR", bounds=True),
                        "output": gltf.keys(values, {"rotation": "VEC4", "weights": "SCALAR"}.get(path, "VEC3")),
                        "interpolation": interpolation,
                    }
                )
                target = {"node": len(nodes) - 1, "path": path}
                channels.append({"sampler": len(samplers) - 1, "target": target})
    width, height = camera.size
    lens = {
        "yfov": 2.0 * float(np.arctan(height / (2.0 * camera.focal))),
        "aspectRatio": width / height,
        "znear": NEAR_M,
        "zfar": FAR_M,
    }
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "wm3dr", "extras": {"unit": "m, scale of the face model"}},
        "scene": 0,
        "scenes": [{"name": "clip", "nodes": list(range(len(nodes))), "extras": {"start_seconds": clip.times[0]}}],
        "nodes": nodes,
        "cameras": [{"name": "camera", "type": "perspective", "perspective": lens}],
    }
    if tracks:
        document |= gltf.parts()
        document["extensionsUsed"] = ["KHR_materials_unlit"]
        document["materials"] = [
            {
                "name": "face",
                "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
                "extensions": {"KHR_materials_unlit": {}},
            }
        ]
    if channels:
        document["animations"] = [{"name": "clip", "channels": channels, "samplers": samplers}]
    return gltf.glb(document)


def _attributes(
    gltf: "_AnimatedGltf", track: Track, model: "FaceModel", triangles: NDArray[np.int32], n: int
) -> dict[str, int]:
    """Write the neutral face of a track: positions in metres, normals, linear colours."""
    shape, colors = neutral_face(track, model, 1)
    vertices = np.ascontiguousarray(shape[:n])
    normals = _native.vertex_normals(vertices[None], triangles, 1)[0]
    normals[np.linalg.norm(normals, axis=1) < 0.5] = (0, 0, 1)  # of vertices without triangles; glTF wants unit length
    linear = np.rint(linear_from_srgb(colors[:n]) * 65535.0)
    packed = np.hstack([linear, np.full((n, 1), 65535.0)])
    return {
        "POSITION": gltf.accessor(vertices * np.float32(METRES_PER_MM), _FLOAT, "VEC3", _VERTEX_BUFFER, bounds=True),
        "NORMAL": gltf.accessor(normals, _FLOAT, "VEC3", _VERTEX_BUFFER),
        "COLOR_0": gltf.accessor(packed, _UINT16, "VEC4", _VERTEX_BUFFER, normalized=True),
    }


def _moves(track: Track, clip: Clip, weights: F32) -> dict[str, tuple[F64, NDArray[Any], str]]:
    """Return times, values and interpolation of everything about a track that moves, by its path in glTF."""
    start = clip.times[0]
    times = track.times - start
    moves: dict[str, tuple[F64, NDArray[Any], str]] = {
        "translation": (times, track.translations * OPENGL_FROM_CAMERA * np.float32(METRES_PER_MM), "LINEAR"),
        "rotation": (times, quaternions(opengl_rotations(track)), "LINEAR"),
        "weights": (times, weights, "LINEAR"),
    }
    scales = np.zeros(len(clip), np.float32)
    scales[track.frames] = track.scales
    if (scales != 1.0).any():
        moves["scale"] = (clip.times - start, np.repeat(scales[:, None], 3, axis=1), "STEP")
    return moves


def quaternions(rotations: F64) -> F64:
    """Return (n, 4) unit quaternions x, y, z, w, each on the side of the one before: the short way round."""
    found = np.array([quaternion_from_rotation(rotation) for rotation in rotations])
    for before, after in pairwise(found):
        if before @ after < 0:
            after *= -1.0
    return found


class _AnimatedGltf(_Gltf):
    """A glTF buffer that also holds keyframes and morph targets."""

    def keys(self, values: NDArray[Any], kind: str, *, bounds: bool = False) -> int:
        """Append times or keyframe values (bounds are for times) and return the number of the accessor."""
        flat = np.ascontiguousarray(values, np.float32)
        flat = flat.reshape(-1) if kind == "SCALAR" else flat
        if bounds:  # never later than the frame: a player that stands at its time is past the step
            flat = np.where(flat > values, np.nextafter(flat, np.float32(-np.inf)), flat)
        accessor = {"bufferView": self._view(flat.tobytes()), "componentType": _FLOAT, "count": len(flat), "type": kind}
        if bounds:
            accessor |= {"min": [float(flat.min())], "max": [float(flat.max())]}
        self._accessors.append(accessor)
        return len(self._accessors) - 1

    def sparse(self, offsets: F32) -> int:
        """Append (N, 3) offsets in mm, mostly zero, and return the number of the accessor, in metres."""
        moved = np.flatnonzero((np.abs(offsets) > STILL_MM).any(axis=1))
        moved = moved if len(moved) else np.array([0])  # a sparse accessor has at least one entry
        metres = np.zeros_like(offsets)
        metres[moved] = offsets[moved] * np.float32(METRES_PER_MM)
        kind = _UINT16 if len(offsets) <= 0xFFFF else _UINT32
        numbers = moved.astype(np.uint16 if kind == _UINT16 else np.uint32)
        self._accessors.append(
            {
                "componentType": _FLOAT,
                "count": len(offsets),
                "type": "VEC3",
                "min": metres.min(axis=0).astype(np.float64).tolist(),
                "max": metres.max(axis=0).astype(np.float64).tolist(),
                "sparse": {
                    "count": len(moved),
                    "indices": {"bufferView": self._view(numbers.tobytes()), "componentType": kind},
                    "values": {"bufferView": self._view(np.ascontiguousarray(metres[moved]).tobytes())},
                },
            }
        )
        return len(self._accessors) - 1
