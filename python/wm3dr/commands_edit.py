"""`wm3dr edit`: faces of a photo with another expression or light, put back into it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .edit import LIGHTS, retarget

if TYPE_CHECKING:
    from .result import Face, Result

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
SCENES = (".glb", ".obj", ".ply", ".json")
QUALITY = 95
"""Of JPEG and WebP files."""


def _weights(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    weights = {}
    for value in (part for given in values for part in given.split(",")):
        name, _, weight = value.partition("=")
        try:
            weights[name.strip()] = float(weight)
        except ValueError:
            raise click.BadParameter(f"{value!r} is not NAME=WEIGHT, like jawOpen=0.6") from None
    return weights


@click.command()
@click.argument("photo", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The photo with the edited faces as .png, .jpg or .webp; or all faces as .glb, .obj, .ply or .json.",
)
@click.option(
    "--face",
    "numbers",
    multiple=True,
    type=click.IntRange(min=0),
    help="Number of a face, as `wm3dr view` shows it; may be given several times. Default: all.",
)
@click.option("--neutral", is_flag=True, help="Set all weights to zero, before --expression.")
@click.option("--retarget", "source", type=click.IntRange(min=0), help="Number of a face: take its expression.")
@click.option(
    "--expression",
    "weights",
    multiple=True,
    callback=_weights,
    metavar="NAME=WEIGHT[,...]",
    help="Set a blendshape by ARKit's name or the face model's, like jawOpen=0.6; may be given several times.",
)
@click.option("--light", type=click.Choice(list(LIGHTS)), help="Where the light comes from, seen in the photo.")
@click.option(
    "--mode",
    default="photo",
    show_default=True,
    type=click.Choice(["photo", "model"]),
    help="The photo itself, moved and lit anew, or the model's own colours.",
)
@click.option("--max-side", type=click.IntRange(min=32), help="Longer side of the photo for the network, at most.")
@click.option("--score-threshold", type=click.FloatRange(0, 1, min_open=True), help="Least score of a face.")
@click.option("--encoder", type=click.Path(path_type=Path), help="Another encoder (ONNX).")
@click.option("--face-model", type=click.Path(path_type=Path), help="Another face model (safetensors).")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def edit(
    photo: Path,
    output: Path,
    numbers: tuple[int, ...],
    neutral: bool,
    source: int | None,
    weights: dict[str, float],
    light: str | None,
    mode: str,
    max_side: int | None,
    score_threshold: float | None,
    encoder: Path | None,
    face_model: Path | None,
    overwrite: bool,
) -> None:
    """Give faces of PHOTO another expression or another light, and put them back into it.

    Pictures of people that were edited are easily taken for real ones: say that they are edited.
    """
    from .cli import _or_exit

    suffix = output.suffix.lower()
    if suffix not in PICTURES and suffix not in SCENES:
        raise click.UsageError(f"{output} ends in none of {', '.join((*PICTURES, *SCENES))}")
    if not (neutral or source is not None or weights or light):
        raise click.UsageError("nothing to edit: give --expression, --neutral, --retarget or --light")
    if neutral and source is not None:
        raise click.UsageError("--neutral and --retarget exclude each other")
    if output.exists() and not overwrite:
        raise click.ClickException(f"{output} exists; --overwrite replaces it")

    def write() -> int:
        from .api import DEFAULT_MAX_SIDE, Reconstructor

        model = Reconstructor(
            encoder, face_model, max_side=max_side or DEFAULT_MAX_SIDE, score_threshold=score_threshold
        )
        result = model.reconstruct(photo)
        if not len(result):
            raise ValueError(f"no face in {photo}")
        for number in (*numbers, *(() if source is None else (source,))):
            if number >= len(result):
                raise ValueError(f"there is no face {number}: {photo} has {_counted(len(result))}, from number 0")
        chosen = [result[number] for number in dict.fromkeys(numbers)] if numbers else list(result)
        taken = None if source is None else result[source]
        edited = [_edited(face, taken, neutral, weights, light) for face in chosen]
        _save(result, photo, edited, output, mode)
        return len(edited)

    click.echo(f"{_counted(_or_exit(write))} edited -> {output}")


def _edited(face: "Face", source: "Face | None", neutral: bool, weights: dict[str, float], light: str | None) -> "Face":
    if neutral:
        face = face.neutral()
    if source is not None:
        face = retarget(source, face)
    if weights:
        face = face.with_expression(weights)
    return face if light is None else face.with_illumination(light)


def _save(result: "Result", photo: Path, edited: "list[Face]", output: Path, mode: str) -> None:
    kind = PICTURES.get(output.suffix.lower())
    if kind is None:
        result.with_faces(edited).save(output)
        return
    from .files import whole_file

    picture = result.composite(photo, edited, mode="model" if mode == "model" else "photo")
    with whole_file(output) as file:
        picture.save(file, format=kind, **({} if kind == "PNG" else {"quality": QUALITY}))


def _counted(faces: int) -> str:
    return f"{faces} face{'s' * (faces != 1)}"
