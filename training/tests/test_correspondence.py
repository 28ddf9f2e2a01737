"""Landmark fits and registration on synthetic faces, where the truth is known."""

from types import SimpleNamespace

import numpy as np
import pytest
import trimesh
from synthetic import write_synthetic_correspondence, write_synthetic_model

from wm3dr import ModelError
from wm3dr.face_model import parse_face_model
from wm3dr.files import DEFAULT_FACE_MODEL
from wm3dr_training.data import landmark_fit, register_mediapipe
from wm3dr_training.data.arrays import save_npz
from wm3dr_training.data.correspondence import load_correspondence, topology_of
from wm3dr_training.data.landmark_fit import PointModel, fit_landmarks, project_with_jacobian, rotation_from_vector

RNG = np.random.default_rng(3)
FRONTAL = np.diag([1.0, -1.0, -1.0])
CENTER = 96.0


@pytest.fixture(scope="module")
def model() -> PointModel:
    """60 points on half an ellipsoid, 5 identity modes, 3 expressions."""
    angle, height = RNG.uniform(-1.3, 1.3, 60), RNG.uniform(-60, 60, 60)
    mean = np.column_stack([70 * np.sin(angle), height, 60 * np.cos(angle)])
    return PointModel(mean, RNG.normal(0, 3.0, (60, 3, 8)), n_identity=5)


def projected(model, coefficients, vector, translation):
    rotation = rotation_from_vector(np.asarray(vector)) @ FRONTAL
    return project_with_jacobian(model.points(coefficients) @ rotation.T + translation, CENTER)[0], rotation


def test_projection_jacobian_is_the_derivative():
    points = RNG.normal(0, 30, (4, 3)) + np.array([10, -20, 900])
    _, jacobian = project_with_jacobian(points, CENTER)
    for axis in range(3):
        step = np.zeros(3)
        step[axis] = 1e-3
        ahead, behind = (project_with_jacobian(points + s * step, CENTER)[0] for s in (1, -1))
        np.testing.assert_allclose((ahead - behind) / 2e-3, jacobian[:, :, axis], atol=1e-6)


def test_rotation_by_hand():
    turned = rotation_from_vector(np.array([0, 0, np.pi / 2])) @ [1, 0, 0]
    np.testing.assert_allclose(turned, [0, 1, 0], atol=1e-12)
    assert np.array_equal(rotation_from_vector(np.zeros(3)), np.eye(3))


def test_fit_recovers_pose_and_landmarks(model):
    truth = np.array([0.8, -0.5, 0.3, 0.0, 1.0, 0.6, 0.0, 0.2])
    landmarks, rotation = projected(model, truth, [0.1, 0.5, -0.2], [20, -10, 950])
    fit = fit_landmarks(model, landmarks, np.ones(60), CENTER, iterations=30)
    assert np.abs(fit.residual).max() < 0.3
    angle = np.degrees(np.arccos((np.trace(fit.rotation.T @ rotation) - 1) / 2))
    assert angle < 1.5
    assert (fit.coefficients[5:] >= 0).all() and (fit.coefficients[5:] <= 1).all()


def test_expression_stays_in_its_bounds(model):
    landmarks, _ = projected(model, np.array([0, 0, 0, 0, 0, -0.8, 1.9, 0]), [0, 0, 0], [0, 0, 950])
    fit = fit_landmarks(model, landmarks, np.ones(60), CENTER, iterations=30)
    assert fit.coefficients[5] == 0.0 and 0.8 < fit.coefficients[6] <= 1.0


def test_points_without_weight_do_not_matter(model):
    landmarks, _ = projected(model, np.zeros(8), [0, 0.2, 0], [0, 0, 950])
    weights = np.ones(60)
    weights[:10] = 0
    spoiled = landmarks.copy()
    spoiled[:5], spoiled[5:10] = np.nan, 1e4
    fit = fit_landmarks(model, spoiled, weights, CENTER)
    assert np.abs(fit.residual[10:]).max() < 1e-3


def test_outlier_is_held_off_by_the_robust_weight(model):
    landmarks, _ = projected(model, np.zeros(8), [0, 0, 0], [0, 0, 950])
    landmarks[0] += 40
    fit = fit_landmarks(model, landmarks, np.ones(60), CENTER)
    assert np.linalg.norm(fit.residual[1:], axis=1).mean() < 0.5


def test_fit_checks_its_input(model):
    with pytest.raises(ValueError, match=r"landmarks \(59, 2\)"):
        fit_landmarks(model, np.zeros((59, 2)), np.ones(60), CENTER)
    with pytest.raises(ValueError, match="only 3 weights"):
        fit_landmarks(model, np.zeros((60, 2)), np.r_[np.ones(3), np.zeros(57)], CENTER)


def test_similarity_is_recovered():
    points = RNG.normal(size=(20, 3))
    rotation = rotation_from_vector(np.array([0.3, -1.0, 0.4]))
    scale, found, shift = register_mediapipe.similarity(points, 2.5 * points @ rotation.T + [1, 2, 3])
    np.testing.assert_allclose(scale, 2.5)
    np.testing.assert_allclose(found, rotation, atol=1e-12)
    np.testing.assert_allclose(shift, [1, 2, 3], atol=1e-12)


@pytest.fixture(scope="module")
def sphere() -> register_mediapipe.Surface:
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=50)
    return register_mediapipe.Surface(mesh.vertices, mesh.faces)


def test_places_are_the_nearest_points(sphere):
    points = RNG.normal(size=(30, 3))
    points *= 55 / np.linalg.norm(points, axis=1, keepdims=True)
    places = sphere.place(points, points / 55)
    found = places.of(sphere.vertices)
    # 5 mm above the sphere, whose facets are at most 0.5 mm inside of it
    np.testing.assert_allclose(np.linalg.norm(found - points, axis=1), 5.25, atol=0.27)
    np.testing.assert_allclose(places.weights.sum(axis=1), 1)


def test_places_keep_to_their_side(sphere):
    """A point near the centre goes where its normal says."""
    point = np.array([[0.0, 0.0, 48.0]])
    assert sphere.place(point, np.array([[0.0, 0.0, 1.0]])).of(sphere.vertices)[0, 2] > 40


def test_tangent_move_cancels_a_wrong_place(model):
    """Targets come from points moved 2 mm along the surface; the mean of photos in several poses says so."""
    radial = model.mean * [1, 0, 1]
    normals = radial / np.linalg.norm(radial, axis=1, keepdims=True)
    along = np.cross(normals, [0.0, 1.0, 0.0])
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    moved = PointModel(model.mean + 2 * along, model.basis, model.n_identity)
    fits, targets = [], []
    for yaw in (-0.6, -0.3, 0.0, 0.3, 0.6):
        target, rotation = projected(moved, np.zeros(8), [0, yaw, 0], np.array([0, 0, 950.0]))
        fits.append(landmark_fit.LandmarkFit(np.zeros(8), rotation, np.array([0, 0, 950.0]), np.zeros((60, 2))))
        targets.append(target)
    moves = register_mediapipe.tangent_moves(model, normals, fits, targets)
    seen = normals[:, 2] > 0.5
    np.testing.assert_allclose(moves[seen], 2 * along[seen], atol=0.25)


def test_confidence_rises_from_the_outline():
    """A grid of 9 × 9 points: rings 0, 1, 2, and the rest; the upper half is forehead."""
    y, x = np.divmod(np.arange(81), 9)
    corner = (np.arange(8)[:, None] * 9 + np.arange(8)).ravel()
    triangles = np.concatenate(
        [np.stack([corner, corner + 1, corner + 10], 1), np.stack([corner, corner + 10, corner + 9], 1)]
    )
    heights = np.where(y > 4, 100.0, 0.0)
    confidence = register_mediapipe.confidence_of(np.zeros((81, 3)), triangles, heights)
    ring = np.minimum.reduce([x, y, 8 - x, 8 - y])
    wanted = np.array([0.1, 0.3, 0.6, 1.0, 1.0])[ring] * np.where(y > 4, 0.5, 1)
    np.testing.assert_allclose(confidence, wanted)


def test_refined_mirror_is_an_involution():
    """Two triangles that share the edge on the mirror plane."""
    geometry = SimpleNamespace(triangles=np.array([[0, 1, 2], [0, 3, 1]], np.int32), mirror=np.array([0, 1, 3, 2]))
    mirror = register_mediapipe.refined_mirror(geometry)
    # edges in order: 01 02 03 12 13 → vertices 4 … 8
    assert mirror.tolist() == [0, 1, 3, 2, 4, 6, 5, 8, 7]


def test_the_correspondence_of_the_package_is_that_of_the_default_face_model():
    if not DEFAULT_FACE_MODEL.exists():
        pytest.skip(f"{DEFAULT_FACE_MODEL}, the default face model, is not there")
    metadata, arrays = parse_face_model(DEFAULT_FACE_MODEL.read_bytes())
    points = load_correspondence()
    assert points.face_model == metadata.name
    points.require_mesh(metadata.name, len(arrays["mean_shape"]), arrays["triangles"])
    turned = arrays["triangles"].copy()
    turned[5] = np.roll(turned[5], 1)
    with pytest.raises(ModelError, match=r"'face_model' 'turned' has other triangles, but .* 'wm3dr-face' with 9035"):
        points.require_mesh("turned", len(arrays["mean_shape"]), turned)


def test_a_mesh_without_correspondence_is_told_how_to_get_one(tmp_path):
    path = tmp_path / "model.safetensors"
    write_synthetic_model(path)
    mesh = register_mediapipe.MorphableMesh.of_file(path)
    with pytest.raises(ModelError, match=r"'synthetic-for-tests' has 169 vertices, .*register_mediapipe --face-model"):
        load_correspondence().require_mesh(mesh.name, len(mesh.mean_shape), mesh.triangles)


@pytest.fixture()
def registered(tmp_path):
    """The synthetic model's mesh, and random places on it in `points.npz`."""
    write_synthetic_model(tmp_path / "model.safetensors")
    places = write_synthetic_correspondence(tmp_path / "points.npz", tmp_path / "model.safetensors")
    return register_mediapipe.MorphableMesh.of_file(tmp_path / "model.safetensors"), places


def test_a_correspondence_of_ones_own_is_read_and_belongs_to_its_mesh(tmp_path, registered):
    mesh, places = registered
    points = load_correspondence(tmp_path / "points.npz")
    assert (points.face_model, points.n_vertices) == ("synthetic-for-tests", 169)
    assert points.topology == topology_of(mesh.triangles.astype(np.int64))
    points.require_mesh("another name", 169, mesh.triangles)  # the mesh counts, not the name
    np.testing.assert_allclose(points.points(mesh.mean_shape), places.of(mesh.mean_shape), atol=1e-4)


def test_bad_correspondence_files(tmp_path, registered):
    path = tmp_path / "points.npz"
    arrays = dict(np.load(path))
    with pytest.raises(FileNotFoundError, match=r"'correspondence' .*nothing\.npz does not exist"):
        load_correspondence(tmp_path / "nothing.npz")
    path.write_bytes(b"no archive")
    with pytest.raises(ModelError, match=r"'correspondence' .*points\.npz cannot be read"):
        load_correspondence(path)
    save_npz(path, **{name: array for name, array in arrays.items() if name != "topology"})
    with pytest.raises(ModelError, match="lacks topology: it was not written by this version"):
        load_correspondence(path)
    save_npz(path, **arrays | {"weights": arrays["weights"][:9]})
    with pytest.raises(ModelError, match=r"has vertex_ids \(468, 3\) and weights \(9, 3\), expected \(468, 3\)"):
        load_correspondence(path)
    save_npz(path, **arrays | {"n_vertices": np.array(100)})
    with pytest.raises(ModelError, match="names vertices beyond the 100 of its mesh"):
        load_correspondence(path)
