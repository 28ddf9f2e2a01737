"""Every native stage beside its NumPy twin and, for the decoder, its PyTorch twin: python benches/against_twins.py

All of a row run in turn; medians and ratios of medians. Before anything is timed, the twins are checked against the
native results. PyTorch takes part where `wm3dr_training` is installed (`pip install ./training`).
"""

import os
import time
from collections.abc import Callable
from functools import cache

import click
import numpy as np
import twins
from scenes import CENTRE, FOCAL, SIZE, face_model, scene

from wm3dr import _native
from wm3dr.bench import machine
from wm3dr.face_model import parse_face_model
from wm3dr.image import network_input

Calls = dict[str, Callable[[], object]]
PHOTO = (750, 1000, 3)
OF_THE_PHOTO = ("preprocess", "peaks")
"""Stages whose time does not depend on the number of faces."""


@cache
def stored_basis() -> twins.F32:
    """Identity and expression basis of the stored vertices (3 N0, K), float32."""
    _, arrays = parse_face_model(face_model().path.read_bytes())
    parts = [arrays[name].reshape(-1, arrays[name].shape[2]) for name in ("identity_basis", "expression_basis")]
    return np.concatenate(parts, axis=1).astype(np.float32)


def photo() -> np.ndarray:
    """Smooth colours and some grain."""
    y, x = np.mgrid[0 : PHOTO[0], 0 : PHOTO[1]] / PHOTO[1]
    grain = np.random.default_rng(0).integers(0, 9, PHOTO)
    return (np.stack([200 * x, 200 * y, 100 + 50 * x], -1) + grain).astype(np.uint8)


def heatmap(side: int = 64) -> np.ndarray:
    """Faces on a grid above noise."""
    values = np.random.default_rng(0).uniform(0, 0.4, (side, side)).astype(np.float32)
    values[4::8, 4::8] = np.random.default_rng(1).uniform(0.5, 1, values[4::8, 4::8].shape)
    return values


def rows(faces: int, threads: int) -> dict[str, Calls]:
    """Stage -> {"numpy": …, "wm3dr": …}; AssertionError where the two do not agree."""
    native, s, triangles = face_model().native, scene(faces, 200), np.array(face_model().native.triangles)
    stored, image, heat = face_model().stored_triangles, photo(), heatmap()
    basis, albedo = stored_basis(), native.albedos(s.albedo, 1)
    normals = native.normals(s.vertices, 1)
    corners = np.ascontiguousarray(s.vertices[:, : face_model().n_stored])
    place = (s.identity, s.expression, s.rotations, s.translations, threads)

    def shaded() -> tuple[np.ndarray, np.ndarray]:
        found = native.normals(s.vertices, threads)
        return _native.colors(albedo, found, s.illumination, threads), _native.project(s.vertices, FOCAL, CENTRE)

    def shaded_twin() -> tuple[np.ndarray, np.ndarray]:
        found = twins.normals(s.vertices, triangles)
        return twins.colors(albedo, found, s.illumination), twins.project(s.vertices, FOCAL, CENTRE)

    def drawn() -> tuple[np.ndarray, ...]:
        return _native.rasterize(corners, stored, FOCAL, CENTRE, SIZE, threads, split=True)

    def drawn_twin() -> tuple[np.ndarray, ...]:
        return twins.rasterize(s.vertices, triangles, FOCAL, CENTRE, SIZE)

    pairs: dict[str, Calls] = {
        "preprocess": {
            "numpy": lambda: twins.letterbox(image, SIZE[0]),
            "wm3dr": lambda: network_input(image, SIZE[0]).pixels,
        },
        "peaks": {
            "numpy": lambda: twins.find_peaks(heat, 0.45, 5),
            "wm3dr": lambda: _native.find_peaks(heat, 0.45, 5),
        },
        "decode": {
            "numpy": lambda: twins.vertices_camera(basis, s),
            "wm3dr": lambda: native.vertices_camera(*place),
        },
        "normals + colours + projection": {"numpy": shaded_twin, "wm3dr": shaded},
        "raster": {"numpy": drawn_twin, "wm3dr": drawn},
    }
    difference = np.abs(pairs["preprocess"]["numpy"]().astype(int) - pairs["preprocess"]["wm3dr"]())
    assert difference.max() <= 2, difference.max()
    for ours, its in zip(pairs["peaks"]["wm3dr"](), pairs["peaks"]["numpy"](), strict=True):
        np.testing.assert_array_equal(ours, its)
    np.testing.assert_allclose(pairs["decode"]["numpy"](), s.vertices, atol=0.02)  # mm; the stored basis is float16
    np.testing.assert_allclose(twins.normals(s.vertices, triangles), normals, atol=0.02)
    for ours, its in zip(shaded(), shaded_twin(), strict=True):
        np.testing.assert_allclose(ours, its, atol=0.02)
    triangle_id, face_id, depth, _ = drawn()
    its_id, its_depth = drawn_twin()
    seen = triangle_id >= 0
    assert (seen == (its_id >= 0)).mean() > 0.999
    same = (face_id * len(triangles) + triangle_id == its_id)[seen].mean()
    assert same > 0.99, same  # pixels on an edge may go to either side
    assert np.median(np.abs(depth - its_depth)[seen]) < 0.05
    for name, call in _torch(faces, threads).items():
        if name in pairs:
            pairs[name]["torch"] = call
        else:
            pairs[name] = {"torch": call, "wm3dr": lambda: _whole(faces, threads)}
    return pairs


def _whole(faces: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices, albedo, normals, colours and projection."""
    native, s = face_model().native, scene(faces, 200)
    vertices = native.vertices_camera(s.identity, s.expression, s.rotations, s.translations, threads)
    normals = native.normals(vertices, threads)
    colors = _native.colors(native.albedos(s.albedo, threads), normals, s.illumination, threads)
    return colors, _native.project(vertices, FOCAL, CENTRE)


def _torch(faces: int, threads: int) -> Calls:
    """The PyTorch twins, checked; empty where torch is not installed."""
    try:
        calls = twins.torch_decoder(scene(faces, 200), FOCAL, CENTRE, threads)
    except ImportError:
        return {}
    np.testing.assert_allclose(calls["decode"]().numpy(), scene(faces, 200).vertices, atol=0.02)
    for ours, its in zip(_whole(faces, threads), calls["whole decoder"](), strict=True):
        np.testing.assert_allclose(ours, its.numpy(), atol=0.02)
    return calls


def medians(
    calls: Calls, repeats: int, clock: Callable[[], float], pause: float = 0.0, warm: float = 0.0
) -> dict[str, float]:
    """Milliseconds of each call, run in turn after one round that does not count.

    Before each go `pause` seconds, and calls of its own for `warm` seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            time.sleep(pause)
            ready = time.perf_counter() + warm
            while time.perf_counter() < ready:
                call()
            start = clock()
            call()
            if round_:
                times[name].append(clock() - start)
    return {name: 1e3 * float(np.median(values)) for name, values in times.items()}


@click.command()
@click.option("--faces", default="1,10", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=11, show_default=True)
@click.option("--cpu", is_flag=True, help="Processor time of the process instead of the clock; one thread only.")
def main(faces: str, threads: int, repeats: int, cpu: bool) -> None:
    if cpu and threads != 1:
        raise click.BadParameter("processor time of several threads is not the time that they take", param_hint="--cpu")
    try:
        from threadpoolctl import threadpool_limits

        threadpool_limits(threads)  # of NumPy's BLAS
    except ImportError:
        if os.environ.get("OPENBLAS_NUM_THREADS") != str(threads):
            click.echo(f"without threadpoolctl, set OPENBLAS_NUM_THREADS={threads} for NumPy to have as many threads")
    click.echo(f"{machine()}; {threads} threads; milliseconds, medians of {repeats}")
    torch_took_part = False
    click.echo("| stage | faces | numpy | torch | wm3dr | numpy / wm3dr | torch / wm3dr |")
    click.echo("|---|---|---|---|---|---|---|")
    counts = [int(n) for n in faces.split(",")]
    for n in counts:
        for stage, calls in rows(n, threads).items():
            if stage in OF_THE_PHOTO and n != counts[0]:
                continue
            found = medians(calls, repeats, time.process_time if cpu else time.perf_counter)
            torch_took_part |= "torch" in found
            cells = [f"{found[k]:.2f}" if k in found else "–" for k in ("numpy", "torch", "wm3dr")]
            cells += [f"{found[k] / found['wm3dr']:.1f}×" if k in found else "–" for k in ("numpy", "torch")]
            click.echo(f"| {stage} | {'–' if stage in OF_THE_PHOTO else n} | " + " | ".join(cells) + " |")
    if not torch_took_part:
        click.echo("PyTorch did not take part: wm3dr_training is not installed (pip install ./training)")


if __name__ == "__main__":
    main()
