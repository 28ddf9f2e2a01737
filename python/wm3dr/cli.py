"""The command line. Thin: it parses, calls the library and prints."""

import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .commands_animate import animate
from .commands_edit import edit
from .commands_interop import blender_script, serve
from .commands_video import video
from .commands_view import view
from .files import PHOTO_SUFFIXES

if TYPE_CHECKING:
    from .api import Reconstructor
    from .camera import Camera
    from .result import Result

SAVES = {
    "overlay": "_overlay.png",
    "json": ".json",
    "obj": ".obj",
    "ply": ".ply",
    "glb": ".glb",
    "attributes": "_attributes.png",
    "views": "_views.png",
    "maps": "_maps",
    "textured": "_textured.glb",
}
"""What `--save` can name, and how the files (of maps: the folder) end."""
DEFAULT_SAVES = "overlay,json,glb"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ERRORS = (OSError, ValueError, TypeError, RuntimeError, ImportError)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wm3dr")
def main() -> None:
    """Every face in a photo, in 3D, in one forward pass."""
    warnings.showwarning = lambda message, *_: click.echo(f"warning: {message}", err=True)


def _saves(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    unknown = [name for name in names if name not in SAVES]
    if unknown or not names:
        raise click.BadParameter(f"{', '.join(unknown) or 'nothing'} is none of {', '.join(SAVES)}")
    return names


def _counts(_context: click.Context, _option: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        counts = tuple(dict.fromkeys(int(part) for part in value.split(",")))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of numbers like 1,5,10") from None
    if min(counts) < 0:
        raise click.BadParameter(f"{min(counts)} is no number of faces")
    return counts


@main.command()
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PHOTO... | FOLDER")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write to; made if new.")
@click.option("--save", default=DEFAULT_SAVES, show_default=True, callback=_saves, help=f"Any of {','.join(SAVES)}.")
@click.option("--max-side", type=click.IntRange(min=32), help="Longer side of the photo for the network, at most.")
@click.option("--score-threshold", type=click.FloatRange(0, 1, min_open=True), help="Least score of a face.")
@click.option("--fov", type=click.FloatRange(0, 180, min_open=True, max_open=True), help="Horizontal angle, degrees.")
@click.option("--exif", is_flag=True, help="Take the camera from the photo's EXIF data; not done where it has none.")
@click.option(
    "--ipd-mm", type=click.FloatRange(30, 90), help="Distance between everybody's eyes, for real millimetres."
)
@click.option("--provider", type=click.Choice(sorted(PROVIDERS)), help="Where the encoder runs.")
@click.option("--allow-fallback", is_flag=True, help="With --provider cuda: run on the CPU where CUDA cannot be had.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads; default: what this process may use.")
@click.option("--encoder", type=click.Path(path_type=Path), help="Another encoder (ONNX).")
@click.option("--face-model", type=click.Path(path_type=Path), help="Another face model (safetensors).")
@click.option("--overwrite", is_flag=True, help="Replace files that exist; without it their photo is not done.")
def reconstruct(
    photos: tuple[Path, ...],
    output: Path,
    save: tuple[str, ...],
    max_side: int | None,
    score_threshold: float | None,
    fov: float | None,
    exif: bool,
    ipd_mm: float | None,
    provider: str | None,
    allow_fallback: bool,
    threads: int | None,
    encoder: Path | None,
    face_model: Path | None,
    overwrite: bool,
) -> None:
    """Reconstruct every face of the photos (or of all photos in a folder).

    Per photo STEM: STEM_overlay.png, STEM.json (faces, camera, size ...), STEM.glb (the scene with its camera); on
    request STEM.obj, STEM.ply (all faces, vertex colours), STEM_attributes.png, STEM_views.png and the folder STEM_maps
    (face ids, regions, depth, normals, PNCC, visibility). A photo that cannot be done is reported at the end, the rest
    is done, and the exit status is 1.
    """
    if exif and fov is not None:
        raise click.UsageError("--fov and --exif exclude each other")
    jobs = _jobs(photos, output, save)
    try:
        output.mkdir(parents=True, exist_ok=True)
        if not os.access(output, os.W_OK):
            raise PermissionError(f"cannot write to the folder {output}")
        from .api import DEFAULT_MAX_SIDE, Reconstructor

        model = Reconstructor(
            encoder,
            face_model,
            providers=None if provider is None else _providers(provider),
            threads=threads,
            max_side=DEFAULT_MAX_SIDE if max_side is None else max_side,
            score_threshold=score_threshold,
            allow_fallback=allow_fallback,
        )
    except _ERRORS as error:
        raise click.ClickException(_reason(error)) from error
    failures, n_faces = _run(jobs, model, overwrite, lambda photo: _camera(photo, fov, exif), ipd_mm)
    done = len(jobs) - len(failures)
    click.echo(f"{done} photo{'s' * (done != 1)}, {n_faces} face{'s' * (n_faces != 1)} ({model.provider}) -> {output}")
    for photo, reason in failures:
        click.echo(f"not done: {photo}: {reason}", err=True)
    if failures:
        sys.exit(1)


def _run(
    jobs: Sequence[tuple[Path, dict[str, Path]]],
    model: "Reconstructor",
    overwrite: bool,
    camera_of: Callable[[Path], "Camera | None"],
    ipd_mm: float | None,
) -> tuple[list[tuple[Path, str]], int]:
    """Do the photos; return those that failed, with the reason, and the number of faces."""
    from tqdm import tqdm

    failures, n_faces = [], 0
    for photo, files in tqdm(jobs, unit="photo", disable=None if len(jobs) > 1 else True, leave=False):
        try:
            existing = [str(path) for path in files.values() if path.exists()]
            if existing and not overwrite:
                raise FileExistsError(f"{', '.join(existing)} exists; --overwrite replaces it")
            result = model.reconstruct(photo, camera_of(photo), ipd_mm=ipd_mm)
            n_faces += len(result)
            for name, path in files.items():
                _save(result, photo, name, path)
        except _ERRORS as error:
            failures.append((photo, _reason(error)))
    return failures, n_faces


def _camera(photo: Path, fov: float | None, exif: bool) -> "Camera | None":
    """Return the camera that the options ask for; None leaves it to the network."""
    if fov is None and not exif:
        return None
    from .camera import Camera

    if exif:
        return Camera.from_exif(photo)
    from .exif import upright_size

    return Camera.from_fov(upright_size(photo), horizontal=fov)


def _save(result: "Result", photo: Path, name: str, path: Path) -> None:
    if name in ("obj", "ply") and not len(result):
        return  # a mesh file without faces is no mesh file
    if name == "maps":
        result.save_maps(path)
        return
    if name == "textured":
        from .texture import fitting_textures

        result.save(path, textures=fitting_textures(result.faces, photo))
        return
    if path.suffix != ".png":
        result.save(path)
        return
    from .files import whole_file

    picture = result.draw(photo, name)
    with whole_file(path) as file:
        picture.save(file, format="PNG", compress_level=4)


def _jobs(photos: Sequence[Path], output: Path, save: Sequence[str]) -> list[tuple[Path, dict[str, Path]]]:
    """Return every photo with the files to write; photos that would write the same files get their suffix into it."""
    found = [photo for given in photos for photo in (_photos_of(given) if given.is_dir() else [given])]
    found = list(dict.fromkeys(found))
    stems = Counter(photo.stem for photo in found)
    names = [photo.stem if stems[photo.stem] == 1 else photo.name.replace(".", "_") for photo in found]
    for name, count in Counter(names).items():
        if count > 1:
            same = [str(photo) for photo, other in zip(found, names, strict=True) if other == name]
            raise click.UsageError(f"{' and '.join(same)} would write the same files; give them in separate runs")
    return [
        (photo, {kind: output / f"{name}{SAVES[kind]}" for kind in save})
        for photo, name in zip(found, names, strict=True)
    ]


def _photos_of(folder: Path) -> list[Path]:
    photos = sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file())
    if not photos:
        raise click.UsageError(f"no photo in {folder} (looked for {', '.join(sorted(PHOTO_SUFFIXES))})")
    return photos


def _providers(provider: str) -> list[str]:
    return [PROVIDERS[provider]] if provider == "cpu" else [PROVIDERS[provider], PROVIDERS["cpu"]]


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


@main.command()
def doctor() -> None:
    """Show versions, providers and model files; say what is wrong and the command that repairs it."""
    from .doctor import examine

    report = examine()
    for title, rows in report.sections.items():
        click.secho(title, bold=True)
        for name, value in rows:
            click.echo(f"  {name:<24} {value}")
    for problem in report.problems:
        click.secho(f"problem: {problem.what}", fg="red")
        click.echo(f"  repair: {problem.repair}")
    if report.problems:
        sys.exit(1)
    click.secho("nothing is wrong", fg="green")


@main.command()
@click.option("--faces", default="1,2,5,10,20,50,100", show_default=True, callback=_counts, help="Numbers of faces.")
@click.option("--size", default=512, show_default=True, type=click.IntRange(min=32), help="Side of the photo, pixels.")
@click.option("--repeats", default=15, show_default=True, type=click.IntRange(min=1), help="Calls behind each median.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads; default: what this process may use.")
@click.option("--provider", type=click.Choice(sorted(PROVIDERS)), help="Where the encoder runs.")
@click.option("--encoder", type=click.Path(path_type=Path), help="Another encoder (ONNX).")
@click.option("--face-model", type=click.Path(path_type=Path), help="Another face model (safetensors).")
@click.option("--chart", type=click.Path(path_type=Path), help="Save milliseconds against faces as a picture.")
def bench(
    faces: tuple[int, ...],
    size: int,
    repeats: int,
    threads: int | None,
    provider: str | None,
    encoder: Path | None,
    face_model: Path | None,
    chart: Path | None,
) -> None:
    """Measure on this machine: milliseconds by stage against the number of faces, as a Markdown table.

    The encoder runs in full on noise; its faces are then planted, so that their number is known. The picture of --chart
    needs matplotlib (pip install 'wm3dr[bench]').
    """
    from . import bench as measuring
    from .files import DEFAULT_ENCODER, DEFAULT_FACE_MODEL
    from .threads import check_threads

    with click.progressbar(length=repeats + 1, label="measuring", file=sys.stderr) as bar:
        measured = _or_exit(
            lambda: measuring.measure(
                encoder,
                face_model,
                counts=faces,
                size=size,
                repeats=repeats,
                threads=threads,
                providers=None if provider is None else _providers(provider),
                progress=lambda: bar.update(1),
            )
        )
    used = check_threads(threads)
    click.echo(f"{measuring.machine()}; {used} threads; {size} x {size} photo; medians of {repeats}, milliseconds")
    click.echo(measuring.table(measured))
    files = (encoder or DEFAULT_ENCODER, face_model or DEFAULT_FACE_MODEL)
    milliseconds, peak = _or_exit(lambda: measuring.cold_start(*files, used, size))
    click.echo(f"new process on the CPU: {milliseconds:.0f} ms from import to the first result, {peak:.0f} MiB at most")
    if chart is not None:
        curves = {
            "wm3dr": {m.faces: m.plain for m in measured},
            "wm3dr with render": {m.faces: m.rendered for m in measured},
        }
        _or_exit(lambda: measuring.draw_chart(curves, chart, f"{size} x {size} photo, {used} threads"))
        click.echo(f"chart: {chart}")


main.add_command(blender_script)
main.add_command(serve)
main.add_command(video)
main.add_command(view)
main.add_command(animate)
main.add_command(edit)


@main.group("face-model")
def face_model() -> None:
    """Face models: what one is, and importing BFM 2009."""


@face_model.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
def info(file: Path | None) -> None:
    """Print what the face model FILE is (default: the one of the wheel)."""
    from .face_model import FaceModel

    summary = _or_exit(lambda: FaceModel.load(file).summary())
    for name, value in summary.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {count}" for key, count in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        click.echo(f"{name:<18} {value}")


@face_model.command("import-bfm")
@click.argument("source", type=click.Path(path_type=Path), metavar="BFM_model_front.mat")
@click.argument("target", type=click.Path(path_type=Path), metavar="OUT.safetensors")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
def import_bfm(source: Path, target: Path, overwrite: bool) -> None:
    """Convert the Basel Face Model 2009 for those who hold its licence.

    Reads the file of the Deep3DFaceReconstruction family. OUT falls under the licence of the Basel Face Model: it may
    not be redistributed.
    """
    from . import bfm

    if target.exists() and not overwrite:
        raise click.ClickException(f"{target} exists; --overwrite replaces it")
    model = _or_exit(lambda: bfm.import_bfm(source, target))
    click.echo(f"{target}: {model.n_vertices} vertices, {model.n_triangles} triangles, {model.widths}")
    click.echo(f"licence: {bfm.LICENCE}")
    click.echo("This file may not be redistributed, nor may encoders be published together with it.")


def _or_exit(action: Callable[[], Any]) -> Any:
    """Run the action; print what the caller can mend as an error, without a traceback."""
    try:
        return action()
    except _ERRORS as error:
        raise click.ClickException(_reason(error)) from error
