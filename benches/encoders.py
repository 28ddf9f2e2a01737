"""Encoder files beside each other: python benches/encoders.py FILE FILE … [--size 512] [--threads 2] [--cpu]

The same photo goes through all in turn; the first is what the others are compared with. Pixels in, maps out: what an
older contract version needs for conversions counts. With --kernels each file runs by onnxruntime's kernels and by those
of this package, which give the same bits: python benches/encoders.py models/wm3dr-lite.onnx --kernels
"""

import time
from pathlib import Path

import click
import numpy as np

from wm3dr.bench import machine
from wm3dr.encoder import Encoder
from wm3dr.threads import check_threads


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--size", default=512, show_default=True, help="Side of the photo, a multiple of 32.")
@click.option("--threads", type=click.IntRange(min=1))
@click.option("--repeats", type=click.IntRange(min=1), default=25, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--cpu", is_flag=True, help="Processor time of the process instead of the clock, with one thread.")
@click.option("--kernels", is_flag=True, help="Each file by onnxruntime's kernels, too.")
def main(
    files: tuple[Path, ...], size: int, threads: int | None, repeats: int, batch: int, cpu: bool, kernels: bool
) -> None:
    threads = 1 if cpu else check_threads(threads)
    encoders = [
        Encoder(path, providers=["CPUExecutionProvider"], threads=threads, own_kernels=own)
        for path in files
        for own in ((False, True) if kernels else (True,))
    ]
    pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    times: list[list[float]] = [[] for _ in encoders]
    clock = time.process_time if cpu else time.perf_counter
    for round_ in range(repeats + 1):
        for encoder, own in zip(encoders, times, strict=True):
            start = clock()
            encoder.predict(pixels)
            if round_:
                own.append(1e3 * (clock() - start))
    click.echo(f"{machine()}; {threads} threads; {batch} x {size} x {size}; {repeats} calls, milliseconds")
    click.echo("| encoder | contract | kernels | median | fastest | first / this, medians |\n|---|---|---|---|---|---|")
    for encoder, own in zip(encoders, times, strict=True):
        share = np.median(times[0]) / np.median(own)
        about = f"{encoder.path.name} | {encoder.contract.version} | {encoder.kernels}"
        click.echo(f"| {about} | {np.median(own):.1f} | {min(own):.1f} | {share:.2f}× |")


if __name__ == "__main__":
    main()
