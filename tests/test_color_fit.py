"""Albedo and light fitted to a photo: known faces are painted into one, and have to look as they do there."""

from pathlib import Path

import numpy as np
import pytest

import wm3dr
from wm3dr import _native
from wm3dr.camera import Camera
from wm3dr.dense import DenseFaces
from wm3dr.face_model import FaceModel
from wm3dr.image import NetworkInput

SIZE = (320, 320)
CAMERA = Camera(1015.0, (160.0, 160.0), SIZE)
SOLVAY = Path(__file__).parents[1] / "docs" / "photos" / "solvay_1927.jpg"
UPRIGHT = np.diag(np.float32([1, -1, -1]))


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return FaceModel.load()


def faces_at(model: FaceModel, places, seed: int = 0, threads: int = 1) -> DenseFaces:
    """Faces of known shape, albedo and light with their origins at places (x, y, z) mm."""
    rng = np.random.default_rng(seed)
    n = len(places)
    light = rng.normal(0.0, 0.02, (n, 3, 1)) + rng.normal(0.0, 0.15, (n, 1, 9))  # hardly tinted
    light[:, :, 0] += 0.8
    return DenseFaces(
        model,
        identity=rng.normal(0, 0.7, (n, model.widths["identity"])).astype(np.float32),
        expression=np.zeros((n, model.widths["expression"]), np.float32),
        albedo=rng.normal(0, 0.8, (n, model.widths["albedo"])).astype(np.float32),
        illumination=light.astype(np.float32),
        rotations=np.repeat(UPRIGHT[None], n, axis=0),
        translations=np.float32(places),
        camera=CAMERA,
        threads=threads,
    )


def painted(faces: DenseFaces) -> np.ndarray:
    """The faces before a blue wall."""
    return np.where((faces.raster.face_id >= 0)[..., None], faces.raster_color, np.uint8([20, 40, 200]))


def unknown(faces: DenseFaces, photo: np.ndarray, scale: float = 1.0, threads: int = 1, known=0.0) -> DenseFaces:
    """The same shapes, of whose colours nothing is known but the photo, and a share of the light."""
    light = (known * faces.illumination).astype(np.float32)
    light[:, :, 0] += np.float32(0.8 * (1 - known))
    return DenseFaces(
        faces.face_model,
        identity=faces.identity,
        expression=faces.expression,
        albedo=np.zeros_like(faces.albedo_coefficients),
        illumination=light,
        rotations=faces.rotations,
        translations=faces.translations,
        camera=faces.camera,
        threads=threads,
        photo=NetworkInput(photo[None], scale, faces.camera.size),
    )


def difference(found: DenseFaces, truth: DenseFaces, face: int, where=True) -> float:
    """Mean colour difference over the skin of a face that is seen, 0-255."""
    names = truth.face_model.region_names
    skin = np.isin(truth.face_model.regions, [names.index("skin"), names.index("nose")])
    seen = skin & truth.visible[face] & where
    assert seen.sum() > 1000
    return float(255 * np.abs(found.colors[face] - truth.colors[face])[seen].mean())


def test_the_colors_of_the_photo_are_found(model):
    truth = faces_at(model, [(-70, 0, 1050), (75, 10, 1000)])
    found = unknown(truth, painted(truth))
    ambient = np.zeros_like(truth.illumination)
    ambient[:, :, 0] = 0.8
    plain = truth.changed(albedo=np.zeros_like(truth.albedo_coefficients), illumination=ambient)
    for face in range(2):
        before = difference(plain, truth, face)
        assert difference(found, truth, face) < 3 < before / 2
    # What made them is found, too, as far as it is not a matter of bright skin or bright light.
    found_albedo, albedo = found.albedo[0].ravel(), truth.albedo[0].ravel()
    assert np.corrcoef(found_albedo, albedo)[0, 1] > np.corrcoef(model.mean_albedo.ravel(), albedo)[0, 1]


def test_the_photo_may_be_scaled_and_padded(model):
    truth = faces_at(model, [(0, 0, 800)])
    half = painted(truth).reshape(160, 2, 160, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
    padded = np.zeros((192, 224, 3), np.uint8)
    padded[:160, :160] = half
    assert difference(unknown(truth, padded, 0.5), truth, 0) < 3


def test_what_hides_a_face_does_not_color_it(model):
    truth = faces_at(model, [(0, 0, 700)])
    photo = painted(truth)
    photo[:, 190:] = (30, 160, 40)  # a green curtain before a good third of it
    found = unknown(truth, photo, known=0.8)
    free = truth.vertices_px[0][:, 0] < 185
    assert 0.25 < (~free & truth.visible[0]).sum() / truth.visible[0].sum() < 0.45
    assert difference(found, truth, 0, free) < 6
    green = found.colors[0][~free & truth.visible[0]] @ np.float32([-0.5, 1, -0.5])
    assert green.mean() < 0.05  # the curtain's is 0.49


def test_a_face_before_another_does_not_color_it(model):
    truth = faces_at(model, [(-20, 0, 1000), (70, 0, 700)], seed=3)
    truth = truth.changed(illumination=truth.illumination * np.float32([1, 0.4])[:, None, None])
    assert truth.visible[0].mean() < 0.8 * truth.visible[1].mean()
    assert difference(unknown(truth, painted(truth), known=0.8), truth, 0) < 4


def test_a_face_that_is_hardly_seen_keeps_its_colors(model):
    truth = faces_at(model, [(0, 0, 1000), (215, 0, 1000), (0, 900, 1000)])
    found = unknown(truth, painted(truth))
    assert np.abs(found.albedo_coefficients[0]).max() > 0.1
    np.testing.assert_array_equal(found.albedo_coefficients[1:], 0)
    np.testing.assert_array_equal(found.illumination[1:, :, 1:], 0)


def test_threads_give_the_same_bytes(model):
    truth = faces_at(model, [(-70, 0, 1050), (75, 10, 1000), (0, 40, 1400)])
    one = unknown(truth, painted(truth))
    for threads in (2, 5):
        more = unknown(truth, painted(truth), threads=threads)
        np.testing.assert_array_equal(more.albedo_coefficients, one.albedo_coefficients)
        np.testing.assert_array_equal(more.illumination, one.illumination)


def test_colors_are_fitted_when_asked_for_and_to_the_faces_as_they_were(model):
    truth = faces_at(model, [(-70, 0, 1050), (75, 10, 1000)])
    found = unknown(truth, painted(truth))
    moved = found.changed(translations=truth.translations + np.float32([0, 500, 0]))
    edited = moved.changed(expression=np.ones_like(truth.expression) * np.float32(0.1))
    assert edited.identity is truth.identity and "fitted" not in found._kept
    np.testing.assert_array_equal(edited.albedo_coefficients, found.albedo_coefficients)
    assert "fitted" in found._kept and found._photo is None  # the photo is not kept longer than needed
    relit = found.changed(illumination=truth.illumination)
    np.testing.assert_array_equal(relit.albedo_coefficients, found.albedo_coefficients)
    np.testing.assert_array_equal(relit.illumination, truth.illumination)


@pytest.mark.parametrize("change", [{"size": (64, 64)}, {"albedo": 3}, {"focal": 0.0}, {"vertices": np.nan}])
def test_bad_input_is_named(model, change):
    truth = faces_at(model, [(0, 0, 1000)])
    image = np.zeros((*change.get("size", (320, 320)), 3), np.uint8)
    albedo = np.zeros((1, change.get("albedo", 80)), np.float32)
    vertices = truth.stored_vertices * np.float32(change.get("vertices", 1))
    meshes = (vertices, truth.stored_normals)
    arguments = (change.get("focal", 1015.0), (160.0, 160.0), *meshes, albedo, truth.illumination, 1)
    if "size" in change:  # any size is a photo; grey is not
        image = image[..., 0]
    with pytest.raises(ValueError, match={"size": "image", "vertices": "vertices_camera"}.get(*change, *change)):
        model.color_fitter.fit(image, *arguments)


def test_weights_are_checked(model):
    n = int(model.stored_triangles.max()) + 1
    for weights, message in [(np.ones(n - 1), "weights"), (np.full(n, -1), "negative"), (np.full(n, np.nan), "finite")]:
        with pytest.raises(ValueError, match=message):
            _native.ColorFitter(model.native, weights.astype(np.float32))
    assert _native.ColorFitter(model.native, np.zeros(n, np.float32)).n_areas == 0


def test_a_real_photo_is_matched_better_than_by_the_encoder_alone():
    photo = np.asarray(wm3dr.image.read_rgb(SOLVAY)).astype(float)
    errors = {}
    for fit_colors in (False, True):
        result = wm3dr.Reconstructor(fit_colors=fit_colors).reconstruct(SOLVAY)
        raster = result.render()
        skin = np.isin(raster.region, [result.face_model.region_names.index(name) for name in ("skin", "nose")])
        errors[fit_colors] = np.abs(raster.color.astype(float) - photo)[skin].mean()
    assert errors[True] < 0.7 * errors[False]
