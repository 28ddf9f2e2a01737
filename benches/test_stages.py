"""Native stages on real sizes: `pytest benches/test_stages.py --benchmark-only`. Ratios: against_twins.py, ratios.py.

Faces are 200 px high in 512 x 512 and in proportion at other sizes. Inputs are made, and results checked, before the
timing.
"""

import numpy as np
import pytest
from scenes import CENTRE, FOCAL, SIZE, face_model, scene

from wm3dr import _native

pytestmark = pytest.mark.parametrize("threads", [1, 2])
FACES = pytest.mark.parametrize("faces", [1, 5, 10, 20, 50])
SIZES = pytest.mark.parametrize("size", [256, 512, 1024])


def camera(size):
    """Focal length, principal point and (width, height) of `scenes` at another size."""
    scale = size / SIZE[0]
    return FOCAL * scale, (CENTRE[0] * scale, CENTRE[1] * scale), (size, size)


@FACES
def test_shapes(benchmark, faces, threads):
    native, s = face_model().native, scene(faces, 200)
    assert native.shapes(s.identity, s.expression, threads).shape == (faces, native.n_vertices, 3)
    benchmark(native.shapes, s.identity, s.expression, threads)


@FACES
def test_vertices_camera(benchmark, faces, threads):
    native, s = face_model().native, scene(faces, 200)
    arguments = (s.identity, s.expression, s.rotations, s.translations, threads)
    np.testing.assert_array_equal(native.vertices_camera(*arguments), s.vertices)
    benchmark(native.vertices_camera, *arguments)


@FACES
def test_normals(benchmark, faces, threads):
    native, s = face_model().native, scene(faces, 200)
    np.testing.assert_allclose(np.linalg.norm(native.normals(s.vertices, threads), axis=2), 1, atol=1e-5)
    benchmark(native.normals, s.vertices, threads)


@FACES
def test_colors(benchmark, faces, threads):
    native, s = face_model().native, scene(faces, 200)
    arguments = (native.albedos(s.albedo, 1), native.normals(s.vertices, 1), s.illumination, threads)
    found = _native.colors(*arguments)
    assert found.shape == s.vertices.shape and 0 <= found.min() < found.max() <= 1
    benchmark(_native.colors, *arguments)


@FACES
def test_fit_colors(benchmark, faces, threads):
    native, s = face_model().native, scene(faces, 200)
    corners = np.ascontiguousarray(s.vertices[:, : face_model().n_stored])
    normals = native.stored_normals(corners, 1)
    photo = native.render(corners, normals, s.albedo, s.illumination, FOCAL, CENTRE, SIZE, 1)[-1]
    expected = (np.zeros_like(s.albedo), np.full_like(s.illumination, 0.8) * np.eye(9, dtype=np.float32)[0])
    arguments = (photo, FOCAL, CENTRE, corners, normals, *expected, threads)
    albedo, light = face_model().color_fitter.fit(*arguments)
    assert np.abs(albedo).max() > 0.1 and light.shape == s.illumination.shape
    benchmark(face_model().color_fitter.fit, *arguments)


@FACES
def test_normals_colors_projection(benchmark, faces, threads):
    native, s = face_model().native, scene(faces, 200)
    albedo = native.albedos(s.albedo, 1)

    def stage():
        colors = _native.colors(albedo, native.normals(s.vertices, threads), s.illumination, threads)
        return colors, _native.project(s.vertices, FOCAL, CENTRE)

    assert [part.shape for part in stage()] == [(faces, native.n_vertices, 3), (faces, native.n_vertices, 2)]
    benchmark(stage)


@FACES
def test_boxes(benchmark, faces, threads):
    native, s = face_model().native, scene(faces, 200)
    arguments = (s.identity, s.expression, s.rotations, s.translations, FOCAL, CENTRE, threads)
    px = _native.project(s.vertices, FOCAL, CENTRE)
    np.testing.assert_allclose(native.boxes(*arguments), np.concatenate([px.min(1), px.max(1)], axis=1), atol=1e-2)
    benchmark(native.boxes, *arguments)


@FACES
@SIZES
def test_rasterize(benchmark, size, faces, threads):
    stored, vertices = face_model().stored_triangles, scene(faces, 200).vertices
    corners = np.ascontiguousarray(vertices[:, : face_model().n_stored])
    arguments = (corners, stored, *camera(size), threads, True)
    assert np.unique(_native.rasterize(*arguments)[1]).size > faces // 2  # some of many are hidden
    benchmark(_native.rasterize, *arguments)


@FACES
def test_render(benchmark, faces, threads):
    native, s = face_model().native, scene(faces, 200)
    corners = np.ascontiguousarray(s.vertices[:, : face_model().n_stored])
    normals = native.stored_normals(corners, 1)
    arguments = (corners, normals, s.albedo, s.illumination, FOCAL, CENTRE, SIZE, threads)
    assert native.render(*arguments)[-1].any()
    benchmark(native.render, *arguments)


def test_rasterize_a_large_face(benchmark, threads):
    arguments = (scene(1, 450).vertices, face_model().native.triangles, FOCAL, CENTRE, SIZE, threads)
    assert (_native.rasterize(*arguments)[0] >= 0).mean() > 0.3
    benchmark(_native.rasterize, *arguments)


@SIZES
def test_interpolate(benchmark, size, threads):
    native, s = face_model().native, scene(1, 450)
    triangle_id, face_id, _, barycentric = _native.rasterize(s.vertices, native.triangles, *camera(size), 1)
    arguments = (triangle_id, face_id, barycentric, native.triangles, s.vertices, threads)
    assert _native.interpolate(*arguments).shape == (size, size, 3)
    benchmark(_native.interpolate, *arguments)


@SIZES
def test_peaks(benchmark, size, threads):
    heatmap = np.random.default_rng(0).uniform(0, 0.4, (size // 8, size // 8)).astype(np.float32)
    heatmap[10:30:10, 10:30:5] = 0.9
    assert len(_native.find_peaks(heatmap, 0.5, 5)[0]) == 8
    benchmark(_native.find_peaks, heatmap, 0.5, 5)
