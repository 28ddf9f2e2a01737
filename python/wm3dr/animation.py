"""Faces over time, for programs that animate: GLB with morph targets and keyframes, CSV and JSON of the weights.

The identity of a track is baked into its mesh; expressions become morph targets, the head a moving node.
"""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _native
from .camera import Camera
from .coarse import expression_offsets, neutral_shapes
from .dense import OPENGL_FROM_CAMERA, DenseFaces
from .edit import SIDES
from .face_model import FaceModel
from .files import whole_file
from .result import Result

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Names: TypeAlias = Literal["arkit", "model"]

FORMAT, VERSION = "wm3dr-clip", 1
SUFFIXES = (".glb", ".csv", ".json")
ARKIT_WITHOUT_SIDES = ("browInnerUp", "cheekPuff")
"""Blendshapes of which ARKit has one, the face model a left and a right half."""
ASYMMETRY = "_asymmetry"


@dataclass(frozen=True, eq=False)
class Targets:
    """Morph targets as they are written: names, and how they follow from the face model's expressions.

    A shape is the same in both: `offsets.T @ weights == model_offsets.T @ model_weights`.
    """

    names: tuple[str, ...]
    """(K,)"""
    from_offsets: F64
    """(K, K_exp): offsets of the targets = from_offsets @ offsets of the expressions."""
    from_weights: F64
    """(K, K_exp): weights of the targets = from_weights @ coefficients of the expressions."""


def targets(face_model: FaceModel, names: Names = "arkit") -> Targets:
    """Return the morph targets of a face model.

    Parameters
    ----------
    face_model : FaceModel
    names : "arkit" or "model"
        "model" keeps expressions as they are. "arkit" writes `_L` and `_R` as `Left` and `Right`, and joins the halves
        of `browInnerUp` and `cheekPuff`, which ARKit does not part: the target is their sum and its weight their mean;
        a second target, `browInnerUp_asymmetry`, carries what they differ by (left minus right, half the difference),
        so that nothing is lost. Other names stay.

    Raises
    ------
    ValueError
        `names` is neither.
    """
    if names not in ("arkit", "model"):
        raise ValueError(f"'names' must be 'arkit' or 'model', not {names!r}")
    known = face_model.expression_names
    from_offsets, from_weights = np.eye(len(known)), np.eye(len(known))
    arkit_ends = {own: end for end, own in SIDES.items()}
    if names == "model":
        return Targets(known, from_offsets, from_weights)
    written = []
    for number, name in enumerate(known):
        base, end = name[:-2], name[-2:]
        left, right = f"{base}_L", f"{base}_R"
        if base in ARKIT_WITHOUT_SIDES and left in known and right in known:
            halves = [known.index(left), known.index(right)]
            sign = 1.0 if end == "_L" else -1.0
            from_offsets[number, halves] = (1.0, sign)
            from_weights[number, halves] = (0.5, 0.5 * sign)
            written.append(base if end == "_L" else base + ASYMMETRY)
        else:
            written.append(base + arkit_ends[end] if end in arkit_ends else name)
    return Targets(tuple(written), from_offsets, from_weights)


@dataclass(frozen=True, eq=False)
class Track:
    """One face over time; rows are the frames in which it was found."""

    id: int
    """As given, or by `wm3dr.Tracker`."""
    frames: NDArray[np.int64]
    """(n,) numbers of the frames, ascending."""
    times: F64
    """(n,) seconds."""
    scores: F32
    """(n,)"""
    identity: F32
    """(K_id,) mean over the frames, weighted by score."""
    albedo: F32
    """(K_alb,) mean over the frames, weighted by score."""
    expression: F32
    """(n, K_exp)"""
    illumination: F32
    """(n, 3, 9)"""
    rotations: F32
    """(n, 3, 3) model to camera."""
    translations: F32
    """(n, 3) mm, camera frame."""
    scales: F32
    """(n,) millimetres per millimetre of the face model."""

    @property
    def poses(self) -> F32:
        """(n, 3) yaw, pitch, roll in degrees."""
        return _native.pose_from_rotations(self.rotations)


@dataclass(frozen=True, eq=False)
class _Frame:
    time: float
    ids: tuple[int, ...]
    scores: F32
    dense: DenseFaces
    """Coefficients and places; nothing dense is computed."""


class Clip:
    """Results over time, kept as coefficients: some kilobytes a face and frame.

    >>> clip = wm3dr.Clip()
    >>> for time, frame in frames:
    ...     clip.add(tracker.update(frame, time))
    >>> clip.save("clip.glb")

    Parameters
    ----------
    camera : Camera, optional
        The camera to write all frames in; None takes the one of the frames, where they differ that of the longest
        focal length.

    Raises
    ------
    TypeError
        `camera` is no Camera.
    """

    def __init__(self, camera: Camera | None = None) -> None:
        if camera is not None and not isinstance(camera, Camera):
            raise TypeError(f"'camera' must be a wm3dr.Camera or None, not {type(camera).__name__}")
        self._given_camera = camera
        self._frames: list[_Frame] = []

    @classmethod
    def from_results(
        cls,
        results: Iterable[Result],
        *,
        fps: float | None = None,
        ids: Sequence[Sequence[int]] | None = None,
        camera: Camera | None = None,
    ) -> "Clip":
        """Return a clip of results at even times, of tracked results (their own times), or of a single photo.

        Parameters
        ----------
        results : Result, ...
            In order of time.
        fps : float, optional
            Frames a second; None takes the times of tracked results.
        ids, camera
            As `add`, a sequence for every result, and as `Clip`.

        Raises
        ------
        TypeError, ValueError
            As `add`; or `fps` is not positive and finite, or `ids` has another length.
        """
        if fps is not None and not (isinstance(fps, int | float) and math.isfinite(fps) and fps > 0):
            raise ValueError(f"'fps' must be positive and finite, not {fps!r}")
        clip = cls(camera)
        results = list(results)
        if ids is not None and len(ids) != len(results):
            raise ValueError(f"'ids' has {len(ids)} entries for {len(results)} results")
        for number, result in enumerate(results):
            own = getattr(result, "time", None)
            time = number / fps if fps is not None else 0.0 if own is None and len(results) == 1 else own
            if ids is not None:
                given: Sequence[int] | None = ids[number]
            else:
                given = range(len(result)) if len(results) == 1 and not _tracked(result) else None
            clip.add(result, time, given)
        return clip

    def add(self, result: Result, time: float | None = None, ids: Sequence[int] | None = None) -> None:
        """Add the next frame.

        Parameters
        ----------
        result : Result
            Of a frame as large as those before, with the same face model.
        time : float, optional
            Seconds, greater than that of the frame before; None takes that of a tracked result.
        ids : sequence of int, optional
            Who the faces are, in their order; None takes the ids of a tracked result, or 0 for a lone face.

        Raises
        ------
        TypeError
            `result` is no Result, or `time` no number.
        ValueError
            There is no time, or it is not finite or not greater than before; ids are missing, too few or many, or
            twice the same; the frame is of another size or face model.
        """
        if not isinstance(result, Result):
            raise TypeError(f"'result' must be a wm3dr.Result, not {type(result).__name__}")
        time = getattr(result, "time", None) if time is None else time
        if time is None:
            raise ValueError("'time' is missing: pass seconds (or fps), or a result of wm3dr.Tracker")
        if isinstance(time, bool) or not isinstance(time, int | float | np.integer | np.floating):
            raise TypeError(f"'time' must be a number (seconds), not {type(time).__name__}")
        if not math.isfinite(time) or (self._frames and time <= self._frames[-1].time):
            before = f", greater than {self._frames[-1].time} s" if self._frames else ""
            raise ValueError(f"'time' must be finite seconds{before}, not {time}")
        checked = _ids(result, ids)
        if self._frames:
            first = self._frames[0].dense
            if result.size != first.camera.size:
                raise ValueError(f"'result' is of {result.size} pixels, the frames before were {first.camera.size}")
            if result.face_model.sha256 != first.face_model.sha256:
                raise ValueError(f"'result' has face model {result.face_model.name}, not {first.face_model.name}")
        elif self._given_camera is not None and self._given_camera.size != result.size:
            raise ValueError(f"'camera' has size {self._given_camera.size}, but the frame is {result.size}")
        scores = np.array([face.score for face in result], np.float32)
        self._frames.append(_Frame(float(time), checked, scores, result.dense.changed()))

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._frames)

    @property
    def times(self) -> F64:
        """(frames,) seconds, as given."""
        return np.array([frame.time for frame in self._frames])

    @property
    def camera(self) -> Camera:
        """The camera that all frames are written in; ValueError without frames."""
        if self._given_camera is not None:
            return self._given_camera
        self._check_frames()
        return max((frame.dense.camera for frame in self._frames), key=lambda camera: camera.focal)

    @property
    def face_model(self) -> FaceModel:
        """The model of all faces; ValueError without frames."""
        self._check_frames()
        return self._frames[0].dense.face_model

    def _check_frames(self) -> None:
        if not self._frames:
            raise ValueError("the clip has no frame yet; add() some")

    @property
    def tracks(self) -> tuple[Track, ...]:
        """The faces over time, in one camera, by ascending id."""
        from .placement import in_camera

        camera = self.camera
        rows: dict[int, list[tuple[int, int]]] = {}
        frames = []
        for number, frame in enumerate(self._frames):
            differs = len(frame.dense) and frame.dense.camera != camera
            frames.append(in_camera(frame.dense, camera) if differs else frame.dense)
            for row, name in enumerate(frame.ids):
                rows.setdefault(name, []).append((number, row))
        return tuple(self._track(name, rows[name], frames) for name in sorted(rows))

    def _track(self, name: int, places: list[tuple[int, int]], frames: list[DenseFaces]) -> Track:
        def stacked(field: str) -> F32:
            return np.stack([getattr(frames[number], field)[row] for number, row in places])

        scores = np.array([self._frames[number].scores[row] for number, row in places], np.float32)
        shares = scores / scores.sum() if scores.sum() > 0 else np.full(len(scores), 1.0 / len(scores), np.float32)
        return Track(
            id=name,
            frames=np.array([number for number, _ in places]),
            times=np.array([self._frames[number].time for number, _ in places]),
            scores=scores,
            identity=(shares @ stacked("identity")).astype(np.float32),
            albedo=(shares @ stacked("albedo_coefficients")).astype(np.float32),
            expression=stacked("expression"),
            illumination=stacked("illumination"),
            rotations=stacked("rotations"),
            translations=stacked("translations"),
            scales=stacked("scales"),
        )

    def save(self, path: str | os.PathLike[str], *, names: Names = "arkit", refined: bool = False) -> None:
        """Write the clip; the suffix says how (docs/animation.md). Whole or not at all; an existing file is replaced.

        .glb
            The scene: a node per track with its keyframes, and the camera.
        .csv
            A row per frame and face: time, frame, track, score, pose, translation, and the weight of every target.
        .json
            The same with rotations, identity, albedo and camera.

        Parameters
        ----------
        path : str or Path
        names : "arkit" or "model"
            Names of the targets; see `targets`.
        refined : bool
            Of a GLB: the vertices of `face.vertices`, four times as many triangles for the same surface.

        Raises
        ------
        ValueError
            The suffix is none of these, there is no frame, or `names` is neither.
        OSError
            The file cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise ValueError(f"'path' ends in {path.suffix!r}, not .glb, .csv or .json: {path}")
        if suffix == ".glb":
            content = self.to_glb(names=names, refined=refined)
        elif suffix == ".csv":
            content = self.to_csv(names=names).encode()
        else:
            content = json.dumps(self.to_dict(names=names), allow_nan=False).encode()
        with whole_file(path) as file:
            file.write(content)

    def to_glb(self, *, names: Names = "arkit", refined: bool = False) -> bytes:
        """Return the bytes of the .glb of `save`."""
        from .animation_glb import glb_from_clip

        return glb_from_clip(self, targets(self.face_model, names), refined)

    def to_csv(self, *, names: Names = "arkit") -> str:
        """Return the text of the .csv of `save`; numbers read back equal to float32."""
        wanted = targets(self.face_model, names)
        rows: list[tuple[int, int, list[Any]]] = []
        for track in self.tracks:
            values = np.column_stack([track.scores, track.poses, track.translations, self.weights(track, wanted)])
            numbers = values.astype(np.float32).astype(str).tolist()
            rows += [
                (int(frame), track.id, [repr(float(time)), int(frame), track.id, *row])
                for frame, time, row in zip(track.frames, track.times, numbers, strict=True)
            ]
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        head = ["time", "frame", "track", "score", "yaw", "pitch", "roll", "tx_mm", "ty_mm", "tz_mm"]
        writer.writerow([*head, *wanted.names])
        writer.writerows(row for *_, row in sorted(rows, key=lambda entry: entry[:2]))
        return text.getvalue()

    def to_dict(self, *, names: Names = "arkit") -> dict[str, Any]:
        """Return the content of the .json of `save`."""
        wanted = targets(self.face_model, names)
        return {
            "format": FORMAT,
            "version": VERSION,
            "times": self.times.tolist(),
            "camera": self.camera.to_dict(),
            "face_model": {"name": self.face_model.name, "sha256": self.face_model.sha256},
            "targets": list(wanted.names),
            "tracks": [
                {
                    "id": track.id,
                    "identity": _floats(track.identity),
                    "albedo": _floats(track.albedo),
                    "frames": track.frames.tolist(),
                    "times": track.times.tolist(),
                    "score": _floats(track.scores),
                    "pose": _floats(track.poses),
                    "rotation": _floats(track.rotations),
                    "translation": _floats(track.translations),
                    "scale": _floats(track.scales),
                    "weights": _floats(self.weights(track, wanted)),
                }
                for track in self.tracks
            ],
        }

    @staticmethod
    def weights(track: Track, wanted: Targets) -> F32:
        """Return (n, K): weights of the targets over the frames of a track."""
        return (track.expression @ wanted.from_weights.T).astype(np.float32)


def target_offsets(face_model: FaceModel, wanted: Targets) -> F32:
    """Return (K, N, 3): how the targets at weight 1 move the vertices, mm, model frame."""
    offsets = expression_offsets(face_model)
    mixed = np.flatnonzero((wanted.from_offsets != np.eye(len(offsets))).any(axis=1))
    parts = {int(k): np.tensordot(wanted.from_offsets[k], offsets, 1).astype(np.float32) for k in mixed}
    return np.stack([parts.get(k, offset) for k, offset in zip(count(), offsets, strict=False)])


def neutral_face(track: Track, face_model: FaceModel, threads: int) -> tuple[F32, F32]:
    """Return the (N, 3) neutral shape of a track, mm, model frame, and its (N, 3) colours in its best frame's light."""
    best = int(np.argmax(track.scores))
    shape = neutral_shapes(face_model, track.identity[None], threads)[0]
    dense = DenseFaces(
        face_model,
        identity=track.identity[None],
        expression=np.zeros((1, face_model.widths["expression"]), np.float32),
        albedo=track.albedo[None],
        illumination=track.illumination[best : best + 1],
        rotations=track.rotations[best : best + 1],
        translations=track.translations[best : best + 1],
        camera=Camera(1.0, (0.0, 0.0), (1, 1)),  # colours do not depend on it
        threads=threads,
    )
    return shape, dense.colors[0]


def opengl_rotations(track: Track) -> F64:
    """Return the (n, 3, 3) rotations of a track, model to OpenGL frame."""
    return track.rotations.astype(np.float64) * OPENGL_FROM_CAMERA[:, None]


def _tracked(result: Result) -> bool:
    return bool(len(result)) and all(hasattr(face, "id") for face in result)


def _ids(result: Result, ids: Sequence[int] | None) -> tuple[int, ...]:
    if ids is None:
        if _tracked(result):
            ids = [face.id for face in result]  # type: ignore[attr-defined]
        elif len(result) <= 1:
            ids = range(len(result))
        else:
            raise ValueError(f"'ids' is missing for {len(result)} faces: pass ids, or results of wm3dr.Tracker")
    if len(ids) != len(result):
        raise ValueError(f"'ids' has {len(ids)} entries for {len(result)} faces")
    numbers = tuple(int(number) for number in ids)
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"'ids' has a number twice: {list(numbers)}")
    return numbers


def _floats(values: Any) -> Any:
    array = np.asarray(values, np.float32)
    return array.astype(str).astype(np.float64).tolist()
