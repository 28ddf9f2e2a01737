import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import mesh as reference

from wm3dr import _native


@given(st.integers(0, 2**31), st.integers(0, 3), st.integers(3, 40), st.integers(0, 60))
def test_agrees_with_the_twin(seed, faces, n, t):
    rng = np.random.default_rng(seed)
    vertices = rng.normal(0, 50, (faces, n, 3)).astype(np.float32)
    triangles = np.array([rng.choice(n, 3, replace=False) for _ in range(t)], np.int32).reshape(-1, 3)
    got = _native.vertex_normals(vertices, triangles, 2)
    expected = reference.vertex_normals(vertices, triangles)
    # Unit normals that nearly cancel leave a short sum, whose direction is that much less sure.
    a, b, c = (vertices[:, triangles[:, k]].astype(float) for k in range(3))
    sums = np.zeros(vertices.shape)
    for k in range(3):
        np.add.at(sums, (slice(None), triangles[:, k]), reference.normalised(np.cross(b - a, c - a)))
    length = np.linalg.norm(sums, axis=-1)
    sure = length > 0.05
    np.testing.assert_allclose(got[sure], expected[sure], atol=2e-3)
    np.testing.assert_allclose(got[length > 0.8], expected[length > 0.8], atol=1e-4)


def test_normals_point_out_of_a_sphere_and_flip_with_the_triangles():
    # An octahedron, counter-clockwise seen from outside.
    vertices = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], np.float32) * 30
    triangles = [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]]
    triangles = np.array(triangles, np.int32)
    normals = _native.vertex_normals(vertices[None], triangles, 1)[0]
    np.testing.assert_allclose(normals, vertices / 30, atol=1e-6)
    np.testing.assert_allclose(
        _native.vertex_normals(vertices[None], triangles[:, ::-1].copy(), 1)[0], -normals, atol=1e-6
    )


def test_a_vertex_of_no_triangle_has_no_normal():
    vertices = np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 5, 5]]], np.float32)
    normals = _native.vertex_normals(vertices, np.array([[0, 1, 2]], np.int32), 1)
    np.testing.assert_array_equal(normals[0], [[0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 0]])


def test_normals_that_cancel_are_zero():
    vertices = np.random.default_rng(2).normal(0, 50, (1, 3, 3)).astype(np.float32)
    normals = _native.vertex_normals(vertices, np.array([[0, 1, 2], [0, 2, 1]], np.int32), 1)
    np.testing.assert_array_equal(normals, np.zeros((1, 3, 3)))


def test_threads_do_not_change_a_byte():
    rng = np.random.default_rng(1)
    vertices = rng.normal(size=(7, 500, 3)).astype(np.float32)
    triangles = rng.integers(0, 500, (900, 3)).astype(np.int32)
    one = _native.vertex_normals(vertices, triangles, 1).tobytes()
    assert all(_native.vertex_normals(vertices, triangles, threads).tobytes() == one for threads in (2, 5))


def test_bad_indices_are_refused():
    vertices = np.zeros((1, 3, 3), np.float32)
    with pytest.raises(ValueError, match=re.escape("'triangles' has index 3, expected indices in 0..3")):
        _native.vertex_normals(vertices, np.array([[0, 1, 3]], np.int32), 1)
    with pytest.raises(TypeError, match=re.escape("'triangles' has dtype int64, expected int32")):
        _native.vertex_normals(vertices, np.array([[0, 1, 2]]), 1)
