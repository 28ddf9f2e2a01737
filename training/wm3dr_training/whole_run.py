"""Both stages and the export within one budget, from shards: one command for a borrowed machine with a GPU.

    python -m wm3dr_training.whole_run --shards shards/ --out run/ --backbone resnet50 --minutes 25

On CUDA: bf16 autocast, TF32, channels last, everything but the rasterizer on the device. Run again after an
interruption it goes on where it was; what the budget has spent stays spent.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

STAGE1_SHARE = 0.45  # of the minutes
SIZES = {  # on CUDA: METHOD's sizes and batches
    1: {"size": 224, "batch": 128},
    2: {"size": 512, "batch": 32, "largest_face": 400.0, "render_limit": 64, "close_share": 0.0},
}
SMALL_ON_CUDA = {"warmup": 100, "validate_every": 500, "picture_every": 2000, "checkpoint_every": 500}


def stage_configs(
    labels: Path,
    face_model: Path,
    backbone: str,
    minutes: float,
    on_cuda: bool,
    settings: dict[str, str],
    mobileface: Path | None = None,
) -> list[Any]:
    """Configurations of the two stages: profile `fast`, on CUDA at METHOD's sizes and with every parameter trained.

    settings: fields as text, as `--set` takes them, for both stages.
    """
    from wm3dr_training.cli import training_config

    configs = []
    for stage, share in ((1, STAGE1_SHARE), (2, 1 - STAGE1_SHARE)):
        wanted = {"labels": labels, "face_model": face_model, "backbone": backbone, "minutes": minutes * share}
        config = training_config(stage, "fast", **wanted, amp=on_cuda, mobileface=mobileface, settings=settings)
        if on_cuda:
            fixed = {name: value for name, value in (SIZES[stage] | SMALL_ON_CUDA).items() if name not in settings}
            config = replace(config, frozen=(), **fixed)
        configs.append(config)
    return configs


def run(configs: list[Any], out: Path, device: str, face_model: Path, float16: bool = True) -> dict[str, Any]:
    """Train the stages one after the other and export the best weights of the last; returns the export's summary."""
    from wm3dr_training.export import export_checkpoint
    from wm3dr_training.trainer import Trainer

    start_from = None
    for config in configs:
        folder = out / f"stage{config.stage}"
        trainer = Trainer(config, folder, device, start_from)
        if trainer.progress() < 1:
            trainer.run()
        start_from = folder / "best.pt"
    summary = export_checkpoint(start_from, face_model, out / "encoder.onnx", float16=float16)
    (out / "encoder.json").write_text(json.dumps(summary, indent=1))
    return summary


def _settings(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    for value in values:
        if "=" not in value:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE")
    return dict(value.split("=", 1) for value in values)


@click.command()
@click.option("--shards", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder of shard_*.zip.")
@click.option("--labels", type=click.Path(path_type=Path), help="Label folder; with --shards, where they are unpacked.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run; resumed if begun.")
@click.option("--minutes", default=25.0, show_default=True, help="Both stages together.")
@click.option("--backbone", default="resnet50", show_default=True)
@click.option("--face-model", type=click.Path(path_type=Path), help="Face-model file; default: wm3dr's own.")
@click.option("--mobileface", type=click.Path(path_type=Path), help="Folder of the embedding (perceptual term).")
@click.option("--set", "settings", multiple=True, callback=_settings, metavar="FIELD=V", help="Of both stages.")
@click.option("--device", default="auto", show_default=True)
@click.option("--float16/--float32", default=True, show_default=True, help="Stored precision of the weights.")
def main(
    shards: Path | None,
    labels: Path | None,
    out: Path,
    minutes: float,
    backbone: str,
    face_model: Path | None,
    mobileface: Path | None,
    settings: dict[str, str],
    device: str,
    float16: bool,
) -> None:
    """Train both stages within a budget and export."""
    from wm3dr.files import DEFAULT_FACE_MODEL
    from wm3dr_training.cli import pick_device
    from wm3dr_training.data.shards import unpack

    if shards is None and labels is None:
        raise click.UsageError("pass --shards or --labels")
    labels = labels or out / "labels"
    try:
        if shards is not None and not any(labels.glob("train_*.npz")):
            found = sorted(shards.glob("shard_*.zip"))
            if not found:
                raise FileNotFoundError(f"'shards' {shards} holds no shard_*.zip")
            partial = labels.with_name(labels.name + ".partial")  # renamed when whole
            shutil.rmtree(partial, ignore_errors=True)
            click.echo(f"unpacked: {unpack(found, partial)}")
            partial.rename(labels)
        where, model = pick_device(device), face_model or DEFAULT_FACE_MODEL
        configs = stage_configs(labels, model, backbone, minutes, where.startswith("cuda"), settings, mobileface)
        click.echo(json.dumps(run(configs, out, where, model, float16), indent=1))
    except (OSError, ValueError, RuntimeError, FloatingPointError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
