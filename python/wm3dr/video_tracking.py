"""A whole video through the tracker, into a video with the faces drawn on it and a line of JSON per frame."""

import contextlib
import json
import os
import time as clock
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .files import whole_file
from .optional import require
from .tracker import Tracker
from .video import VideoFrame, VideoReader, VideoWriter, Webcam, container_format, video_encoder
from .video_overlay import draw_frame

VIDEO_SAVES = ("overlay", "json")


@dataclass
class VideoSummary:
    """What was done, and where the time went."""

    files: tuple[Path, ...]
    """The files written."""
    frames: int = 0
    """Frames done."""
    ids: set[int] = field(default_factory=set)
    """Tracks seen."""
    provider: str = ""
    """The execution provider that ran the encoder."""
    encoder: str = ""
    """The video encoder, if any."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by stage: wait (for the next frame), track, draw, encode, json; decode (beside the others) and total."""


def track_video(
    source: str | os.PathLike[str] | Webcam,
    output: str | os.PathLike[str],
    tracker: Tracker | None = None,
    *,
    save: Sequence[str] = ("overlay",),
    audio: bool = True,
    encoder: str | None = None,
    overwrite: bool = False,
    seconds: float | None = None,
    progress: Callable[[VideoReader], Any] | None = None,
) -> VideoSummary:
    """Follow the faces of a video and write what was found.

    Files appear whole or not at all. Ctrl-C ends a webcam's recording, which is then kept; while a file is done, it
    leaves nothing.

    Parameters
    ----------
    source : path or Webcam
        See `VideoReader`.
    output : path
        .mp4, .m4v, .mov or .mkv.
    tracker : Tracker, optional
        None takes a new one with all defaults.
    save : sequence of "overlay" and "json"
        The video with meshes, landmarks and ids on it; and beside it, ending in .jsonl, a line per frame with
        everything of `TrackedResult.to_dict`.
    audio : bool
        Pass the first audio stream through.
    encoder : str, optional
        FFmpeg's name of a video encoder; None takes H.264 where it can be had.
    overwrite : bool
        Replace files that exist.
    seconds : float, optional
        Stop after this time of the video.
    progress : callable, optional
        Called with the reader after every frame.

    Raises
    ------
    ImportError
        PyAV is not installed.
    FileNotFoundError, ValueError
        `source` is no video, or holds no frame; an argument is out of range.
    FileExistsError
        A file exists, and `overwrite` is false.
    RuntimeError
        There is no such video encoder, or it refuses the video.
    OSError
        A file cannot be written.
    """
    require("av", "video")
    files = output_files(output, save)
    existing = [str(path) for path in files.values() if path.exists()]
    if existing and not overwrite:
        raise FileExistsError(f"{', '.join(existing)} exists; --overwrite replaces it")
    container = container_format(output)
    chosen = video_encoder(encoder) if "overlay" in files else ""
    tracker = Tracker() if tracker is None else tracker
    summary = VideoSummary(tuple(files.values()), encoder=chosen)
    start = clock.perf_counter()
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(VideoReader(source, audio=audio and "overlay" in files))
        opened = {name: stack.enter_context(whole_file(path)) for name, path in files.items()}
        writer: VideoWriter | None = None
        early: list[Any] = []  # audio before the first frame
        watch = _Watch(summary.seconds)
        with contextlib.suppress(KeyboardInterrupt) if reader.live else contextlib.nullcontext():
            for item in reader:
                watch.lap("wait")
                if not isinstance(item, VideoFrame):
                    early.append(item) if writer is None else writer.write_audio(item)
                    continue
                if seconds is not None and item.time >= seconds:
                    break
                result = tracker.update(item.image, item.time)
                watch.lap("track")
                if "json" in opened:
                    line = json.dumps({"frame": summary.frames, **result.to_dict()}, separators=(",", ":"))
                    opened["json"].write(line.encode() + b"\n")
                    watch.lap("json")
                if "overlay" in opened:
                    picture = draw_frame(result, item.image)
                    watch.lap("draw")
                    if writer is None:
                        writer = stack.enter_context(
                            VideoWriter(
                                opened["overlay"],
                                result.size,
                                reader.fps,
                                reader.time_base,
                                container=container,
                                encoder=chosen,
                                audio=reader.audio,
                            )
                        )
                        for packet in early:
                            writer.write_audio(packet)
                    writer.write(picture, item.pts)
                    watch.lap("encode")
                summary.frames += 1
                summary.ids.update(face.id for face in result)
                summary.provider = result.provider
                if progress is not None:
                    progress(reader)
        if not summary.frames:
            raise ValueError(f"{reader.name} holds no frame that can be decoded: {reader.last_error}")
        if seconds is None and not reader.live:
            reader.warn_about_damage()
    summary.seconds["decode"] = reader.decode_seconds
    summary.seconds["total"] = clock.perf_counter() - start
    return summary


def output_files(output: str | os.PathLike[str], save: Sequence[str]) -> dict[str, Path]:
    """Return the file of every name in `save`; ValueError for other names or none."""
    unknown = [name for name in save if name not in VIDEO_SAVES]
    if unknown or not save:
        raise ValueError(f"'save' names {', '.join(map(repr, unknown)) or 'nothing'}, not any of {VIDEO_SAVES}")
    path = Path(output)
    container_format(path)
    return {name: path if name == "overlay" else path.with_suffix(".jsonl") for name in dict.fromkeys(save)}


class _Watch:
    """Adds up the seconds between laps."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds, self._last = seconds, clock.perf_counter()

    def lap(self, stage: str) -> None:
        now = clock.perf_counter()
        self._seconds[stage] = self._seconds.get(stage, 0.0) + now - self._last
        self._last = now
