import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import camera as reference
from reference import pose

from wm3dr import _native

FOCAL, CENTRE = 1130.0, (301.5, 188.25)


def scene(seed, faces, n):
    rng = np.random.default_rng(seed)
    vertices = rng.normal(0, 80, (faces, n, 3)).astype(np.float32)
    rotations = pose.rotations_from_vectors(rng.normal(0, 1, (faces, 3))).astype(np.float32)
    translations = rng.uniform([-300, -200, 600], [300, 200, 2000], (faces, 3)).astype(np.float32)
    return vertices, rotations, translations


@given(st.integers(0, 2**31), st.integers(0, 4), st.integers(0, 60))
def test_transform_and_project(seed, faces, n):
    vertices, rotations, translations = scene(seed, faces, n)
    points = _native.transform(vertices, rotations, translations, 2)
    # Sums of terms up to 2000 mm in float32: an ulp there is 1.2e-4.
    np.testing.assert_allclose(points, reference.transform(vertices, rotations, translations), atol=3e-4)
    got = _native.project(points, FOCAL, CENTRE)
    np.testing.assert_allclose(got, reference.project(points, FOCAL, CENTRE), rtol=1e-6, atol=1e-4)
    assert got.shape == (faces, n, 2)


def test_shifting_the_principal_point_shifts_the_image():
    vertices, rotations, translations = scene(4, 2, 30)
    points = _native.transform(vertices, rotations, translations, 1)
    shift = _native.project(points, FOCAL, (CENTRE[0] + 7, CENTRE[1] - 3)) - _native.project(points, FOCAL, CENTRE)
    np.testing.assert_allclose(shift, np.broadcast_to([7, -3], shift.shape), atol=1e-4)


def test_threads_do_not_change_a_byte():
    arguments = scene(5, 3, 20_000)
    one = _native.transform(*arguments, 1)
    for threads in (2, 5, 0):
        assert _native.transform(*arguments, threads).tobytes() == one.tobytes()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda v, r, t: _native.project(v * 0, FOCAL, CENTRE),
            "'points_camera' has a point with Z = 0, expected Z > 0",
        ),
        (lambda v, r, t: _native.transform(v, r[:1], t, 1), "'rotations' has shape (1, 3, 3), expected (2, 3, 3)"),
        (lambda v, r, t: _native.transform(v, r, t, 1000), "'threads' has 1000, expected 0 (all) to 256"),
        (
            lambda v, r, t: _native.transform(v, r, t * np.nan, 1),
            "'translations' has a non-finite value at flat index 0",
        ),
        (lambda v, r, t: _native.transform(v[:, ::2], r, t, 1), "'vertices_model' has a non-contiguous layout"),
    ],
)
def test_bad_values_are_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(*scene(1, 2, 8))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((1, 2, 3)), "'points_camera' has dtype float64, expected float32"),
        ([[[1.0, 2.0, 3.0]]], "'points_camera' has type list, expected a NumPy array of float32"),
        (np.zeros((1, 2, 3), ">f4"), "'points_camera' has dtype >f4, expected float32"),
    ],
)
def test_wrong_types_are_refused(array, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        _native.project(array, FOCAL, CENTRE)
