"""The stages that build the default face model: each recovers what was planted; refinement is the runtime's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import wm3dr
from wm3dr_training.face_model.albedo import Samples, delight, principal_modes, tone_balance
from wm3dr_training.face_model.build import build_face_model, contour_region
from wm3dr_training.face_model.geometry import (
    Geometry,
    edges_from_triangles,
    mirror_from_vertices,
    mirrored_expression,
    refined_triangles,
    triangulate_quads,
)
from wm3dr_training.face_model.london import resampled
from wm3dr_training.face_model.registration import (
    FRONTAL,
    Fit,
    Observations,
    fit_photo,
    interior_edges,
    rotation_from_vector,
    shapes_from_geometry,
)
from wm3dr_training.face_model.report import shading
from wm3dr_training.face_model.sampling import vertex_normals, visible_vertices
from wm3dr_training.face_model.skin_tones import BioSkin, tone_ratios

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def stored():
    from wm3dr.face_model import parse_face_model

    path = REPOSITORY / "models" / "wm3dr-face.safetensors"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return parse_face_model(path.read_bytes())


@pytest.fixture(scope="module")
def geometry(stored) -> Geometry:
    metadata, arrays = stored
    return Geometry(
        mean_shape=arrays["mean_shape"],
        identity_basis=arrays["identity_basis"].astype(np.float32),
        identity_mirror_sign=np.ones(80, np.float32),
        identity_energy=np.ones(80),
        expression_basis=arrays["expression_basis"].astype(np.float32),
        expression_names=metadata.expression_names,
        triangles=arrays["triangles"],
        landmark_vertices=arrays["landmark_vertices"],
        mirror=arrays["mirror"],
        uv=arrays["uv"],
    )


@pytest.fixture(scope="module")
def shapes(geometry):
    return shapes_from_geometry(geometry, refined_triangles(geometry.triangles, len(geometry.mean_shape)))


@pytest.fixture(scope="module")
def regions(geometry, stored):
    labels = stored[1]["regions"]
    return np.concatenate([labels, labels[edges_from_triangles(geometry.triangles)[:, 0]]])


def test_refinement_is_the_runtimes(stored, geometry, shapes, regions):
    model = wm3dr.FaceModel.from_arrays(*stored)
    np.testing.assert_array_equal(shapes.triangles, model.triangles)
    np.testing.assert_array_equal(shapes.mirror, model.mirror)
    np.testing.assert_array_equal(regions, model.regions)
    np.testing.assert_allclose(shapes.mean, model.mean_shape, atol=1e-4)


def test_quads_are_split_alike_on_both_sides():
    points = [(-2, 0), (-1, 0), (-2.2, 1), (-1, 1.6), (1, 0), (2, 0), (1, 1.6), (2.2, 1)]
    vertices = np.array([(x, y, 0.1 * x * x) for x, y in points], np.float64)
    mirror = mirror_from_vertices(vertices, 1e-6)
    quads = np.array([[0, 1, 3, 2], [7, 6, 4, 5]], np.int32)
    split = triangulate_quads(vertices, quads, mirror)
    triangles = np.take_along_axis(quads[:, None], split, axis=2).reshape(-1, 3)
    edges = set(map(tuple, edges_from_triangles(triangles).tolist()))
    assert {tuple(sorted(mirror[list(edge)].tolist())) for edge in edges} == edges
    assert (1, 2) in edges and (0, 3) not in edges  # the shorter diagonal


def test_a_shape_without_symmetry_is_refused():
    with pytest.raises(ValueError, match="mirrored vertex"):
        mirror_from_vertices(np.array([[1.0, 0, 0], [2.0, 0, 0]]), 0.01)


@pytest.mark.parametrize(
    ("name", "other"),
    [("eyeBlink_L", "eyeBlink_R"), ("jawRight", "jawLeft"), ("mouthLeft", "mouthRight"), ("jawOpen", "jawOpen")],
)
def test_mirrored_expression(name, other):
    assert mirrored_expression(name) == other and mirrored_expression(other) == name


def test_registration_recovers_planted_pose_and_shape(geometry, shapes, regions):
    rng = np.random.default_rng(3)
    coefficients = np.zeros(shapes.basis.shape[2])
    coefficients[:10] = rng.normal(0, 0.8, 10)
    coefficients[shapes.n_identity + geometry.expression_names.index("jawOpen")] = 0.35
    truth = Fit(
        rotation_from_vector(np.array([0.12, -0.2, 0.07])) @ FRONTAL,
        np.array([35.0, -20.0, 1500.0]),
        coefficients,
        3.5 * 900,
        np.array([400.0, 450.0]),
    )
    corners = np.repeat(rng.choice(len(geometry.mean_shape), 300, replace=False)[:, None], 3, axis=1)
    empty = Observations(
        corners, np.tile([1.0, 0, 0], (300, 1)), np.zeros((300, 2)), np.full(300, 0.5), np.zeros((0, 2))
    )
    observations = replace(empty, points_px=truth.project(truth.camera_points(*shapes.at(empty))))
    edges = interior_edges(shapes.triangles, contour_region(shapes, regions))
    fit = fit_photo(shapes, observations, edges, (800, 900), "smiling", iterations=15)
    at = fit.project(fit.camera_points(*shapes.at(observations)))
    assert np.linalg.norm(at - observations.points_px, axis=1).mean() < 0.3
    assert np.abs(fit.rotation - truth.rotation).max() < 0.02
    assert np.abs(fit.translation - truth.translation).max() < 25  # depth trades against size
    expression = fit.coefficients[shapes.n_identity :]
    assert (expression >= 0).all() and (expression <= 1).all()
    assert expression.argmax() == geometry.expression_names.index("jawOpen")


def test_the_nose_hides_what_lies_behind_it(shapes, regions):
    camera = shapes.mean @ (rotation_from_vector(np.array([0, 0.9, 0])) @ FRONTAL).T + [0, 0, 1500]
    points = np.array([300.0, 300]) + 2000 * camera[:, :2] / camera[:, 2:]
    visible = visible_vertices(camera, points, shapes.triangles, (600, 600))
    normals = vertex_normals(camera, shapes.triangles)
    facing = (normals * camera).sum(axis=1) < -200
    x, y, z = shapes.mean.T
    far_inner_eye = facing & (np.abs(y - 15) < 8) & (np.abs(x) > 10) & (np.abs(x) < 20) & (z < 28)
    sides = [visible[far_inner_eye & (sign * x > 0)] for sign in (1, -1)]
    rates = sorted(side.mean() if len(side) else 0.0 for side in sides)
    assert rates[1] > 0.95 and rates[0] < 0.5


def test_light_is_separated_from_tone(geometry, shapes, regions, stored):
    """Thirty photos of faces that differ in tone and light only: the tones come back, the light does not."""
    rng = np.random.default_rng(11)
    normals = vertex_normals(shapes.mean, shapes.triangles)
    weights = np.clip(normals[:, 2], 0, 1)
    face = shapes.refine @ (stored[1]["mean_albedo"].astype(np.float64) / stored[1]["mean_albedo"].mean(axis=0))
    tones = np.array([0.6, 0.45, 0.4]) * rng.uniform(0.6, 1.3, (30, 1))
    colors = []
    for tone in tones:
        light = np.array([0.75, *rng.normal(0, 0.02, 8)])
        light[2] += 0.2
        values = shading(normals, light)
        colors.append(tone * face * (values / np.median(values[(weights > 0.6) & (regions == 0)]))[:, None])
    samples = Samples(
        np.array(colors, np.float32), np.tile(weights, (30, 1)).astype(np.float32), np.tile(normals, (30, 1, 1))
    )
    delit = delight(samples, geometry, shapes, regions)
    skin = (stored[1]["regions"] == 0) & (geometry.mean_shape[:, 2] > 0) & (geometry.mean_shape[:, 1] < 60)
    found = delit.albedos[:, skin].mean(axis=1)
    np.testing.assert_allclose(found / found.mean(axis=0), tones / tones.mean(axis=0), rtol=0.06)
    ratio = delit.albedos[:, skin] / delit.albedos[:, skin].mean(axis=1, keepdims=True)
    assert ratio.std(axis=0).max() < 0.06  # photos of one face under thirty lights agree
    np.testing.assert_allclose(delit.albedos[:, geometry.mirror], delit.albedos, atol=1e-9)


def test_modes_are_standard_deviations():
    rng = np.random.default_rng(2)
    direction = rng.normal(size=(50, 3))
    coefficients = rng.normal(size=400)
    albedos = 0.5 + 0.03 * coefficients[:, None, None] * direction + rng.normal(0, 1e-4, (400, 50, 3))
    mean, basis, variance = principal_modes(albedos, np.ones(400), rng.uniform(1, 2, 50), 3)
    np.testing.assert_allclose(mean, albedos.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(np.abs(basis[..., 0]), 0.03 * coefficients.std() * np.abs(direction), atol=2e-3)
    assert variance[0] / variance.sum() > 0.99


def test_rare_tones_weigh_more():
    weights = tone_balance(np.array([[0.7, 0.6, 0.5]] * 9 + [[0.2, 0.15, 0.1]]))
    assert weights[9] > 2 * weights[0] and weights.mean() == pytest.approx(1)


def test_bioskin_returns_the_colours_of_skin():
    path = REPOSITORY.parent / "shared" / "face_model" / "bioskin" / "BioSkinRGB.pt"
    if not path.is_file():
        pytest.skip(f"no {path}")
    bioskin = BioSkin(path)
    colors = bioskin.colors(np.random.default_rng(0).random((500, 5)))
    assert np.median(np.abs(bioskin.colors(bioskin.parameters(colors)) - colors)) < 0.01
    more_melanin = bioskin.colors(np.array([[0.2, 0.5, 0.5, 0.3, 0.5], [0.7, 0.5, 0.5, 0.3, 0.5]]))
    assert (more_melanin[1] < more_melanin[0]).all()
    ratios = tone_ratios(bioskin, np.array([[0.7, 0.55, 0.48], [0.3, 0.2, 0.16]]), 3)
    assert ratios.shape == (3, 2, 3) and ratios.std(axis=0).min() > 0.01


def test_resampled_keeps_ends_and_spacing():
    curve = np.array([[0.0, 0], [1, 0], [1, 3]])
    np.testing.assert_allclose(resampled(curve, 5), [[0, 0], [1, 0], [1, 1], [1, 2], [1, 3]])


def test_a_missing_input_is_named(tmp_path):
    missing = str(tmp_path / "nothing.npz")
    options = ["--ict", missing, "--london", missing, "--bioskin", missing, "--out", str(tmp_path / "out.safetensors")]
    result = CliRunner().invoke(build_face_model, options)
    assert result.exit_code != 0 and "--ict" in result.output and "nothing.npz" in result.output
    assert not (tmp_path / "out.safetensors").exists()
