"""`wm3dr animate`: frames of a clip, or one photo, as animation data."""

from functools import partial
from pathlib import Path

import click


@click.command()
@click.argument("frames", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FRAME... | FOLDER | VIDEO")
@click.option(
    "-o",
    "--output",
    "outputs",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="FILE.glb, FILE.csv or FILE.json; may be given several times.",
)
@click.option(
    "--fps",
    default=25.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Of image files; videos have times.",
)
@click.option(
    "--names", default="arkit", show_default=True, type=click.Choice(["arkit", "model"]), help="Names of the targets."
)
@click.option("--refined", is_flag=True, help="GLB with all vertices of the face model: same surface, larger file.")
@click.option("--max-side", type=click.IntRange(min=32), help="Longer side of the frames for the network, at most.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
def animate(
    frames: tuple[Path, ...],
    outputs: tuple[Path, ...],
    fps: float,
    names: str,
    refined: bool,
    max_side: int | None,
    overwrite: bool,
) -> None:
    """Write faces over time: a GLB with morph targets and keyframes, CSV or JSON of the weights.

    Image files are frames in the order given, those of a folder by name; one file that is no image is a video (pip
    install 'wm3dr[video]'). `wm3dr.Tracker` says who is who. A single photo gives every face with morph targets and
    without keyframes.
    """
    from .animation import SUFFIXES, Clip
    from .cli import _or_exit, _photos_of
    from .files import PHOTO_SUFFIXES

    for path in outputs:
        if path.suffix.lower() not in SUFFIXES:
            raise click.UsageError(f"{path} ends in none of {', '.join(SUFFIXES)}")
        if path.exists() and not overwrite:
            raise click.ClickException(f"{path} exists; --overwrite replaces it")
    photos = [photo for given in frames for photo in (_photos_of(given) if given.is_dir() else [given])]

    def clip_from_photos() -> Clip:
        from tqdm import tqdm

        from .api import DEFAULT_MAX_SIDE, Reconstructor
        from .tracker import Tracker

        model = Reconstructor(max_side=max_side or DEFAULT_MAX_SIDE)
        video = len(photos) == 1 and photos[0].suffix.lower() not in PHOTO_SUFFIXES
        if len(photos) == 1 and not video:
            return Clip.from_results([model.reconstruct(photos[0])])
        tracker, clip = Tracker(model), Clip()
        if video:
            from .video import read_video

            for frame in tqdm(read_video(photos[0]), unit="frame", disable=None, leave=False):
                clip.add(tracker.update(frame.image, frame.time))
            return clip
        for number, photo in enumerate(tqdm(photos, unit="frame", disable=None, leave=False)):
            try:
                clip.add(tracker.update(photo, number / fps))
            except ValueError as error:
                raise ValueError(f"{photo}: {error}") from error
        return clip

    clip = _or_exit(clip_from_photos)
    for path in outputs:
        _or_exit(partial(clip.save, path, names=names, refined=refined))
    n_tracks, n_frames = len(clip.tracks), len(clip)
    click.echo(
        f"{n_frames} frame{'s' * (n_frames != 1)}, {n_tracks} face{'s' * (n_tracks != 1)} -> "
        f"{', '.join(map(str, outputs))}"
    )
