"""Label arrays as a few files of bounded size, for a machine that only takes small uploads; and back.

    python -m wm3dr_training.data.shards --labels runs/labels --out shards

A shard is an uncompressed zip of WebP images; the first ones hold the label tables, too.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .arrays import save_npz

QUALITY = 88  # WebP; crops were resampled once, a mild loss does not matter under the colour augmentation
IMAGE_ARRAYS = ("train", "fine", "skin")


def _encode(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=QUALITY, method=2)
    return buffer.getvalue()


def _decode(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def pack(labels: Path, sources: list[str], out: Path, megabytes: float = 55.0) -> list[Path]:
    """Write `shard_000.zip`, … from the arrays of `wm3dr-train label`; returns the paths.

    Parameters
    ----------
    labels : Path
        Folder with `train_SOURCE.npy/.npz` and, where they exist, `fine_SOURCE.npy`, `skin_SOURCE.npy`,
        `fit_SOURCE.npz`, `background.npy`.
    sources : list of str
    out : Path
        Folder of the shards; created.
    megabytes : float
        Largest size of a shard, 10⁶ bytes.

    Raises
    ------
    FileNotFoundError
        A source has no arrays.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    entries: list[tuple[str, bytes]] = []
    size = 0

    def flush() -> None:
        nonlocal entries, size
        if entries:
            path = out / f"shard_{len(paths):03d}.zip"
            temporary = path.with_suffix(".partial")
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
                for name, data in entries:
                    archive.writestr(name, data)
            temporary.replace(path)
            paths.append(path)
        entries, size = [], 0

    for name, data in _entries(labels, sources):
        if size + len(data) > megabytes * 1e6:
            flush()
        entries.append((name, data))
        size += len(data) + 200
    flush()
    return paths


def _entries(labels: Path, sources: list[str]) -> Iterator[tuple[str, bytes]]:
    for source in [*sources, "background"]:
        stem = source if source == "background" else f"train_{source}"
        table, arrays = labels / f"{stem}.npz", {}
        if not table.exists():
            raise FileNotFoundError(f"{table} is missing: run 'wm3dr-train label' for the source {source!r} first")
        yield f"{stem}.npz", table.read_bytes()
        if source != "background" and (fits := labels / f"fit_{source}.npz").exists():
            yield fits.name, fits.read_bytes()
        for kind in IMAGE_ARRAYS:
            path = labels / ("background.npy" if source == "background" else f"{kind}_{source}.npy")
            if path.exists() and (source != "background" or kind == "train"):
                arrays[path.stem] = np.load(path, mmap_mode="r")
        for name, images in arrays.items():
            for row, image in enumerate(images):
                yield f"{name}/{row:06d}.webp", _encode(np.ascontiguousarray(image))


def unpack(shards: list[Path], labels: Path) -> dict[str, int]:
    """Rebuild the arrays of `pack` in the folder `labels`; returns the number of images of each array.

    Raises
    ------
    ValueError
        Shards are missing: an array has gaps.
    """
    labels.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[int, tuple[Path, str]]] = {}
    for path in shards:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".npz"):
                    with np.load(io.BytesIO(archive.read(name))) as table:
                        save_npz(labels / name, **dict(table))
                else:
                    array, file = name.split("/")
                    found.setdefault(array, {})[int(file.split(".")[0])] = (path, name)
    counts = {}
    for array, rows in found.items():
        if sorted(rows) != list(range(len(rows))):
            raise ValueError(f"'shards' lack images of {array!r}: {len(rows)} found, the last is number {max(rows)}")
        out: NDArray[np.uint8] | None = None
        archives = {path: zipfile.ZipFile(path) for path, _ in rows.values()}
        for row in range(len(rows)):
            path, name = rows[row]
            image = _decode(archives[path].read(name))
            if array.startswith("skin_"):
                image = image[..., 0]
            if out is None:
                out = np.lib.format.open_memmap(labels / f"{array}.npy", "w+", np.uint8, (len(rows), *image.shape))
            out[row] = image
        for archive in archives.values():
            archive.close()
        counts[array] = len(rows)
    return counts


@click.command()
@click.option(
    "--labels", required=True, type=click.Path(path_type=Path, exists=True), help="Folder that `label` wrote."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the shards.")
@click.option("--source", "sources", multiple=True, help="May be repeated; default: every source that is labelled.")
@click.option("--megabytes", default=55.0, show_default=True, help="Largest size of a shard.")
def main(labels: Path, out: Path, sources: tuple[str, ...], megabytes: float) -> None:
    """Pack the arrays of a label folder."""
    found = sources or tuple(sorted(path.stem.removeprefix("train_") for path in labels.glob("train_*.npz")))
    if not found:
        raise click.ClickException(f"{labels} holds no train_*.npz: run 'wm3dr-train label' first")
    try:
        paths = pack(labels, list(found), out, megabytes)
    except OSError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{len(paths)} shards, {sum(path.stat().st_size for path in paths) / 1e6:.0f} MB: {out}")


if __name__ == "__main__":
    main()
