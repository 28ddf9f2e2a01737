"""Commands for other software: the script for Blender, the HTTP server."""

from pathlib import Path

import click


@click.command("blender-script")
def blender_script() -> None:
    """Print where the script lies that opens a scene, with its camera and photo, in Blender.

    blender --python "$(wm3dr blender-script)" -- out/photo.glb --photo photo.jpg
    """
    click.echo(Path(__file__).with_name("blender_scene.py"))


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Photos in work at once.")
@click.option("--queue", default=16, show_default=True, type=click.IntRange(min=0), help="Requests that may wait.")
@click.option("--max-bytes", default=20_000_000, show_default=True, type=click.IntRange(min=1), help="Largest body.")
@click.option("--max-pixels", default=50_000_000, show_default=True, type=click.IntRange(min=1), help="Largest photo.")
@click.option("--receive-seconds", default=15.0, show_default=True, type=click.FloatRange(0.1), help="For the body.")
@click.option(
    "--answer-seconds", default=60.0, show_default=True, type=click.FloatRange(0.1), help="From body to answer."
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of a photo; default: those usable over --workers.")
@click.option("--max-side", type=click.IntRange(min=32), help="Longer side of the photo for the network, at most.")
@click.option("--encoder", type=click.Path(path_type=Path), help="Another encoder (ONNX).")
@click.option("--face-model", type=click.Path(path_type=Path), help="Another face model (safetensors).")
def serve(
    host: str,
    port: int,
    workers: int,
    queue: int,
    max_bytes: int,
    max_pixels: int,
    receive_seconds: float,
    answer_seconds: float,
    threads: int | None,
    max_side: int | None,
    encoder: Path | None,
    face_model: Path | None,
) -> None:
    """Answer over HTTP: POST /reconstruct takes a JPEG, PNG or WebP file, GET /health says how busy it is.

    Needs pip install 'wm3dr[serve]'. There is no authentication and no TLS: put a proxy before it.
    """
    from . import serve as serving
    from .api import DEFAULT_MAX_SIDE, Reconstructor
    from .cli import _or_exit
    from .threads import usable_threads

    def run() -> None:
        limits = serving.Limits(max_bytes, max_pixels, workers, queue, receive_seconds, answer_seconds)
        model = Reconstructor(
            encoder,
            face_model,
            threads=max(1, usable_threads() // workers) if threads is None else threads,
            max_side=DEFAULT_MAX_SIDE if max_side is None else max_side,
        )
        serving.run(serving.create_app(model, limits), host, port, limits)

    _or_exit(run)
