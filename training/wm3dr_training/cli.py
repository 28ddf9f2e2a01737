"""The command line `wm3dr-train`. Thin: it parses, calls the package and prints; torch is imported inside the verbs."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from wm3dr_training.config import TrainConfig

OUTSIDE_VERBS = {
    "label": ("wm3dr_training.data.label:label", "Photos to landmarks, skin masks and the arrays training reads."),
    "build-face-model": (
        "wm3dr_training.face_model.build:build_face_model",
        "ICT geometry and London photos to the default face model.",
    ),
    "evaluate": ("wm3dr_training.evaluate.command:evaluate", "Measure any encoder file through the public wm3dr API."),
}
"""Verb -> (module:command, short help); the module is imported when the verb is used."""
_ERRORS = (OSError, ValueError, TypeError, RuntimeError, ImportError, FloatingPointError)


class _LazyGroup(click.Group):
    """A group whose outside verbs are imported when they are used, so that `--help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        order = ["label", "build-face-model", "stage1", "stage2", "export", "evaluate", "import-checkpoint"]
        return [name for name in order if name in OUTSIDE_VERBS or name in self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in OUTSIDE_VERBS:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = OUTSIDE_VERBS[cmd_name][0].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            known = OUTSIDE_VERBS.get(name)
            rows.append((name, known[1] if known else self.commands[name].get_short_help_str(90)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wm3dr-training", prog_name="wm3dr-train")
def main() -> None:
    """Train wm3dr's encoder by weak supervision: label, stage1, stage2, export."""


def _reported(function: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors a user can cause into one line and exit status 1."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except _ERRORS as error:
            raise click.ClickException(f"{error}" or type(error).__name__) from error

    return wrapped


def _pairs(_context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    for value in values:
        if "=" not in value:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE")
    return dict(value.split("=", 1) for value in values)


def _sources(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(name.strip() for name in value.split(",") if name.strip())


_TRAIN_OPTIONS = [
    click.option("--labels", required=True, type=click.Path(path_type=Path), help="Folder that `label` wrote."),
    click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of this run; resumed if begun."),
    click.option("--face-model", type=click.Path(path_type=Path), help="Face-model file; default: wm3dr's own."),
    click.option("--profile", type=click.Choice(["paper", "fast"]), default="fast", show_default=True),
    click.option("--backbone", help="resnet50, efficientnet_lite0 or mobilenetv4_conv_small; default: the profile's."),
    click.option("--sources", callback=_sources, help="Comma-separated; default: every source that is labelled."),
    click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Budget, over all resumed parts."),
    click.option("--iterations", type=click.IntRange(min=1), help="Budget in steps."),
    click.option("--size", type=click.IntRange(min=32), help="Side of the input, pixels, a multiple of 32."),
    click.option("--batch", type=click.IntRange(min=1), help="Images a step."),
    click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True)),
    click.option("--render-share", type=click.FloatRange(0, 1), help="Share of the faces with image terms."),
    click.option("--mobileface", type=click.Path(path_type=Path), help="Folder of the embedding (perceptual term)."),
    click.option("--correspondence", type=click.Path(path_type=Path), help="MediaPipe's points on the model (.npz)."),
    click.option("--frozen", multiple=True, help="Prefix of parameters not to train; may be repeated; '' for none."),
    click.option("--weight", "weights", multiple=True, callback=_pairs, metavar="TERM=W", help="Weight of a loss."),
    click.option("--set", "settings", multiple=True, callback=_pairs, metavar="FIELD=V", help="Any other setting."),
    click.option("--amp", is_flag=True, help="bfloat16 autocast."),
    click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N; auto: CUDA where there is."),
    click.option("--threads", type=click.IntRange(min=1), help="Threads of torch."),
    click.option("--seed", type=int, default=0, show_default=True),
    click.option("--profile-steps", type=click.IntRange(min=1), help="Only time that many steps, part by part."),
]


def _with_train_options(function: Callable[..., None]) -> Callable[..., None]:
    return functools.reduce(lambda f, option: option(f), reversed(_TRAIN_OPTIONS), function)


def training_config(stage: int, profile: str, **options: Any) -> TrainConfig:
    """The configuration that the options of `stage1` and `stage2` describe; None takes the profile's value.

    Raises
    ------
    FileNotFoundError
        Labels, the face model or MobileFace's folder are missing.
    ValueError
        An unknown loss term or setting, or a value out of range.
    """
    from wm3dr.files import DEFAULT_FACE_MODEL
    from wm3dr_training.config import fast_stage, paper_stage

    labels = Path(options["labels"])
    available = tuple(sorted(path.stem.removeprefix("train_") for path in labels.glob("train_*.npz")))
    if not available:
        raise FileNotFoundError(f"'labels' {labels} holds no train_*.npz: run `wm3dr-train label --out {labels}` first")
    face_model = Path(options.get("face_model") or DEFAULT_FACE_MODEL)
    if not face_model.is_file():
        raise FileNotFoundError(f"'face_model' {face_model} does not exist")
    values: dict[str, Any] = {
        "labels": str(labels),
        "face_model": str(face_model),
        "sources": options.get("sources") or available,
        "seed": options.get("seed", 0),
        "amp": options.get("amp", False),
    }
    if options.get("correspondence"):
        values["correspondence"] = str(options["correspondence"])
    for name in ("backbone", "size", "batch", "learning_rate", "render_share"):
        if options.get(name) is not None:
            values[name] = options[name]
    if options.get("frozen"):
        values["frozen"] = tuple(prefix for prefix in options["frozen"] if prefix)
    if options.get("minutes") or options.get("iterations"):
        values |= {"minutes": options.get("minutes") or 0.0, "iterations": options.get("iterations") or 0}
    values |= _typed_settings(options.get("settings") or {})
    config = (paper_stage if profile == "paper" else fast_stage)(stage, **values)
    config = replace(config, losses=replace(config.losses, **_typed_weights(options.get("weights") or {})))
    if config.render_share > 0 and config.losses.perceptual > 0:
        config = replace(config, mobileface=str(_mobileface(options.get("mobileface"))))
    return config


_PARSERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": {"true": True, "false": False}.__getitem__,
}


def _typed_settings(settings: dict[str, str]) -> dict[str, Any]:
    from wm3dr_training.config import TrainConfig

    known = {field.name: field.type for field in fields(TrainConfig) if field.type in ("int", "float", "str", "bool")}
    typed: dict[str, Any] = {}
    for name, text in settings.items():
        if name not in known:
            raise ValueError(f"'--set' names {name!r}, expected one of {', '.join(sorted(known))}")
        try:
            typed[name] = _PARSERS[known[name]](text)
        except (ValueError, KeyError) as error:
            raise ValueError(f"'--set {name}' is {text!r}, expected {known[name]}") from error
    return typed


def _typed_weights(weights: dict[str, str]) -> dict[str, float]:
    from wm3dr_training.config import LossWeights

    known = [field.name for field in fields(LossWeights)]
    for name in weights:
        if name not in known:
            raise ValueError(f"'--weight' names {name!r}, expected one of {', '.join(known)}")
    return {name: float(text) for name, text in weights.items()}


def _mobileface(given: Path | None) -> Path:
    from wm3dr_training.photometric import default_mobileface

    folder = given or default_mobileface()
    if not (folder / "mobileface_v2.npz").exists():
        raise FileNotFoundError(
            f"'mobileface' {folder} holds no mobileface_v2.npz, which the perceptual term needs: "
            "pass --mobileface FOLDER, or do without it by --weight perceptual=0"
        )
    return folder


def pick_device(name: str) -> str:
    """ "auto" -> cuda where torch has it, else cpu; anything else is returned unchanged."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def _train(
    stage: int,
    start_from: Path | None,
    out: Path,
    device: str,
    threads: int | None,
    profile_steps: int | None,
    options: dict[str, Any],
) -> None:
    config = training_config(stage, **options)
    import torch

    from wm3dr_training.trainer import Trainer

    if threads:
        torch.set_num_threads(threads)
    trainer = Trainer(config, out, pick_device(device), start_from)
    where = f"resumed at step {trainer.step}" if trainer.step else "from the beginning"
    click.echo(f"stage {stage}, {config.backbone}, {len(trainer.data.bank)} faces, {trainer.device}, {where}: {out}")
    if profile_steps:
        from wm3dr_training.profile_steps import profile_steps as profiled

        click.echo(profiled(trainer, profile_steps).table())
        return
    if trainer.progress() >= 1.0:
        click.echo("the budget is spent already; raise --minutes or --iterations to go on")
        return
    measures = trainer.run()
    click.echo(" ".join(f"{name}={value:.3f}" for name, value in measures.items()))
    click.echo(f"checkpoints: {out / 'last.pt'}, {out / 'best.pt'}; export with `wm3dr-train export {out / 'best.pt'}`")


@main.command()
@_with_train_options
@click.option("--start-from", type=click.Path(path_type=Path), help="Checkpoint whose weights to begin with.")
@_reported
def stage1(
    start_from: Path | None,
    out: Path,
    device: str,
    threads: int | None,
    profile_steps: int | None,
    **options: Any,
) -> None:
    """Train on single centred faces. Run the same command again to go on after an interruption."""
    _train(1, start_from, out, device, threads, profile_steps, options)


@main.command()
@_with_train_options
@click.option("--start-from", type=click.Path(path_type=Path), help="Checkpoint of stage 1.")
@_reported
def stage2(
    start_from: Path | None,
    out: Path,
    device: str,
    threads: int | None,
    profile_steps: int | None,
    **options: Any,
) -> None:
    """Train on composed photos of many faces, all losses. Run the same command again to go on."""
    _train(2, start_from, out, device, threads, profile_steps, options)


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="ONNX file to write.")
@click.option("--face-model", type=click.Path(path_type=Path), help="Face-model file; default: wm3dr's own.")
@click.option("--licence", help="Terms of the weights; default: those of the sources in shared data.")
@click.option("--float16", is_flag=True, help="Store the weights as float16: half the file, computed in float32.")
@click.option("--int8", type=click.Path(path_type=Path), help="Also write a static int8 file here.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of packs: calibration and accuracy of --int8.")
@_reported
def export(
    checkpoint: Path,
    out: Path,
    face_model: Path | None,
    licence: str | None,
    float16: bool,
    int8: Path | None,
    data: Path | None,
) -> None:
    """Write a checkpoint's averaged encoder as ONNX, parity with torch measured first."""
    from wm3dr.files import DEFAULT_FACE_MODEL

    if int8 is not None and data is None:
        raise click.UsageError("--int8 needs --data, the folder of packs to calibrate on")
    if int8 is not None and float16:
        raise click.UsageError("--int8 is made from float32 weights: leave --float16 out")
    from wm3dr_training.export import LICENCE, export_checkpoint

    model = face_model or DEFAULT_FACE_MODEL
    summary = export_checkpoint(checkpoint, model, out, licence or LICENCE, float16)
    click.echo(json.dumps(summary, indent=1))
    if int8 is not None and data is not None:
        from wm3dr_training.quantize import quantize_and_compare

        click.echo(quantize_and_compare(out, int8, model, data))


@main.command("import-checkpoint")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="ONNX file to write.")
@click.option("--face-model", required=True, type=click.Path(path_type=Path), help="Face model made from BFM 2009.")
@_reported
def import_checkpoint(checkpoint: Path, out: Path, face_model: Path) -> None:
    """Turn the WM3DR authors' final.pth into an encoder file for a BFM face model."""
    from wm3dr_training.import_checkpoint import import_authors_checkpoint

    click.echo(json.dumps(import_authors_checkpoint(checkpoint, face_model, out), indent=1))


if __name__ == "__main__":
    main()
