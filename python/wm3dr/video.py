"""Videos and webcams: frames in, frames out, through PyAV (`pip install 'wm3dr[video]'`).

Frames are decoded ahead by a thread of their own. Times are those of the file: the frame rate may vary.
"""

import contextlib
import os
import queue
import sys
import threading
import time as clock
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from .optional import require

U8 = NDArray[np.uint8]

AHEAD = 8
"""Frames and audio packets that are read ahead, at most."""
FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""Endings of videos that can be written, and FFmpeg's names of their containers."""
ENCODERS = ("libx264", "libopenh264", "h264_videotoolbox", "h264_mf", "mpeg4")
"""Encoders that are tried in this order where none is named."""
OPTIONS = {"libx264": {"crf": "20", "preset": "veryfast"}}
CAMERA_TIME_BASE = Fraction(1, 90000)
_END = object()


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """A frame of a video, upright."""

    image: U8
    """(H, W, 3) RGB."""
    time: float
    """Seconds since the first frame; greater than that of the frame before."""
    pts: int
    """The same in units of the video's `time_base`, from the origin of the file."""


@dataclass(frozen=True)
class Webcam:
    """How FFmpeg names a webcam."""

    name: str
    format: str


def webcam(number: int) -> Webcam:
    """Return FFmpeg's name of the webcam of a number, from 0.

    Raises
    ------
    ValueError
        There is no such webcam, as far as the system can list them.
    """
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ValueError(f"'camera' must be the number of a webcam, from 0, not {number!r}")
    if sys.platform == "darwin":
        return Webcam(f"{number}:none", "avfoundation")
    if sys.platform == "win32":
        av = require("av", "video")
        if not hasattr(av, "enumerate_input_devices"):
            raise ValueError(f"PyAV {av.__version__} cannot list webcams: pip install --upgrade av")
        found = [d for d in av.enumerate_input_devices("dshow") if "video" in getattr(d, "media_types", ["video"])]
        if number >= len(found):
            names = ", ".join(device.description for device in found) or "none"
            raise ValueError(f"no webcam {number}; DirectShow knows: {names}")
        return Webcam(f"video={found[number].name}", "dshow")
    path = f"/dev/video{number}"
    if not os.path.exists(path):
        others = ", ".join(sorted(str(p) for p in Path("/dev").glob("video*"))) or "there is no /dev/video*"
        raise ValueError(f"no webcam {number}: {path} does not exist ({others})")
    return Webcam(path, "v4l2")


class VideoReader:
    """Reads a video, ahead of whoever iterates over it; a context manager.

    Iterating yields `VideoFrame`s and, with `audio`, PyAV packets of the first audio stream as they lie in the file. A
    damaged part is left out and counted; `warn_about_damage` tells.

    Parameters
    ----------
    source : path or Webcam
        A file that FFmpeg reads, or a webcam (`webcam`).
    audio : bool
        Yield the packets of the audio stream too.

    Raises
    ------
    ImportError
        PyAV is not installed.
    FileNotFoundError
        There is no such file.
    ValueError
        It is no video, has no video stream, is broken from the start, or the webcam cannot be opened.
    """

    def __init__(self, source: str | os.PathLike[str] | Webcam, *, audio: bool = False) -> None:
        self._av = require("av", "video")
        self.live = isinstance(source, Webcam)
        """Whether the frames come from a webcam."""
        self.name = source.name if isinstance(source, Webcam) else str(Path(source))
        self._container = self._opened(source)
        if not self._container.streams.video:
            kinds = ", ".join(sorted({stream.type for stream in self._container.streams})) or "nothing"
            self._container.close()
            raise ValueError(f"{self.name} has no video stream, but {kinds}")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        has_audio = audio and bool(self._container.streams.audio)
        self.audio: Any = self._container.streams.audio[0] if has_audio else None
        """PyAV's audio stream whose packets are yielded, if any."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps: Fraction = Fraction(rate) if rate else Fraction(25)
        """Mean frame rate, as the file says."""
        self.time_base: Fraction = Fraction(self._stream.time_base or CAMERA_TIME_BASE)
        self.n_frames: int = int(self._stream.frames)
        """Number of frames as the file says; 0 where it does not."""
        self.frames_read = self.broken_packets = 0
        self.last_error = "it ends before the first"
        self._rotation = 0
        self.size: tuple[int, int] = (0, 0)
        """(width, height) of the upright frames; known once the first is read."""
        self.decode_seconds = 0.0
        """Time that the reading thread spent on decoding and conversion."""
        self._queue: queue.Queue[Any] = queue.Queue(AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="wm3dr-video", daemon=True)
        self._thread.start()

    def _opened(self, source: str | os.PathLike[str] | Webcam) -> Any:
        if isinstance(source, Webcam):
            try:
                return self._av.open(source.name, format=source.format)
            except (self._av.error.FFmpegError, OSError, ValueError) as error:
                raise ValueError(f"cannot open the webcam {source.name} ({source.format}): {error}") from error
        path = Path(source)
        if not path.exists():
            raise FileNotFoundError(f"no such file: {path}")
        if path.is_dir():
            raise ValueError(f"{path} is a folder, not a video")
        try:
            return self._av.open(str(path))
        except PermissionError:
            raise
        except (self._av.error.FFmpegError, OSError, ValueError) as error:
            reason = (
                "it is empty" if not path.stat().st_size else "FFmpeg does not know it, or it is broken or cut short"
            )
            raise ValueError(f"{path} cannot be read as a video: {reason}") from error

    def _read(self) -> None:
        """Fill the queue: frames, packets, then the end or the error that ended it."""
        try:
            for item in self._items():
                if not self._put(item):
                    return
            self._put(_END)
        except Exception as error:  # handed to the thread that iterates
            self._put(error)

    def _put(self, item: Any) -> bool:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.1)
                return True
        return False

    def _items(self) -> Iterator[Any]:
        streams = [stream for stream in (self._stream, self.audio) if stream is not None]
        packets = self._container.demux(streams)
        first, last, last_pts = None, 0.0, -1
        while True:
            start = clock.perf_counter()
            try:
                packet = next(packets)
            except StopIteration:
                break
            except (self._av.error.FFmpegError, ValueError) as error:  # the file ends in the middle of something
                self.broken_packets, self.last_error = self.broken_packets + 1, str(error)
                break
            if packet.stream is self.audio:
                if packet.dts is not None:
                    yield packet
                continue
            try:
                frames = packet.decode()
            except (self._av.error.FFmpegError, ValueError) as error:
                self.broken_packets, self.last_error = self.broken_packets + 1, str(error)
                continue
            for frame in frames:
                image, pts = self._upright(frame), frame.pts
                if pts is None or pts <= last_pts:
                    pts = last_pts + max(1, round(1 / (self.fps * self.time_base)))
                seconds = float(pts * self.time_base)
                first = seconds if first is None else first
                last, last_pts = seconds - first, pts
                self.decode_seconds += clock.perf_counter() - start
                self.frames_read += 1
                yield VideoFrame(image, last, pts)
                start = clock.perf_counter()
            self.decode_seconds += clock.perf_counter() - start

    def _upright(self, frame: Any) -> U8:
        image: U8 = frame.to_ndarray(format="rgb24")
        quarters = round(getattr(frame, "rotation", 0) / 90) % 4  # counter-clockwise, from the display matrix
        return np.ascontiguousarray(np.rot90(image, quarters)) if quarters else image

    def __iter__(self) -> Iterator[Any]:
        while True:
            item = self._queue.get()
            if item is _END:
                return
            if isinstance(item, Exception):
                raise item
            if isinstance(item, VideoFrame):
                self.size = (item.image.shape[1], item.image.shape[0])
            yield item

    def warn_about_damage(self) -> None:
        """Warn (UserWarning) of what the file promised and did not hold, after the last frame."""
        # Other containers count gaps, and an edit list may leave out the frames that another cut needs.
        counted = "mp4" in self._container.format.name
        if self.broken_packets or (counted and self.frames_read < 0.9 * self.n_frames):
            promised = f" of {self.n_frames}" if self.n_frames else ""
            warnings.warn(
                f"{self.name} is damaged or cut short: {self.frames_read}{promised} frames could be read", stacklevel=2
            )

    def close(self) -> None:
        """Stop reading and close the file; safe to call again."""
        self._stop.set()
        self._thread.join()
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_video(source: str | os.PathLike[str] | Webcam) -> Iterator[VideoFrame]:
    """Yield the frames of a video in order, decoded ahead; see `VideoReader` for what it raises.

    >>> tracker = wm3dr.Tracker()
    >>> for frame in wm3dr.read_video("clip.mp4"):
    ...     result = tracker.update(frame.image, frame.time)
    """
    with VideoReader(source) as reader:
        yield from reader
        reader.warn_about_damage()


def container_format(path: str | os.PathLike[str]) -> str:
    """Return FFmpeg's name of the container that the ending of `path` means; ValueError for others."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{path}: videos are written as {', '.join(FORMATS)}, not {suffix or 'without an ending'!r}")
    return FORMATS[suffix]


def video_encoder(name: str | None = None) -> str:
    """Return an encoder that the installed FFmpeg has: `name`, or the first of `ENCODERS`.

    Raises
    ------
    RuntimeError
        It has none.
    """
    av = require("av", "video")
    for candidate in (name,) if name else ENCODERS:
        try:
            if av.codec.Codec(candidate, "w").type == "video":
                return candidate
        except ValueError:  # UnknownCodecError
            continue
    wanted = repr(name) if name else " nor ".join(map(repr, ENCODERS))
    raise RuntimeError(f"the installed FFmpeg (PyAV {av.__version__}) has no video encoder {wanted}")


class VideoWriter:
    """Writes a video into an open file; a context manager that finishes the video unless an error is on its way.

    Parameters
    ----------
    file : binary file, seekable
    size : (int, int)
        (width, height) of the frames, px. H.264 wants even sides: an odd one gets its last row or column twice.
    fps : Fraction
        Mean frame rate.
    time_base : Fraction
        Seconds per unit of the `pts` of `write`.
    container : str
        FFmpeg's name, see `container_format`.
    encoder : str, optional
        FFmpeg's name of an encoder; None takes the first of `ENCODERS`.
    audio : PyAV stream, optional
        Its packets can be passed through; dropped, with a warning, where the container cannot hold them.

    Raises
    ------
    ImportError, RuntimeError
        PyAV is not installed, or the encoder is missing or refuses.
    """

    def __init__(
        self,
        file: BinaryIO,
        size: tuple[int, int],
        fps: Fraction,
        time_base: Fraction,
        *,
        container: str = "mp4",
        encoder: str | None = None,
        audio: Any = None,
    ) -> None:
        self._av = require("av", "video")
        self.encoder = video_encoder(encoder)
        self._container = self._av.open(file, "w", format=container)
        try:
            self._stream = self._container.add_stream(
                self.encoder, rate=fps.limit_denominator(65535), options=OPTIONS.get(self.encoder, {})
            )
            self._stream.width, self._stream.height = (side + side % 2 for side in size)
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = time_base
        except (self._av.error.FFmpegError, ValueError) as error:
            raise RuntimeError(f"encoder {self.encoder} refuses {size[0]} x {size[1]} px: {error}") from error
        self._time_base = time_base
        self._audio = None
        if audio is not None:
            try:
                self._audio = self._container.add_stream_from_template(audio)
            except (self._av.error.FFmpegError, ValueError, RuntimeError) as error:
                warnings.warn(f"audio ({audio.codec_context.name}) is left out: {error}", stacklevel=2)

    def write(self, image: U8, pts: int) -> None:
        """Write a frame (H, W, 3) RGB at a time in units of `time_base`, greater than that before."""
        pad = [(0, side % 2) for side in image.shape[:2]]
        if any(after for _, after in pad):
            image = np.pad(image, [*pad, (0, 0)], mode="edge")
        frame = self._av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = pts, self._time_base
        try:
            self._container.mux(self._stream.encode(frame))
        except (self._av.error.FFmpegError, ValueError) as error:
            if isinstance(error, OSError):
                raise
            raise RuntimeError(f"encoder {self.encoder}: {error}") from error

    def write_audio(self, packet: Any) -> None:
        """Pass a packet of the audio stream through."""
        if self._audio is not None:
            packet.stream = self._audio
            self._container.mux(packet)

    def finish(self) -> None:
        """Write what the encoder still holds, and the end of the file."""
        self._container.mux(self._stream.encode())
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            with contextlib.suppress(Exception):  # the file is going to be removed
                self._container.close()
