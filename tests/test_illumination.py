import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import illumination as reference
from reference.mesh import normalised

from wm3dr import _native


def scene(seed, faces, n):
    rng = np.random.default_rng(seed)
    normals = normalised(rng.normal(size=(faces, n, 3))).astype(np.float32)
    illumination = rng.normal(0, 0.4, (faces, 3, 9)).astype(np.float32)
    return rng.uniform(0, 1, (faces, n, 3)).astype(np.float32), normals, illumination


@given(st.integers(0, 2**31), st.integers(0, 4), st.integers(0, 70))
def test_agrees_with_the_twin(seed, faces, n):
    albedo, normals, illumination = scene(seed, faces, n)
    got = _native.shading(normals, illumination, 2)
    np.testing.assert_allclose(got, reference.shading(normals, illumination), atol=5e-6)
    got = _native.colors(albedo, normals, illumination, 2)
    np.testing.assert_allclose(got, reference.colors(albedo, normals, illumination), atol=5e-6)


def test_ambient_light_is_the_same_from_everywhere():
    _, normals, illumination = scene(1, 2, 50)
    illumination[:, :, 1:] = 0
    illumination[:, :, 0] = [0.8, 0.5, 0.2]
    expected = np.pi / np.sqrt(4 * np.pi) * np.array([0.8, 0.5, 0.2])
    np.testing.assert_allclose(
        _native.shading(normals, illumination, 1), np.broadcast_to(expected, normals.shape), atol=1e-6
    )


def test_light_from_the_right_falls_on_the_right_of_the_image():
    illumination = np.zeros((1, 3, 9), np.float32)
    illumination[..., 0], illumination[..., 3] = 0.8, -0.3
    right_and_left = np.array([[[0.6, 0, -0.8], [-0.6, 0, -0.8]]], np.float32)  # camera frame: they look at the viewer
    (right, left), *_ = _native.colors(np.full((1, 2, 3), 0.5, np.float32), right_and_left, illumination, 1)
    assert (right > left).all()


def test_threads_do_not_change_a_byte():
    albedo, normals, illumination = scene(2, 3, 20_011)
    shading, colors = (_native.shading(normals, illumination, 1), _native.colors(albedo, normals, illumination, 1))
    for threads in (2, 5):
        assert _native.shading(normals, illumination, threads).tobytes() == shading.tobytes()
        assert _native.colors(albedo, normals, illumination, threads).tobytes() == colors.tobytes()


def test_bad_shapes_are_refused():
    albedo, normals, illumination = scene(3, 2, 5)
    with pytest.raises(ValueError, match=re.escape("'illumination' has shape (1, 3, 9), expected (2, 3, 9)")):
        _native.shading(normals, illumination[:1], 1)
    with pytest.raises(ValueError, match=re.escape("'normals_camera' has shape (2, 4, 3), expected (2, 5, 3)")):
        _native.colors(albedo, normals[:, 1:].copy(), illumination, 1)
