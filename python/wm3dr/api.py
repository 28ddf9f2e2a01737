"""`reconstruct` and `Reconstructor`: photo → encoder → peaks → coefficients → pose and camera → result."""

import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from . import _native
from .camera import Camera, check_camera
from .decode import Peaks, averaged_rows, decode, neighbourhoods
from .encoder import Encoder, Providers
from .face_model import FaceModel
from .image import ColorOrder, ImageSource, NetworkInput, coarse_input, network_input
from .placement import check_ipd
from .result import Result
from .threads import check_threads

F32 = NDArray[np.float32]

DEFAULT_MAX_SIDE = 1024
"""Longer side of the photo at network scale. Of 182 faces of at least 32 px on 22 group photos (YuNet's, at full and
double size), the first released weights find 86.8 % at 640 px, 90.1 % at 800, 97.3 % at 1024 and 96.2 % at 1280; the
network's time grows with the area."""
COARSE_FROM, COARSE_SIDE = 512, 320
"""Photos longer than the first at network scale are looked at once more, reduced to about the second."""


class Reconstructor:
    """An encoder and a face model, ready for many photos. One may be shared by threads.

    Parameters
    ----------
    encoder : path or Encoder, optional
        ONNX file; None takes the default of the wheel.
    face_model : path or FaceModel, optional
        Face-model file; None takes the default of the wheel.
    providers : list, optional
        Execution providers as onnxruntime takes them; None takes CUDA where onnxruntime has it, else the CPU.
    threads : int, optional
        Threads of onnxruntime and of the native code, each; None takes what affinity and cgroup quota allow.
    max_side : int
        The photo is scaled down (never up) until its longer side is at most this. Larger finds smaller faces and
        takes longer.
    score_threshold : float, optional
        Least score of a face, between 0 and 1; None takes the encoder's own.
    large_faces : bool
        The network knows faces of some 20 to 300 px. Where a photo is longer than 512 px at network scale, look at it
        once more at about 320 px (a tenth of the work), for the faces that are too large.
    fit_colors : bool
        Fit albedo and illumination to the photo when they, or anything coloured, are first asked for (a millisecond a
        face; the result keeps the photo at network scale until then). False leaves what the encoder says: less like
        the photo, and never disturbed by what hides the face.
    allow_fallback : bool
        Accept another provider than the first, with a warning, where it cannot be had.

    Raises
    ------
    FileNotFoundError
        There is no such encoder or face model.
    wm3dr.ModelError
        One of them is broken, or they do not belong together.
    RuntimeError
        The first provider is not in use (and `allow_fallback` is false).
    TypeError, ValueError
        An argument is of another type or out of range.
    """

    def __init__(
        self,
        encoder: str | os.PathLike[str] | Encoder | None = None,
        face_model: str | os.PathLike[str] | FaceModel | None = None,
        providers: Providers | None = None,
        threads: int | None = None,
        max_side: int = DEFAULT_MAX_SIDE,
        score_threshold: float | None = None,
        *,
        large_faces: bool = True,
        fit_colors: bool = True,
        allow_fallback: bool = False,
    ) -> None:
        self.threads = check_threads(threads)
        self.max_side = _checked_max_side(max_side)
        self.face_model = face_model if isinstance(face_model, FaceModel) else FaceModel.load(face_model)
        if not isinstance(encoder, Encoder):
            encoder = Encoder(encoder, providers=providers, threads=self.threads, allow_fallback=allow_fallback)
        elif providers is not None:
            raise ValueError("'providers' cannot be changed on an Encoder that is already open")
        self.encoder = encoder
        self.large_faces, self.fit_colors = bool(large_faces), bool(fit_colors)
        self.encoder.contract.check_face_model(self.face_model)
        self.score_threshold = _checked_threshold(score_threshold, encoder.contract.peak_threshold)

    @property
    def provider(self) -> str:
        """The execution provider in use."""
        return self.encoder.provider

    def reconstruct(
        self,
        image: ImageSource,
        camera: Camera | None = None,
        *,
        ipd_mm: float | None = None,
        color: ColorOrder = "rgb",
        render: bool = False,
    ) -> Result:
        """Find and reconstruct every face of a photo.

        Parameters
        ----------
        image : array, path, bytes or PIL image
            See `wm3dr.image.read_rgb`.
        camera : Camera, optional
            The real camera of the photo. The default is METHOD.md's: f = 1015 px at network scale, principal point in
            the middle. In yours the translations are solved anew so that the landmarks stay on their pixels; shapes
            and rotations against the viewing ray stay (CONVENTIONS.md §3; `Result.with_camera`).
        ipd_mm : float, optional
            Distance between the eyes of everybody in the photo, mm, for real millimetres; see `Result.with_scale`.
        color : "rgb" or "bgr"
            Channel order of an array.
        render : bool
            Draw the faces at once (ids, depth, weights and colours of the pixels), instead of when asked for.

        Returns
        -------
        result : Result
            No face is an empty result, not an error.

        Raises
        ------
        TypeError, ValueError, FileNotFoundError
            `image`, `camera` or `ipd_mm` is no such thing; see `read_rgb`. A camera of another size is a ValueError.
        """
        if camera is not None:
            check_camera(camera)
        if ipd_mm is not None:
            check_ipd(ipd_mm)
        return self._from_input(self._timed_input(image, color), camera, render, ipd_mm)

    def reconstruct_batch(
        self, images: Iterable[ImageSource], *, color: ColorOrder = "rgb", render: bool = False
    ) -> list[Result]:
        """Reconstruct several photos, in order; see `reconstruct` and, for streams, `reconstruct_stream`."""
        return list(self.reconstruct_stream(images, color=color, render=render))

    def reconstruct_stream(
        self, images: Iterable[ImageSource], *, color: ColorOrder = "rgb", render: bool = False
    ) -> Iterator[Result]:
        """Yield a result per photo of an iterable that may be endless; the next photo is read meanwhile.

        A photo that cannot be read raises its error at its turn.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="wm3dr-read") as reader:
            ahead: Future[tuple[list[NetworkInput], float]] | None = None
            for image in images:
                following = reader.submit(self._timed_input, image, color)
                if ahead is not None:
                    yield self._from_input(ahead.result(), None, render)
                ahead = following
            if ahead is not None:
                yield self._from_input(ahead.result(), None, render)

    def _timed_input(self, image: ImageSource, color: ColorOrder) -> tuple[list[NetworkInput], float]:
        start = time.perf_counter()
        levels = [network_input(image, self.max_side, color)]
        if self.large_faces and max(levels[0].size) * levels[0].scale > COARSE_FROM:
            levels.append(coarse_input(levels[0], COARSE_SIDE))
        return levels, 1e3 * (time.perf_counter() - start)

    def _from_input(
        self,
        timed: tuple[list[NetworkInput], float],
        camera: Camera | None,
        render: bool,
        ipd_mm: float | None = None,
    ) -> Result:
        levels, preprocess_ms = timed
        timings = {"preprocess": preprocess_ms}
        watch = _Watch(timings)
        size = levels[0].size
        if camera is not None:
            check_camera(camera, size)
        outputs = [self.encoder.predict(level.pixels) for level in levels]
        watch.lap("encode")
        peaks = [self._peaks(level, *output) for level, output in zip(levels, outputs, strict=True)]
        del outputs
        watch.lap("peaks")
        dense, faces = decode(
            peaks,
            size=size,
            contract=self.encoder.contract,
            face_model=self.face_model,
            camera=camera,
            threads=self.threads,
            photo=levels[0] if self.fit_colors else None,
        )
        watch.lap("decode")
        result = Result(faces, dense.camera, size, self.provider, timings, dense)
        if ipd_mm is not None:
            result = result.with_scale(ipd_mm)
        if render:
            raster = result.render()
            raster.color  # noqa: B018 (computed and kept, with the pass that it needs)
            watch.lap("render")
        timings["total"] = sum(timings.values())
        return result

    def _peaks(self, level: NetworkInput, heatmap: F32, maps: F32) -> Peaks:
        contract = self.encoder.contract
        cells, scores = _native.find_peaks(heatmap[0, 0], self.score_threshold, contract.peak_window)
        centers = _native.cell_centers(cells, contract.stride)
        width, height = level.size[0] * level.scale, level.size[1] * level.scale
        if width < level.pixels.shape[2] or height < level.pixels.shape[1]:
            inside = (centers <= (width, height)).all(axis=1)  # none in the padding
            cells, scores, centers = cells[inside], scores[inside], centers[inside]
        around, owner = neighbourhoods(cells, heatmap.shape[2:], contract.row_window)
        rows = self.encoder.rows(maps[0], around)
        rows = averaged_rows(rows, cells, around, owner, contract.stride, contract.slices()["translation"])
        return Peaks(rows, scores, centers, level.scale)


class _Watch:
    """Writes the milliseconds between laps."""

    def __init__(self, timings: dict[str, float]) -> None:
        self._timings, self._last = timings, time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self._timings[stage] = 1e3 * (now - self._last)
        self._last = now


def _checked_max_side(max_side: int) -> int:
    if isinstance(max_side, bool) or not isinstance(max_side, int | np.integer):
        raise TypeError(f"'max_side' must be an int (pixels), not {type(max_side).__name__}")
    if max_side < 32:
        raise ValueError(f"'max_side' must be at least 32 pixels, not {max_side}")
    return int(max_side)


def _checked_threshold(threshold: float | None, default: float) -> float:
    if threshold is None:
        return default
    if isinstance(threshold, bool) or not isinstance(threshold, float | int | np.floating):
        raise TypeError(f"'score_threshold' must be a number, not {type(threshold).__name__}")
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"'score_threshold' must be above 0 and at most 1, not {threshold}")
    return float(threshold)


_default: Reconstructor | None = None
_default_lock = threading.Lock()


def default_reconstructor() -> Reconstructor:
    """Return the `Reconstructor` of this process with all defaults, made at the first call."""
    global _default
    with _default_lock:
        if _default is None:
            _default = Reconstructor()
        return _default


def reconstruct(
    image: ImageSource,
    camera: Camera | None = None,
    *,
    ipd_mm: float | None = None,
    color: ColorOrder = "rgb",
    render: bool = False,
) -> Result:
    """Find and reconstruct every face of a photo, with the default models; see `Reconstructor.reconstruct`.

    The first call of a process opens the models (about a second); later calls and other threads share them.
    """
    return default_reconstructor().reconstruct(image, camera, ipd_mm=ipd_mm, color=color, render=render)
