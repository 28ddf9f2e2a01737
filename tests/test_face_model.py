import re

import numpy as np
import pytest
from builders import synthetic_arrays
from hypothesis import given
from hypothesis import strategies as st
from reference import camera, mesh, pose
from reference import face_model as reference

from wm3dr import _native

ARRAYS = synthetic_arrays()[1]
REFINED = reference.refine(ARRAYS)
MODEL = _native.FaceModel(**ARRAYS, subdivisions=1)
COARSE = _native.FaceModel(**ARRAYS, subdivisions=0)

# Sums of a dozen float32 products of up to 100 mm: their rounding is below this.
ATOL_MM = 1e-4


def coefficients(seed, faces):
    rng = np.random.default_rng(seed)
    widths = MODEL.n_identity, MODEL.n_expression, MODEL.n_albedo
    return [rng.normal(size=(faces, width)).astype(np.float32) for width in widths]


def motion(seed, faces):
    rng = np.random.default_rng(seed)
    rotations = pose.rotations_from_vectors(rng.normal(0, 0.4, (faces, 3))).astype(np.float32)
    translations = rng.uniform([-300, -200, 700], [300, 200, 2000], (faces, 3)).astype(np.float32)
    return rotations, translations


def test_the_refined_mesh():
    assert (MODEL.n_vertices, MODEL.n_triangles) == (len(REFINED["mean_shape"]), len(REFINED["triangles"]))
    for name in ("triangles", "regions", "mirror"):
        np.testing.assert_array_equal(getattr(MODEL, name), REFINED[name], err_msg=name)
    for name in ("mean_shape", "mean_albedo", "uv"):
        np.testing.assert_allclose(getattr(MODEL, name), REFINED[name], rtol=1e-6, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(MODEL.landmark_vertices, ARRAYS["landmark_vertices"])


def test_an_unrefined_mesh_is_the_stored_one():
    for name in ("mean_shape", "mean_albedo", "triangles", "uv", "regions", "mirror", "landmark_vertices"):
        np.testing.assert_array_equal(getattr(COARSE, name), ARRAYS[name], err_msg=name)
    identity, expression, _ = coefficients(2, 3)
    n = len(ARRAYS["mean_shape"])
    np.testing.assert_array_equal(COARSE.shapes(identity, expression, 1), MODEL.shapes(identity, expression, 1)[:, :n])


def test_arrays_of_the_mesh_are_read_only_and_made_once():
    for name in ("mean_shape", "mean_albedo", "triangles", "uv", "regions", "mirror", "landmark_vertices"):
        array = getattr(MODEL, name)
        assert array is getattr(MODEL, name)
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@given(st.integers(0, 2**31), st.integers(0, 15))
def test_shapes_and_albedos_agree_with_the_twin(seed, faces):
    identity, expression, albedo = coefficients(seed, faces)
    np.testing.assert_allclose(
        MODEL.shapes(identity, expression, 2), reference.shapes(REFINED, identity, expression), atol=ATOL_MM
    )
    np.testing.assert_allclose(MODEL.albedos(albedo, 2), reference.albedos(REFINED, albedo), atol=1e-6)


def test_zero_coefficients_are_the_mean():
    zeros = [np.zeros((2, width), np.float32) for width in (MODEL.n_identity, MODEL.n_expression, MODEL.n_albedo)]
    np.testing.assert_array_equal(MODEL.shapes(zeros[0], zeros[1], 1), np.stack([MODEL.mean_shape] * 2))
    np.testing.assert_array_equal(MODEL.albedos(zeros[2], 1), np.stack([MODEL.mean_albedo] * 2))


def test_faces_do_not_depend_on_their_neighbours():
    identity, expression, albedo = coefficients(5, 27)
    order = np.random.default_rng(0).permutation(27)
    shapes, albedos = MODEL.shapes(identity, expression, 1), MODEL.albedos(albedo, 1)
    np.testing.assert_array_equal(MODEL.shapes(identity[order], expression[order], 1), shapes[order])
    np.testing.assert_array_equal(MODEL.albedos(albedo[order], 1), albedos[order])


def test_landmarks_are_vertices_of_the_shape():
    identity, expression, _ = coefficients(6, 4)
    expected = MODEL.shapes(identity, expression, 1)[:, MODEL.landmark_vertices]
    assert MODEL.landmarks(identity, expression).tobytes() == expected.tobytes()


@given(st.integers(0, 2**31), st.integers(0, 4))
def test_vertices_in_the_camera_frame(seed, faces):
    identity, expression, _ = coefficients(seed, faces)
    rotations, translations = motion(seed, faces)
    got = MODEL.vertices_camera(identity, expression, rotations, translations, 2)
    expected = camera.transform(reference.shapes(REFINED, identity, expression), rotations, translations)
    np.testing.assert_allclose(got, expected, atol=4e-4)  # float32 at 2000 mm: an ulp is 1.2e-4


@given(st.integers(0, 2**31), st.integers(0, 4))
def test_boxes_are_those_of_the_refined_mesh(seed, faces):
    identity, expression, _ = coefficients(seed, faces)
    rotations, translations = motion(seed, faces)
    boxes = MODEL.boxes(identity, expression, rotations, translations, 1130.0, (301.5, 188.25), 2)
    points = camera.transform(reference.shapes(REFINED, identity, expression), rotations, translations)
    expected = camera.boxes(camera.project(points, 1130.0, (301.5, 188.25))) if faces else np.zeros((0, 4))
    np.testing.assert_allclose(boxes, expected, atol=2e-3)


@given(st.integers(0, 2**31), st.integers(0, 3))
def test_normals_of_decoded_vertices(seed, faces):
    identity, expression, _ = coefficients(seed, faces)
    for model in (MODEL, COARSE):
        vertices = model.shapes(identity / 4, expression / 4, 1)
        expected = mesh.vertex_normals(vertices, model.triangles)
        # Midpoints are rounded to float32, which tilts the small triangles at them by about 1e-6 / 10 mm.
        np.testing.assert_allclose(model.normals(vertices, 2), expected, atol=2e-5)


def test_threads_do_not_change_a_byte():
    identity, expression, albedo = coefficients(8, 13)
    rotations, translations = motion(8, 13)
    calls = [
        lambda threads: MODEL.shapes(identity, expression, threads),
        lambda threads: MODEL.albedos(albedo, threads),
        lambda threads: MODEL.vertices_camera(identity, expression, rotations, translations, threads),
        lambda threads: MODEL.normals(MODEL.shapes(identity, expression, 1), threads),
        lambda threads: MODEL.boxes(identity, expression, rotations, translations, 1000.0, (3.0, 4.0), threads),
    ]
    for call in calls:
        one = call(1).tobytes()
        assert all(call(threads).tobytes() == one for threads in (2, 5, 0))


def changed(name, change):
    array = ARRAYS[name].copy()
    array = change(array)
    return {**ARRAYS, name: array}


def put(index, value):
    def change(array):
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "mean_shape",
            put((3, 1), np.nan),
            "'mean_shape' has a non-finite value at flat index 10, expected finite values",
        ),
        ("identity_basis", put((0, 0, 0), np.inf), "'identity_basis' has a non-finite value at flat index 0"),
        ("uv", put((0, 0, 0), np.nan), "'uv' has a non-finite value at flat index 0"),
        ("identity_basis", lambda a: a.astype(np.float32), "'identity_basis' has dtype float32, expected float16"),
        ("expression_basis", lambda a: a[:-1], "'expression_basis' has shape (168, 3, 4), expected (169, 3, K)"),
        ("mean_albedo", lambda a: a[:-1], "'mean_albedo' has shape (168, 3), expected (169, 3)"),
        ("landmark_vertices", lambda a: a[:5], "'landmark_vertices' has shape (5,), expected (68,)"),
        ("landmark_vertices", put(7, 625), "'landmark_vertices' has index 625, expected indices in 0..625"),
        ("mirror", put(0, 169), "'mirror' has index 169, expected indices in 0..169"),
        ("triangles", put((0, 0), -1), "'triangles' has index -1, expected indices in 0..169"),
        ("triangles", put(3, [5, 5, 6]), "'triangles' has corners 5, 5, 6 in triangle 3, expected three different"),
        ("triangles", lambda a: a[:, ::-1].copy(), "'triangles' has a surface that faces -z"),
        ("triangles", put(0, ARRAYS["triangles"][0][::-1]), "'triangles' has two triangles that run along edge"),
        ("triangles", lambda a: a[:0], "'uv' has shape (288, 3, 2), expected (0, 3, 2)"),
    ],
)
def test_a_broken_model_says_what_is_wrong(name, change, message):
    with pytest.raises(_native.ModelError, match=re.escape(message)):
        _native.FaceModel(**changed(name, change), subdivisions=1)


def test_more_subdivisions_than_one_are_refused():
    with pytest.raises(_native.ModelError, match=re.escape("'subdivisions' has 2, expected 0 or 1")):
        _native.FaceModel(**ARRAYS, subdivisions=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i, e: MODEL.shapes(i[:, 1:].copy(), e, 1), "'identity' has shape (2, 4), expected (F, 5)"),
        (lambda i, e: MODEL.shapes(i, e[:1], 1), "'expression' has shape (1, 4), expected (2, 4)"),
        (lambda i, e: MODEL.shapes(i * np.nan, e, 1), "'identity' has a non-finite value at flat index 0"),
        (lambda i, e: MODEL.shapes(i, e, 257), "'threads' has 257, expected 0 (all) to 256"),
        (
            lambda i, e: MODEL.boxes(i, e, *motion(0, 2)[:1], np.zeros((2, 3), np.float32), 1000.0, (0.0, 0.0), 1),
            "'translations' has face 0 with a vertex at Z <= 0, expected Z > 0",
        ),
    ],
)
def test_bad_coefficients_are_refused(call, message):
    identity, expression, _ = coefficients(1, 2)
    with pytest.raises(ValueError, match=re.escape(message)):
        call(identity, expression)
