"""Faces over time: stable ids, one identity per person, pose and expression without tremble."""

import math
import time as clock
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _native
from .api import Reconstructor, default_reconstructor
from .assignment import assign
from .camera import Camera
from .dense import DenseFaces
from .image import ColorOrder, ImageSource
from .result import Face, Result
from .smoothing import Smoothing, rotation_vector
from .tracks import State, Track, common_motion, measured

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TrackedFace(Face):
    """A face with the track that it belongs to; its coefficients, rotation and translation are the smoothed ones."""

    id: int
    """Number of the track, from 0; never given twice."""
    age: float
    """Seconds since the track was first seen."""
    seen: int
    """Frames in which the track was found, this one included."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything sparse, JSON-able: `id`, `age`, `seen`, and what a face has."""
        return {"id": self.id, "age": round(self.age, 6), "seen": self.seen, **super().to_dict()}


@dataclass(frozen=True, eq=False)
class TrackedResult(Result):
    """All faces of one frame, best score first; everything that a `Result` can do."""

    faces: tuple[TrackedFace, ...]
    """The faces found in this frame; a face that is lost for the moment is not among them."""
    time: float
    """Seconds, as given."""

    def __iter__(self) -> Iterator[TrackedFace]:
        return iter(self.faces)

    def with_dense(self, dense: DenseFaces) -> "TrackedResult":
        """Return the result with the same faces at other values; see `Result.with_dense`."""
        plain = super().with_dense(dense)
        faces = tuple(
            TrackedFace(**vars(face), id=tracked.id, age=tracked.age, seen=tracked.seen)
            for face, tracked in zip(plain, self.faces, strict=True)
        )
        return replace(self, faces=faces, camera=plain.camera, dense=dense)

    def to_dict(self) -> dict[str, Any]:
        """Return everything sparse, JSON-able: `time`, and what a result has."""
        return {**super().to_dict(), "time": self.time}


class Tracker:
    """Follows faces from frame to frame. Causal: a frame's output depends on it and those before. Not for many threads.

    Parameters
    ----------
    reconstructor : Reconstructor, optional
        What `update` finds faces with; None takes the default models, opened at the first frame.
    smoothing : Smoothing, optional
        One-Euro parameters; None leaves pose, expression and light as measured.
    average : bool
        Identity and albedo are the mean over the track so far, weighted by score, instead of the frame's own.
    lost_seconds : float
        A face that comes back within this time near the place where it is expected keeps its id.
    camera : Camera, optional
        The camera of all frames. None takes that of the first frame, and a longer one once a face has come so near
        that it needs that (CONVENTIONS.md §3).

    Raises
    ------
    TypeError, ValueError
        An argument is of another type or out of range.
    """

    def __init__(
        self,
        reconstructor: Reconstructor | None = None,
        *,
        smoothing: Smoothing | None = Smoothing(),  # noqa: B008  frozen
        average: bool = True,
        lost_seconds: float = 2.0,
        camera: Camera | None = None,
    ) -> None:
        for name, value, wanted in (
            ("reconstructor", reconstructor, Reconstructor),
            ("smoothing", smoothing, Smoothing),
            ("camera", camera, Camera),
        ):
            if value is not None and not isinstance(value, wanted):
                raise TypeError(f"'{name}' must be a wm3dr.{wanted.__name__} or None, not {type(value).__name__}")
        if not (isinstance(lost_seconds, int | float) and math.isfinite(lost_seconds) and lost_seconds >= 0):
            raise ValueError(f"'lost_seconds' must be finite and at least 0 (seconds), not {lost_seconds!r}")
        self._reconstructor = reconstructor
        self._smoothing, self._average = smoothing, bool(average)
        self._lost_seconds, self._given_camera = float(lost_seconds), camera
        self._next_id = 0
        self.reset()

    def reset(self) -> None:
        """Forget all faces and the time, for another clip or after a cut; ids go on."""
        self._camera: Camera | None = None
        self._size: tuple[int, int] | None = None
        self._tracks: list[Track] = []
        self._time: float | None = None

    def update(self, image: ImageSource, time: float, *, color: ColorOrder = "rgb") -> TrackedResult:
        """Find the faces of the next frame and say who they are.

        Parameters
        ----------
        image : array, path, bytes or PIL image
            See `wm3dr.image.read_rgb`; all frames have one size.
        time : float
            Seconds, greater than that of the frame before; frames need not be evenly spaced.
        color : "rgb" or "bgr"
            Channel order of an array.

        Raises
        ------
        TypeError, ValueError, FileNotFoundError
            As `Reconstructor.reconstruct` and `track`.
        """
        if self._reconstructor is None:
            self._reconstructor = default_reconstructor()
        self._checked_time(time)
        return self.track(self._reconstructor.reconstruct(image, self._given_camera, color=color), time)

    def track(self, result: Result, time: float) -> TrackedResult:
        """Say who the faces of the next frame are, which were found already; see `update`.

        Raises
        ------
        TypeError
            `result` is no Result.
        ValueError
            `time` is not finite or not greater than before, or the frame has another size than the one before.
        """
        start = clock.perf_counter()
        if not isinstance(result, Result):
            raise TypeError(f"'result' must be a wm3dr.Result, not {type(result).__name__}")
        seconds = self._checked_time(time)
        if self._size not in (None, result.size):
            raise ValueError(f"the frame is {result.size} pixels, those before were {self._size}; reset() starts anew")
        if self._given_camera is not None and self._given_camera.size != result.size:
            raise ValueError(f"'camera' has size {self._given_camera.size}, but the frame is {result.size}")
        self._size = result.size
        camera = self._common_camera(result)
        result = result.with_camera(camera)
        tracks = self._followed(measured(result), seconds)
        smooth = result.with_dense(self._placed(result, tracks, camera))
        faces = tuple(
            TrackedFace(**vars(face), id=track.id, age=seconds - track.first, seen=track.seen)
            for face, track in zip(smooth, tracks, strict=True)
        )
        self._time = seconds
        timings = {**result.timings, "track": 1e3 * (clock.perf_counter() - start)}
        timings["total"] = result.timings.get("total", 0.0) + timings["track"]
        return TrackedResult(faces, camera, result.size, result.provider, timings, smooth.dense, seconds)

    def _common_camera(self, result: Result) -> Camera:
        if self._given_camera is not None:
            return self._given_camera
        if self._camera is None or result.camera.focal > self._camera.focal:
            self._camera = result.camera
        return self._camera

    def _checked_time(self, time: float) -> float:
        if isinstance(time, bool) or not isinstance(time, int | float | np.integer | np.floating):
            raise TypeError(f"'time' must be a number (seconds), not {type(time).__name__}")
        if not math.isfinite(time):
            raise ValueError(f"'time' must be finite (seconds), not {time}")
        if self._time is not None and time <= self._time:
            raise ValueError(f"'time' is {time} s, not after {self._time} s, that of the frame before")
        return float(time)

    def _followed(self, states: Sequence[State], now: float) -> list[Track]:
        """Give every face of the frame its track, and the track the face."""
        self._tracks = [track for track in self._tracks if now - track.last <= self._lost_seconds]
        costs = np.array([[track.distance(state, now) for state in states] for track in self._tracks])
        known = {j: self._tracks[i] for i, j in assign(costs.reshape(len(self._tracks), len(states)))}
        pairs = [(track.measured.pixel, states[j].pixel) for j, track in known.items() if track.last == self._time]
        before, after = np.array(pairs).reshape(-1, 2, 2).transpose(1, 0, 2)
        motion = common_motion(before, after)
        if motion is not None:
            for track in self._tracks:
                if track not in known.values():
                    track.carry(motion)
        tracks = []
        for number, state in enumerate(states):
            if number in known:
                track = known[number]
                track.take(state, now, missed=track.last != self._time)
            else:
                track = Track(self._next_id, state, now, self._smoothing, self._average)
                self._next_id += 1
                self._tracks.append(track)
            tracks.append(track)
        return tracks

    def _placed(self, result: Result, tracks: Sequence[Track], camera: Camera) -> DenseFaces:
        """Put the smoothed faces into the camera."""
        n, dense = len(tracks), result.dense
        states = [track.state for track in tracks]
        groups: dict[str, F32] = {
            name: np.array([getattr(state, name) for state in states], np.float32).reshape(before.shape)
            for name, before in (
                ("identity", dense.identity),
                ("albedo", dense.albedo_coefficients),
                ("expression", dense.expression),
                ("illumination", dense.illumination),
            )
        }
        pixels = np.array([state.pixel for state in states]).reshape(n, 2)
        sizes = np.exp(np.array([state.log_size for state in states])).reshape(n, 1)
        depth = camera.focal * dense.scales[:, None] / sizes
        lateral = depth * (pixels - np.array(camera.principal_point)) / camera.focal
        translations = np.concatenate([lateral, depth], axis=1).astype(np.float32)
        vectors = np.array([rotation_vector(state.turn) for state in states], np.float32).reshape(n, 3)
        rotations = _native.rotations_from_vectors(vectors, translations)
        return dense.changed(**groups, rotations=rotations, translations=translations, camera=camera)
