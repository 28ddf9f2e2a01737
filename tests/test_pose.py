import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reference import pose as reference

from wm3dr import _native

vectors = arrays(np.float32, st.tuples(st.integers(0, 4), st.just(3)), elements=st.floats(-4, 4, width=32))


@given(vectors)
def test_rotations_against_the_axis(vectors):
    got = _native.rotations_from_vectors(vectors)
    np.testing.assert_allclose(got, reference.rotations_from_vectors(vectors), atol=3e-7)


@given(vectors, st.integers(0, 2**31))
def test_rotations_against_the_ray(vectors, seed):
    translations = np.random.default_rng(seed).uniform([-900, -900, 50], [900, 900, 2000], vectors.shape)
    translations = translations.astype(np.float32)
    got = _native.rotations_from_vectors(vectors, translations)
    np.testing.assert_allclose(got, reference.rotations_from_vectors(vectors, translations), atol=3e-7)


def test_a_zero_vector_against_the_ray_looks_at_the_camera():
    translation = np.array([[300, -200, 900]], np.float32)
    (rotation,) = _native.rotations_from_vectors(np.zeros((1, 3), np.float32), translation)
    outwards = rotation @ [0, 0, 1]
    np.testing.assert_allclose(outwards, -translation[0] / np.linalg.norm(translation), atol=1e-6)


@given(st.floats(-88, 88), st.floats(-179, 179), st.floats(-179, 179))
def test_pose_is_read_back(yaw, pitch, roll):
    rotation = reference.rotation_from_pose(yaw, pitch, roll).astype(np.float32)
    got = _native.pose_from_rotations(rotation[None])[0]
    # asin near 90 degrees turns float32 rounding of the matrix, 6e-8, into 6e-8 / cos(88 deg) rad = 1e-4 degrees.
    np.testing.assert_allclose(got, [yaw, pitch, roll], atol=2e-3)


def test_signs_of_the_pose():
    # The nose is model +z. Turned to the image's right, up, and the head counter-clockwise in the image.
    nose, crown = [0, 0, 1], [0, 1, 0]
    turned = reference.rotation_from_pose(30, 0, 0)
    assert (turned @ nose)[0] > 0.4
    raised = reference.rotation_from_pose(0, 30, 0)
    assert (raised @ nose)[1] < -0.4
    rolled = reference.rotation_from_pose(0, 0, 30)
    assert (rolled @ crown)[0] < -0.4
    poses = _native.pose_from_rotations(np.stack([turned, raised, rolled]).astype(np.float32))
    np.testing.assert_allclose(poses, 30 * np.eye(3), atol=1e-4)


@pytest.mark.parametrize("yaw", [90, -90])
def test_gimbal_lock_keeps_the_rotation_and_has_no_roll(yaw):
    rotation = reference.rotation_from_pose(yaw, 20, 35).astype(np.float32)
    got = _native.pose_from_rotations(rotation[None])[0]
    assert got[2] == 0
    np.testing.assert_allclose(reference.rotation_from_pose(*got), rotation, atol=1e-3)


@given(st.integers(0, 5), st.integers(0, 2**31))
def test_translations(faces, seed):
    rng = np.random.default_rng(seed)
    offsets = rng.normal(0, 3, (faces, 3)).astype(np.float32)
    centers = rng.uniform(0, 700, (faces, 2)).astype(np.float32)
    got = _native.translations_from_offsets(offsets, centers, 1015.0, (311.5, 203.0))
    expected = reference.translations_from_offsets(offsets, centers, 1015.0, (311.5, 203.0))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: _native.rotations_from_vectors(np.full((2, 3), np.inf, np.float32)),
            "'vectors' has a non-finite value",
        ),
        (
            lambda: _native.rotations_from_vectors(np.zeros((2, 3), np.float32), np.zeros((1, 3), np.float32)),
            "'translations' has shape (1, 3), expected (2, 3)",
        ),
        (
            lambda: _native.rotations_from_vectors(np.zeros((1, 3), np.float32), -np.eye(3, dtype=np.float32)[2:]),
            "'translations' has [-0.0, -0.0, -1.0], expected points away from (0, 0, z <= 0)",
        ),
        (
            lambda: _native.pose_from_rotations(2 * np.eye(3, dtype=np.float32)[None]),
            "'rotations' has a row of length 2.0000 in matrix 0, expected unit rows",
        ),
        (
            lambda: _native.translations_from_offsets(
                np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float32), -1.0, (0.0, 0.0)
            ),
            "'focal' has -1, expected a positive finite number of pixels",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
