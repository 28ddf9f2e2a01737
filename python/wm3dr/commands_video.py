"""`wm3dr video`: a video or a webcam through the tracker."""

import sys
from pathlib import Path
from typing import Any

import click

_SAVES = ("overlay", "json")


def _saves(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    unknown = [name for name in names if name not in _SAVES]
    if unknown or not names:
        raise click.BadParameter(f"{', '.join(unknown) or 'nothing'} is none of {', '.join(_SAVES)}")
    return names


@click.command()
@click.argument("source", metavar="[VIDEO]", required=False, type=click.Path(path_type=Path))
@click.option("--camera", type=click.IntRange(min=0), help="A webcam by its number, instead of VIDEO; Ctrl-C ends it.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="OUT.mp4, .m4v, .mov or .mkv.")
@click.option("--save", default="overlay", show_default=True, callback=_saves, help="Any of overlay,json.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Stop after this time of the video.")
@click.option("--no-smooth", is_flag=True, help="Pose and expression as measured, frame by frame.")
@click.option("--no-average", is_flag=True, help="Identity and albedo as measured, frame by frame.")
@click.option(
    "--lost-seconds", default=2.0, show_default=True, type=click.FloatRange(min=0), help="An id is kept so long."
)
@click.option("--no-audio", is_flag=True, help="Leave the sound out.")
@click.option("--codec", help="Video encoder by FFmpeg's name; default: H.264 (libx264).")
@click.option("--max-side", type=click.IntRange(min=32), help="Longer side of a frame for the network, at most.")
@click.option("--score-threshold", type=click.FloatRange(0, 1, min_open=True), help="Least score of a face.")
@click.option("--provider", type=click.Choice(["cpu", "cuda"]), help="Where the encoder runs.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads; default: what this process may use.")
@click.option("--encoder", type=click.Path(path_type=Path), help="Another encoder (ONNX).")
@click.option("--face-model", type=click.Path(path_type=Path), help="Another face model (safetensors).")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
def video(
    source: Path | None,
    camera: int | None,
    output: Path,
    save: tuple[str, ...],
    seconds: float | None,
    no_smooth: bool,
    no_average: bool,
    lost_seconds: float,
    no_audio: bool,
    codec: str | None,
    max_side: int | None,
    score_threshold: float | None,
    provider: str | None,
    threads: int | None,
    encoder: Path | None,
    face_model: Path | None,
    overwrite: bool,
) -> None:
    """Follow every face through VIDEO, or a webcam's, with stable ids; needs PyAV (pip install 'wm3dr[video]').

    OUT.mp4 shows meshes, landmarks and ids on the frames, with the sound of VIDEO; --save json writes OUT.jsonl, a
    line per frame. Files appear whole or not at all.
    """
    if (source is None) == (camera is None):
        raise click.UsageError("give either VIDEO or --camera NUMBER")
    from .cli import _or_exit

    summary = _or_exit(
        lambda: _track(
            source,
            camera,
            output,
            {
                "encoder": encoder,
                "face_model": face_model,
                "providers": None if provider is None else _providers(provider),
                "threads": threads,
                "score_threshold": score_threshold,
            }
            | ({} if max_side is None else {"max_side": max_side}),
            {"average": not no_average, "lost_seconds": lost_seconds} | ({"smoothing": None} if no_smooth else {}),
            {"save": save, "audio": not no_audio, "encoder": codec, "overwrite": overwrite, "seconds": seconds},
        )
    )
    total = summary.seconds["total"]
    click.echo(
        f"{summary.frames} frames, {len(summary.ids)} ids, {summary.frames / total:.1f} frames/s ({summary.provider}) "
        f"-> {', '.join(map(str, summary.files))}"
    )
    stages = ("track", "draw", "encode", "json", "wait")
    shares = [f"{stage} {summary.seconds[stage] / total:.0%}" for stage in stages if stage in summary.seconds]
    click.echo(f"time: {', '.join(shares)}; decoding beside it {summary.seconds['decode'] / total:.0%}", err=True)


def _track(
    source: Path | None,
    camera: int | None,
    output: Path,
    model: dict[str, Any],
    tracking: dict[str, Any],
    options: dict[str, Any],
) -> Any:
    from tqdm import tqdm

    from .api import Reconstructor
    from .tracker import Tracker
    from .video import webcam
    from .video_tracking import output_files, track_video

    output_files(output, options["save"])
    taken = webcam(camera) if camera is not None else source
    assert taken is not None
    if isinstance(taken, Path) and not taken.exists():
        raise FileNotFoundError(f"no such file: {taken}")
    tracker = Tracker(Reconstructor(**model), **tracking)
    with tqdm(unit="frame", disable=None, leave=False, file=sys.stderr) as bar:

        def progress(reader: Any) -> None:
            bar.total = reader.n_frames or None
            bar.update()

        return track_video(taken, output, tracker, **options, progress=progress)


def _providers(provider: str) -> list[str]:
    from .cli import _providers as providers

    return providers(provider)
