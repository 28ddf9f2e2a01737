"""The verb `wm3dr-train evaluate`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click

import wm3dr
from wm3dr_training.data.records import MissingDataError
from wm3dr_training.evaluate.data import Outcome, Setting
from wm3dr_training.evaluate.protocols import OWN_PROTOCOLS
from wm3dr_training.evaluate.report import write_report


def run_protocols(
    setting: Setting,
    protocols: dict[str, Callable[[Setting], Outcome]],
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Outcome], dict[str, str]]:
    """Outcomes by name, and the reasons of those that lack data."""
    outcomes, skipped = {}, {}
    for name, protocol in protocols.items():
        started = time.perf_counter()
        try:
            outcomes[name] = protocol(setting)
        except MissingDataError as error:
            skipped[name] = str(error).splitlines()[0]
        progress(f"{name} ({time.perf_counter() - started:.1f} s)")
    return outcomes, skipped


def _names(_context: click.Context, _option: click.Parameter, value: str | None) -> list[str]:
    names = list(OWN_PROTOCOLS) if value is None else [name.strip() for name in value.split(",")]
    unknown = [name for name in names if name not in OWN_PROTOCOLS]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)} is none of {', '.join(OWN_PROTOCOLS)}")
    return names


@click.command()
@click.argument("encoder", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Folder of packs and of groups/.")
@click.option("--labels", type=click.Path(path_type=Path), help="Folder that `label` wrote: skin, UTKFace's points.")
@click.option(
    "--models", type=click.Path(path_type=Path), help="Folder with yunet/ and mobileface/; default: DATA/../models."
)
@click.option("--face-model", type=click.Path(path_type=Path), help="Face-model file; default: wm3dr's own.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder of the report.")
@click.option("--only", "names", callback=_names, help=f"Comma-separated: {', '.join(OWN_PROTOCOLS)}.")
@click.option("--aflw2000", type=click.Path(path_type=Path), help="Folder of AFLW2000-3D.")
@click.option("--reannotated", type=click.Path(path_type=Path), help="Its corrected points, .npy (n, 68, 2).")
@click.option("--300w", "w300", type=click.Path(path_type=Path), help="Folder of 300-W with its test parts.")
@click.option("--dense", type=click.Path(path_type=Path), help="Folder of photos with NAME.npz: vertices_px (N, 2).")
@click.option("--quick", is_flag=True, help="A part of the photos, about a minute.")
@click.option("--score-threshold", type=click.FloatRange(0, 1, min_open=True), help="Default: the encoder's.")
@click.option("--max-side", type=click.IntRange(min=32), help="Default: wm3dr's.")
@click.option("--threads", type=click.IntRange(min=1))
def evaluate(
    encoder: Path,
    data: Path | None,
    labels: Path | None,
    models: Path | None,
    face_model: Path | None,
    out: Path,
    names: list[str],
    aflw2000: Path | None,
    reannotated: Path | None,
    w300: Path | None,
    dense: Path | None,
    quick: bool,
    score_threshold: float | None,
    max_side: int | None,
    threads: int | None,
) -> None:
    """Measure an encoder file and write table, curves and predictions."""
    from wm3dr_training.evaluate.external import external_protocols

    if data is None and aflw2000 is None and w300 is None and dense is None:
        raise click.UsageError("nothing to measure on: pass --data, --aflw2000, --300w or --dense")
    options = {} if max_side is None else {"max_side": max_side}
    try:
        reconstructor = wm3dr.Reconstructor(
            encoder, face_model, threads=threads, score_threshold=score_threshold, **options
        )
        protocols = {name: OWN_PROTOCOLS[name] for name in names} if data is not None else {}
        protocols |= external_protocols(aflw2000, reannotated, w300, dense)
        folder = data or Path()
        setting = Setting(reconstructor, folder, models or folder.resolve().parent / "models", labels, quick)
        outcomes, skipped = run_protocols(setting, protocols, lambda text: click.echo(text, err=True))
        title = f"{encoder.name}, {'quick ' if quick else ''}evaluation with wm3dr {wm3dr.__version__}"
        click.echo(write_report(out, title, outcomes, skipped))
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error
