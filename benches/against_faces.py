"""Milliseconds against the number of faces: ours, the conventional pipeline and, from files, others; table and chart.

    python benches/against_faces.py --save ours.json
    python benches/against_faces.py --merge ours.json --merge peers.json --chart docs/pictures/ms_against_faces.png
    python benches/against_faces.py --cpu                                   (on a machine that does other work)
    python benches/against_faces.py --provider cuda --encoder float32.onnx

Everything runs in turn, faces outside, ways inside; medians. By default faces are planted into the heatmap of the whole
photo (`wm3dr.bench`), so that their number is exact; with --london they are photos of people, found by the encoder.
A file for --merge is JSON: {"label": {"faces": milliseconds}}.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from conventional import Conventional
from photos import london_photo

import wm3dr
from wm3dr.bench import COUNTS, PlantedEncoder, draw_chart, machine, timed
from wm3dr.encoder import Encoder
from wm3dr.face_model import FaceModel
from wm3dr.threads import check_threads

PLAIN, RENDERED = "wm3dr", "wm3dr with render"
ONE_BY_ONE, BATCHED = "detect + crop + same network, face by face", "the same, crops in one batch"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
Curves = dict[str, dict[int, float]]


def measure(
    encoder: Path | None,
    face_model: FaceModel,
    counts: list[int],
    size: int,
    repeats: int,
    threads: int,
    london: Path | None,
    provider: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Curves, dict[int, int]]:
    """Return medians in milliseconds, and how many faces were found.

    Raises
    ------
    RuntimeError
        `provider` is not in use.
    """
    providers = [PROVIDERS[provider]]
    crops = Encoder(encoder, providers=providers, threads=threads)
    planted = PlantedEncoder(encoder, providers=providers, threads=threads) if london is None else None
    whole = planted or crops
    model = wm3dr.Reconstructor(whole, face_model, threads=threads, max_side=size)
    pipeline = Conventional(whole, crops, face_model, threads, size)
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    photos = {n: noise if london is None else london_photo(london, n, size) for n in counts}
    times: dict[str, dict[int, list[float]]] = {}
    found: dict[int, int] = {}
    for round_ in range(repeats + 1):
        for n in counts:
            photo = photos[n]
            if planted is not None:
                planted.plant(face_model, n, (size, size))
            ways: dict[str, Callable[[], object]] = {
                PLAIN: lambda photo=photo: model.reconstruct(photo),
                RENDERED: lambda photo=photo: model.reconstruct(photo, render=True),
                ONE_BY_ONE: lambda photo=photo: pipeline(photo, batched=False),
                BATCHED: lambda photo=photo: pipeline(photo, batched=True),
            }
            for way, call in ways.items():
                milliseconds, result = timed(call, clock)
                if len(result) != found.setdefault(n, len(result)):
                    raise click.ClickException(f"{way}: {len(result)} faces instead of {found[n]}")
                if round_:
                    times.setdefault(way, {}).setdefault(n, []).append(milliseconds)
    return {way: {n: float(np.median(v)) for n, v in each.items()} for way, each in times.items()}, found


def table(curves: Curves) -> str:
    """Return milliseconds and, in brackets, the ratio to ours without render."""
    counts = sorted({n for points in curves.values() for n in points})
    lines = ["| | " + " | ".join(f"n = {n}" for n in counts) + " |", "|---" * (len(counts) + 1) + "|"]
    for label, points in curves.items():
        cells = []
        for n in counts:
            ours = curves.get(PLAIN, {}).get(n)
            ratio = f" ({points[n] / ours:.1f}×)" if ours and n in points and label != PLAIN else ""
            cells.append(f"{points[n]:.1f}{ratio}" if n in points else "–")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@click.command()
@click.option("--encoder", type=click.Path(path_type=Path), help="Another encoder (ONNX).")
@click.option("--face-model", type=click.Path(path_type=Path), help="Another face model (safetensors).")
@click.option("--faces", default=",".join(map(str, COUNTS)), show_default=True)
@click.option("--size", default=512, show_default=True)
@click.option("--repeats", default=9, show_default=True)
@click.option("--threads", type=click.IntRange(min=1))
@click.option("--london", type=click.Path(path_type=Path, exists=True), help="Folder with london.zip and london.npz.")
@click.option("--provider", type=click.Choice(list(PROVIDERS)), default="cpu", show_default=True)
@click.option("--cpu", is_flag=True, help="Processor time of the process instead of the clock, with one thread.")
@click.option(
    "--merge", multiple=True, type=click.Path(path_type=Path, exists=True), help="Measured curves; no new ones."
)
@click.option("--save", type=click.Path(path_type=Path), help="Write the curves as JSON.")
@click.option("--chart", type=click.Path(path_type=Path), help="Write the chart.")
@click.option("--title", default="512 x 512 photo, two CPU threads", show_default=True)
def main(
    encoder: Path | None,
    face_model: Path | None,
    faces: str,
    size: int,
    repeats: int,
    threads: int | None,
    london: Path | None,
    provider: str,
    cpu: bool,
    merge: tuple[Path, ...],
    save: Path | None,
    chart: Path | None,
    title: str,
) -> None:
    curves: Curves = {}
    for path in merge:
        for label, points in json.loads(path.read_text()).items():
            curves.setdefault(label, {}).update({int(n): float(ms) for n, ms in points.items()})
    if not merge:
        counts = [int(n) for n in faces.split(",")]
        model = FaceModel.load(face_model)
        clock, threads = (time.process_time, 1) if cpu else (time.perf_counter, check_threads(threads))
        try:
            curves, found = measure(encoder, model, counts, size, repeats, threads, london, provider, clock)
        except RuntimeError as error:
            raise click.ClickException(str(error)) from error
        click.echo(
            f"{machine()}, {provider}; {threads} threads; {size} x {size}; medians of {repeats}, milliseconds"
            f"{' of processor time' if cpu else ''}"
        )
        click.echo(f"faces found: {found}")
    click.echo(table(curves))
    if save is not None:
        save.write_text(json.dumps(curves, indent=1) + "\n")
    if chart is not None:
        draw_chart(curves, chart, title)


if __name__ == "__main__":
    main()
