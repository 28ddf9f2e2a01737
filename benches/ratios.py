"""Native stages beside NumPy and, where it is importable, 3DDFA_V2's Sim3DR: python benches/ratios.py [--repeats N]

Everything of a row is run in turn, so that a slow moment of the machine hits all; medians, and ratios of medians.
`--cpu` times the calling thread's processor time instead of the clock, fairer on a busy machine, for one thread.
Sim3DR: build `Sim3DR_Cython` (github.com/cleardusk/3DDFA_V2, folder Sim3DR) and put its folder on PYTHONPATH.
"""

import time
from collections.abc import Callable

import click
import numpy as np
from against_twins import Calls, medians
from scenes import CENTRE, FOCAL, SIZE, face_model, scene

from wm3dr import _native

try:
    import Sim3DR_Cython
except ImportError:
    Sim3DR_Cython = None

try:
    from threadpoolctl import ThreadpoolController
except ImportError:
    ThreadpoolController = None

PAUSE, WARM = 0.03, 0.05
"""Seconds before each call that counts: a pause, in which the threads of NumPy's BLAS stop spinning, and calls of its
own, so that each finds the caches and the threads as it leaves them."""


def report(title: str, calls: Calls, repeats: int, clock: Callable[[], float]) -> None:
    """The first call is the baseline."""
    found = medians(calls, repeats, clock, PAUSE, WARM)
    baseline = next(iter(found.values()))
    cells = [f"{name} {ms:.2f}" + ("" if ms == baseline else f" ({baseline / ms:.1f}x)") for name, ms in found.items()]
    print(f"{title:34}" + " | ".join(cells), flush=True)


def decode(faces: int, threads: int) -> Calls:
    native, s = face_model().native, scene(faces, 200)
    rng = np.random.default_rng(0)
    columns = native.n_identity + native.n_expression
    basis = rng.normal(size=(3 * native.n_vertices, columns)).astype(np.float32)
    coefficients = np.ascontiguousarray(np.concatenate([s.identity, s.expression], 1).T)
    out = np.empty((3 * native.n_vertices, faces), np.float32)

    pools = None if ThreadpoolController is None else ThreadpoolController()

    def numpy() -> None:
        if pools is None:
            np.matmul(basis, coefficients, out=out)
            return
        with pools.limit(limits=threads):
            np.matmul(basis, coefficients, out=out)

    return {"numpy": numpy, "shapes": lambda: native.shapes(s.identity, s.expression, threads)}


def numpy_normals(vertices, triangles):
    a, b, c = (vertices[:, triangles[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-12
    out = np.empty_like(vertices)
    for face, axis in np.ndindex(len(vertices), 3):
        out[face, :, axis] = sum(
            np.bincount(triangles[:, k], normals[face, :, axis], vertices.shape[1]) for k in range(3)
        )
    return out / (np.linalg.norm(out, axis=-1, keepdims=True) + 1e-12)


def numpy_shading(normals, illumination):
    x, y, z = normals[..., 0], -normals[..., 1], -normals[..., 2]
    terms = [np.ones_like(x), -y, z, -x, x * y, -y * z, 3 * z * z - 1, -x * z, x * x - y * y]
    return np.einsum("fnb,fcb->fnc", np.stack(terms, -1), illumination)


def numpy_project(points):
    return np.asarray(CENTRE, np.float32) + np.float32(FOCAL) * points[..., :2] / points[..., 2:]


def shade(faces: int, threads: int) -> Calls:
    """Normals, colours and projection."""
    native, s = face_model().native, scene(faces, 200)
    albedo, triangles = native.albedos(s.albedo, 1), np.array(native.triangles)

    def numpy() -> None:
        normals = numpy_normals(s.vertices, triangles)
        np.clip(albedo * numpy_shading(normals, s.illumination), 0, 1)
        numpy_project(s.vertices)

    def ours() -> None:
        _native.colors(albedo, native.normals(s.vertices, threads), s.illumination, threads)
        _native.project(s.vertices, FOCAL, CENTRE)

    return {"numpy": numpy, "normals+colors+project": ours}


def raster(faces: int, height: float, threads: int) -> Calls:
    native, s = face_model().native, scene(faces, height)
    triangles, (width, rows) = np.array(native.triangles), SIZE
    colors = np.ascontiguousarray(np.clip(native.albedos(s.albedo, 1), 0, 1))
    # Sim3DR takes pixels whose centres are whole numbers, and draws what has the greater third coordinate.
    px = _native.project(s.vertices, FOCAL, CENTRE) - np.float32(0.5)
    screen = [np.ascontiguousarray(np.concatenate([p, -v[:, 2:]], 1)) for p, v in zip(px, s.vertices, strict=True)]

    def sim3dr() -> None:
        image = np.zeros((rows, width, 3), np.uint8)
        depth = np.zeros((rows, width), np.float32) - 1e8
        for vertices, color in zip(screen, colors, strict=True):
            count = len(triangles)
            Sim3DR_Cython.rasterize(image, vertices, triangles, color, depth, count, rows, width, 3, reverse=False)

    stored = face_model().stored_triangles
    corners = np.ascontiguousarray(s.vertices[:, : face_model().n_stored])

    def maps():  # as the library draws: the stored mesh, then the parts of its triangles
        return _native.rasterize(corners, stored, FOCAL, CENTRE, SIZE, threads, split=True)

    normals = native.stored_normals(corners, 1)

    def given():  # and colours that are there, as Sim3DR does it
        triangle_id, face_id, _, barycentric = maps()
        return _native.interpolate(triangle_id, face_id, barycentric, triangles, colors, threads)

    def shaded():  # and the picture: albedo decoded, triangles shaded where they are seen
        return native.render(corners, normals, s.albedo, s.illumination, FOCAL, CENTRE, SIZE, threads)

    ours: Calls = {"rasterize": maps, "with given colours": given, "albedo, light and all": shaded}
    return {"Sim3DR": sim3dr, **ours} if Sim3DR_Cython is not None else ours


def fit_colors(faces: int, height: float, threads: int) -> Calls:
    """Albedo and light fitted to a picture of the faces; nothing else does that, so there is no baseline."""
    model, s = face_model(), scene(faces, height)
    corners = np.ascontiguousarray(s.vertices[:, : model.n_stored])
    normals = model.native.stored_normals(corners, 1)
    photo = model.native.render(corners, normals, s.albedo, s.illumination, FOCAL, CENTRE, SIZE, 1)[-1]
    light = np.zeros_like(s.illumination)
    light[:, :, 0] = 0.8
    arguments = (photo, FOCAL, CENTRE, corners, normals, np.zeros_like(s.albedo), light, threads)
    return {"fit": lambda: model.color_fitter.fit(*arguments)}


def after_encoder(faces: int, threads: int) -> Calls:
    """All that a result needs, without and with the picture."""
    native, s = face_model().native, scene(faces, 200)
    rng = np.random.default_rng(1)
    columns = native.n_identity + native.n_expression + native.n_albedo + 33
    heatmap = np.zeros((64, 64), np.float32)
    for k in range(faces):
        heatmap[6 * (k // 5) + 5, 10 * (k % 5) + 5] = 0.9
    coefficients = rng.normal(0, 0.1, (columns, 64, 64)).astype(np.float32)
    centers = rng.uniform(100, 400, (faces, 2)).astype(np.float32)

    def sparse() -> None:
        peaks, _ = _native.find_peaks(heatmap, 0.5, 5)
        _native.gather_coefficients(coefficients, peaks)
        _native.translations_from_offsets(s.translations * 0, centers, FOCAL, CENTRE)
        _native.rotations_from_vectors(s.translations * 0, s.translations)
        landmarks = native.landmarks(s.identity, s.expression)
        _native.project(_native.transform(landmarks, s.rotations, s.translations, 1), FOCAL, CENTRE)
        _native.pose_from_rotations(s.rotations)
        native.boxes(s.identity, s.expression, s.rotations, s.translations, FOCAL, CENTRE, threads)

    def dense() -> None:
        sparse()
        vertices = native.vertices_camera(s.identity, s.expression, s.rotations, s.translations, threads)
        normals = native.normals(vertices, threads)
        _native.colors(native.albedos(s.albedo, threads), normals, s.illumination, threads)

    def rendered() -> None:
        sparse()
        corners = native.stored_vertices(s.identity, s.expression, s.rotations, s.translations, threads)
        normals = native.stored_normals(corners, threads)
        native.render(corners, normals, s.albedo, s.illumination, FOCAL, CENTRE, SIZE, threads)

    return {
        "landmarks, pose, boxes": sparse,
        "these, vertices, normals, colours": dense,
        "these, raster with colours": rendered,
    }


@click.command()
@click.option("--repeats", default=31, show_default=True)
@click.option("--cpu", is_flag=True, help="Processor time of the calling thread; one thread only.")
def main(repeats: int, cpu: bool) -> None:
    clock = time.thread_time if cpu else time.perf_counter
    if ThreadpoolController is None:
        print("threadpoolctl is not installed: NumPy takes all threads in every row")
    if Sim3DR_Cython is None:
        print("Sim3DR_Cython is not importable: the raster has no baseline")
    for threads in (1,) if cpu else (1, 2):
        for faces in (1, 10):
            report(f"decode, {faces} faces, {threads}t", decode(faces, threads), repeats, clock)
        for faces in (1, 10):
            report(f"shade, {faces} faces, {threads}t", shade(faces, threads), min(repeats, 11), clock)
        for faces, height in ((1, 200), (1, 450), (10, 200)):
            title = f"raster, {faces} faces of {height} px, {threads}t"
            report(title, raster(faces, height, threads), repeats, clock)
        for faces, height in ((1, 200), (20, 100)):
            report(f"colour fit, {faces} faces, {threads}t", fit_colors(faces, height, threads), repeats, clock)
        report(f"after the encoder, 10 faces, {threads}t", after_encoder(10, threads), repeats, clock)


if __name__ == "__main__":
    main()
