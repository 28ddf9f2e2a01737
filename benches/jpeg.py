"""A 12-megapixel JPEG to the network's input, beside decoding it at all: python benches/jpeg.py

Processor time of one thread, so that other work on the machine hardly counts; in turn, medians.
"""

import io
import time

import click
import numpy as np
import PIL.Image

from wm3dr.image import network_input

SIZE = (4000, 3000)
SMALL = (640, 480)


def photo() -> bytes:
    """A JPEG with coarse structure and grain, as cameras make it."""
    rng = np.random.default_rng(0)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).resize(SIZE, PIL.Image.Resampling.BICUBIC)
    grain = rng.integers(-4, 5, (SIZE[1], SIZE[0], 3), np.int16)
    pixels = (np.asarray(coarse).astype(np.int16) + grain).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


@click.command()
@click.option("--repeats", default=9, show_default=True)
def main(repeats: int) -> None:
    content = photo()

    def decode() -> None:
        PIL.Image.open(io.BytesIO(content)).load()

    def decode_and_resize() -> None:
        image = PIL.Image.open(io.BytesIO(content)).convert("RGB").resize(SMALL, PIL.Image.Resampling.BILINEAR)
        np.array(image)

    def ours() -> None:
        network_input(content, SMALL[0])

    ways = {"bare decode": decode, "full decode, resize": decode_and_resize, "network_input": ours}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, call in ways.items():
            start = time.process_time()
            call()
            times[name].append(1e3 * (time.process_time() - start))
    medians = {name: float(np.median(values)) for name, values in times.items()}
    click.echo(f"JPEG of {SIZE[0]} x {SIZE[1]}, {len(content) / 1e6:.1f} MB")
    for name, milliseconds in medians.items():
        click.echo(f"{name:32}{milliseconds:7.1f} ms{milliseconds / medians['network_input']:6.2f}x")


if __name__ == "__main__":
    main()
