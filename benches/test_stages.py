"""Every native stage on real sizes: `pytest benches/test_stages.py --benchmark-only`. Ratios: benches/ratios.py."""

import numpy as np
import pytest
from scenes import CENTRE, FOCAL, SIZE, face_model, scene

from wm3dr import _native

pytestmark = pytest.mark.parametrize("threads", [1, 2])
FACES = pytest.mark.parametrize("faces", [1, 10])


@FACES
def test_shapes(benchmark, faces, threads):
    native, s = face_model().native, scene(faces, 200)
    out = benchmark(native.shapes, s.identity, s.expression, threads)
    assert out.shape == (faces, native.n_vertices, 3)


@FACES
def test_vertices_camera(benchmark, faces, threads):
    native, s = face_model().native, scene(faces, 200)
    out = benchmark(native.vertices_camera, s.identity, s.expression, s.rotations, s.translations, threads)
    np.testing.assert_array_equal(out, s.vertices)


@FACES
def test_normals(benchmark, faces, threads):
    out = benchmark(face_model().native.normals, scene(faces, 200).vertices, threads)
    assert abs(np.linalg.norm(out[0, 100]) - 1) < 1e-5


@FACES
def test_colors(benchmark, faces, threads):
    native, s = face_model().native, scene(faces, 200)
    albedo, normals = native.albedos(s.albedo, 1), native.normals(s.vertices, 1)
    out = benchmark(_native.colors, albedo, normals, s.illumination, threads)
    assert out.shape == s.vertices.shape


@FACES
def test_boxes(benchmark, faces, threads):
    native, s = face_model().native, scene(faces, 200)
    arguments = (s.identity, s.expression, s.rotations, s.translations, FOCAL, CENTRE, threads)
    assert benchmark(native.boxes, *arguments).shape == (faces, 4)


@pytest.mark.parametrize(("faces", "height"), [(1, 200), (1, 450), (10, 200)])
def test_rasterize(benchmark, faces, height, threads):
    triangles = face_model().native.triangles
    out = benchmark(_native.rasterize, scene(faces, height).vertices, triangles, FOCAL, CENTRE, SIZE, threads)
    assert (out[0] >= 0).any()


def test_interpolate(benchmark, threads):
    native, s = face_model().native, scene(1, 450)
    triangle_id, face_id, _, barycentric = _native.rasterize(s.vertices, native.triangles, FOCAL, CENTRE, SIZE, 1)
    arguments = (triangle_id, face_id, barycentric, native.triangles, s.vertices, threads)
    assert benchmark(_native.interpolate, *arguments).shape == (512, 512, 3)


def test_peaks(benchmark, threads):
    heatmap = np.random.default_rng(0).uniform(0, 0.4, (64, 64)).astype(np.float32)
    heatmap[10:60:10, 10:60:20] = 0.9
    cells, _ = benchmark(_native.find_peaks, heatmap, 0.5, 5)
    assert len(cells) == 15
