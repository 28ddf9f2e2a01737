"""The torch layers against the native module, 1e-4 relative, on off-centre faces."""

import numpy as np
import pytest
import torch
from synthetic import write_synthetic_model

from wm3dr import _native
from wm3dr_training import layers
from wm3dr_training.decoder import cells_around, decode
from wm3dr_training.encoder import Activation, Layout

RNG = np.random.default_rng(8)
FACES = 5
POINT = (301.0, 177.0)
FOCAL = 1015.0


def f32(array) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)


def assert_close(mine: torch.Tensor, native: np.ndarray, relative: float = 1e-4) -> None:
    scale = max(1e-6, float(np.abs(native).max()))
    assert np.abs(mine.numpy() - native).max() <= relative * scale


@pytest.fixture(scope="module", params=[0, 1])
def models(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    if request.param == 0:  # without midpoints the landmarks must be stored vertices
        return write_synthetic_model(path, subdivisions=0).native, layers.FaceModel.load(path)
    return write_synthetic_model(path).native, layers.FaceModel.load(path)


@pytest.fixture(scope="module")
def coefficients():
    return f32(RNG.normal(0, 1, (FACES, 5))), f32(RNG.uniform(0, 1, (FACES, 4))), f32(RNG.normal(0, 1, (FACES, 3)))


@pytest.fixture(scope="module")
def poses():
    vectors = f32(np.concatenate([RNG.uniform(-1.5, 1.5, (FACES - 1, 3)), np.zeros((1, 3))]))
    translations = f32(np.column_stack([RNG.uniform(-400, 400, (FACES, 2)), RNG.uniform(500, 3000, FACES)]))
    return vectors, translations


def test_shapes_albedos_and_landmarks(models, coefficients):
    native, mine = models
    identity, expression, albedo = coefficients
    a, b, c = (torch.from_numpy(x) for x in coefficients)
    n0 = len(mine.mean_shape)
    assert_close(mine.shapes(a, b), native.shapes(identity, expression, 1)[:, :n0])
    assert_close(mine.albedos(c), native.albedos(albedo, 1)[:, :n0])
    assert_close(mine.landmark_rows()(a, b), native.landmarks(identity, expression))


def test_widths_and_kind_come_from_the_file(models):
    _, mine = models
    assert mine.layout.groups == [
        ("identity", 5),
        ("expression", 4),
        ("albedo", 3),
        ("rotation", 3),
        ("illumination", 27),
        ("translation", 3),
    ]
    assert mine.blendshapes


def test_rotations_and_ray_rotations(poses):
    vectors, translations = poses
    v, t = torch.from_numpy(vectors), torch.from_numpy(translations)
    assert_close(layers.rotations_from_vectors(v), _native.rotations_from_vectors(vectors))
    both = layers.ray_rotations(t) @ layers.rotations_from_vectors(v)
    assert_close(both, _native.rotations_from_vectors(vectors, translations))


def test_small_rotations_keep_their_gradient():
    vector = torch.tensor([[1e-4, -2e-4, 5e-5]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layers.rotations_from_vectors, (vector,), atol=1e-5)
    zero = torch.zeros(1, 3, requires_grad=True)
    layers.rotations_from_vectors(zero).sum().backward()
    assert torch.isfinite(zero.grad).all()


def test_translations_transform_and_projection(models, coefficients, poses):
    native, _ = models
    vectors, _ = poses
    offsets = f32(RNG.normal(0, 4, (FACES, 3)))
    centers = f32(RNG.uniform(0, 600, (FACES, 2)))
    translations = _native.translations_from_offsets(offsets, centers, FOCAL, POINT)
    o, c = torch.from_numpy(offsets), torch.from_numpy(centers)
    mine = layers.translations_from_offsets(o, c, torch.tensor(POINT).expand(FACES, 2))
    assert_close(mine, translations)
    rotations = _native.rotations_from_vectors(vectors, translations)
    shapes = native.shapes(coefficients[0], coefficients[1], 1)
    camera = _native.transform(shapes, rotations, translations, 1)
    moved = layers.transform(torch.from_numpy(shapes), torch.from_numpy(rotations), torch.from_numpy(translations))
    assert_close(moved, camera)
    assert_close(layers.project(moved, torch.tensor(POINT)), _native.project(camera, FOCAL, POINT))


def test_normals_and_shading(models, coefficients):
    native, mine = models
    n0 = len(mine.mean_shape)
    vertices = np.ascontiguousarray(native.shapes(coefficients[0], coefficients[1], 1)[:, :n0])
    triangles = mine.triangles.numpy().astype(np.int32)
    normals = _native.vertex_normals(vertices, triangles, 1)
    assert_close(layers.vertex_normals(torch.from_numpy(vertices), mine.triangles), normals)
    rows = f32(RNG.normal(0, 0.3, (FACES, 27)))
    light = rows.reshape(FACES, 3, 9).copy()
    light[:, :, 0] += 0.8
    illumination = layers.illumination_from_rows(torch.from_numpy(rows))
    np.testing.assert_allclose(illumination.numpy(), light, rtol=1e-6)
    assert_close(layers.shading(torch.from_numpy(normals), illumination), _native.shading(normals, light, 1))


def test_decoded_rows_project_as_the_native_pipeline(models):
    native, mine = models
    rows = f32(RNG.normal(0, 0.4, (FACES, mine.layout.width)))
    cells = np.array([[3, 40], [20, 2], [11, 17], [0, 0], [30, 31]])
    point = torch.tensor(POINT).expand(FACES, 2)
    faces = decode(torch.from_numpy(rows), torch.from_numpy(cells), point, mine.layout)
    centers = (cells[:, ::-1].astype(np.float32) + np.float32(0.5)) * np.float32(8)
    translations = _native.translations_from_offsets(f32(rows[:, -3:]), f32(centers), FOCAL, POINT)
    rotations = _native.rotations_from_vectors(f32(rows[:, 12:15]), translations)
    landmarks = _native.transform(native.landmarks(f32(rows[:, :5]), f32(rows[:, 5:9])), rotations, translations, 1)
    pixels = _native.project(landmarks, FOCAL, POINT)
    assert_close(faces.points_px(mine.landmark_rows()), pixels)


def test_cells_around_read_the_centre_first_and_stay_on_the_map():
    centers = torch.tensor([[4.0, 12.0], [63.9, 0.1]])
    cells, face = cells_around(centers, (8, 8), 3, torch.Generator().manual_seed(0))
    assert cells[:2].tolist() == [[1, 0], [0, 7]]
    assert face.tolist() == [0, 1] * 4
    assert cells.min() >= 0 and cells.max() <= 7
    steps = (cells[2:] - cells[:2].repeat(3, 1)).abs().max(1).values
    assert steps.max() <= 1


def test_activation_bounds_expressions_and_depth():
    layout = Layout(2, 3, 1)
    free = torch.randn(4, layout.width) * 30
    rows = layout.split(Activation(layout, blendshapes=True)(free))
    assert rows["expression"].min() >= 0 and rows["expression"].max() <= 1
    depth = 10 + rows["translation"][:, 2]
    assert depth.min() >= 10 * np.exp(-4.001) and depth.max() <= 10 * np.exp(4.001)
    given = layout.split(free)
    np.testing.assert_allclose(
        rows["translation"][:, :2], given["translation"][:, :2] * (1015 / depth)[:, None], rtol=1e-5
    )
    assert torch.equal(rows["identity"], given["identity"]) and torch.equal(rows["rotation"], given["rotation"])
    plain = layout.split(Activation(layout, blendshapes=False)(free))
    assert torch.equal(plain["expression"], given["expression"])


def test_a_missing_face_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'face_model' .*nothing\.safetensors does not exist"):
        layers.FaceModel.load(tmp_path / "nothing.safetensors")
