"""`wm3dr view`: a photo and its faces in 3D, as one HTML file."""

from pathlib import Path

import click


@click.command()
@click.argument("photo", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write; default: STEM.html, here.")
@click.option("--max-side", type=click.IntRange(min=32), help="Longer side of the photo for the network, at most.")
@click.option("--score-threshold", type=click.FloatRange(0, 1, min_open=True), help="Least score of a face.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@click.option("--open", "open_it", is_flag=True, help="Open it in the web browser.")
def view(
    photo: Path,
    output: Path | None,
    max_side: int | None,
    score_threshold: float | None,
    overwrite: bool,
    open_it: bool,
) -> None:
    """Write a page with PHOTO and its faces in 3D that opens in any browser, without network.

    It has views from the photo's camera, front, right and above, landmarks, regions, wireframe and ids, and a slider
    for every expression. The photo itself is in the file: pass it on with the care that the photo deserves.
    """
    from .cli import _or_exit

    target = Path(f"{photo.stem}.html") if output is None else output
    if target.exists() and not overwrite:
        raise click.ClickException(f"{target} exists; --overwrite replaces it")

    def write() -> int:
        from .api import DEFAULT_MAX_SIDE, Reconstructor
        from .viewer import save_html

        model = Reconstructor(max_side=max_side or DEFAULT_MAX_SIDE, score_threshold=score_threshold)
        result = model.reconstruct(photo)
        save_html(result, target, photo)
        return len(result)

    n_faces = _or_exit(write)
    size = target.stat().st_size / 1e6
    click.echo(f"{n_faces} face{'s' * (n_faces != 1)}, {size:.1f} MB -> {target}")
    if open_it:
        click.launch(str(target))
