"""Targets from per-photo fits: mirrored and turned like their photos; colours of points against known images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from synthetic import write_synthetic_labels, write_synthetic_model

import wm3dr
from wm3dr import ModelError
from wm3dr_training import layers
from wm3dr_training.bank import CROP_SIZE
from wm3dr_training.composer import Batch
from wm3dr_training.data.correspondence import load_correspondence
from wm3dr_training.data.fits import CropColors, fit_photo, point_model
from wm3dr_training.data.landmark_fit import FOCAL_PX
from wm3dr_training.decoder import Faces
from wm3dr_training.encoder import FOCAL
from wm3dr_training.layers import FaceModel
from wm3dr_training.renderer import NativeTriangleIds, render
from wm3dr_training.sampling import crop_affines
from wm3dr_training.targets import Fits, FitTargets, SparseColors, _sampled, load_fits, mirror_matrix

MODEL = Path(__file__).parents[2] / "models" / "wm3dr-face.safetensors"


@pytest.fixture(scope="module")
def face_model() -> FaceModel:
    if not MODEL.exists():
        pytest.skip("the default face model is not there")
    return FaceModel.load(MODEL)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory) -> FaceModel:
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    write_synthetic_model(path)
    return FaceModel.load(path)


def a_batch(angles: torch.Tensor, mirrored: torch.Tensor, size: int = 128, face: float = 80.0) -> Batch:
    """One face in the middle of each of some black canvases."""
    n = len(angles)
    centers, sizes = torch.full((n, 2), size / 2), torch.full((n,), face)
    return Batch(
        images=torch.zeros(n, 3, size, size),
        image_index=torch.arange(n),
        points=torch.zeros(n, 536, 2),
        weights=torch.ones(n, 536),
        centers=centers,
        sizes=sizes,
        bank_index=torch.arange(n),
        mirrored=mirrored,
        affine=crop_affines(centers, sizes, angles, mirrored),
        heatmap=torch.zeros(n, 1, size // 8, size // 8),
        principal_point=torch.full((n, 2), size / 2),
        clear=torch.ones(n, 1, size, size),
    )


def some_fits(model: FaceModel, n: int, seed: int = 0) -> Fits:
    g = torch.Generator().manual_seed(seed)
    vectors = 0.4 * torch.randn(n, 3, generator=g)
    return Fits(
        identity=torch.randn(n, model.layout.identity, generator=g),
        expression=torch.rand(n, model.layout.expression, generator=g),
        rotation=layers.rotations_from_vectors(vectors),
        albedo=torch.randn(n, model.layout.albedo, generator=g),
        shape_weight=torch.ones(n),
        color_weight=torch.ones(n),
    )


def faces_of(model: FaceModel, groups: dict[str, torch.Tensor], batch: Batch, depth: float = 900.0) -> Faces:
    n = len(batch.centers)
    translations = torch.tensor([0.0, 0.0, depth]).expand(n, 3)
    return Faces(groups, layers.rotations_from_vectors(groups["rotation"]), translations, batch.principal_point)


def test_a_basis_of_symmetric_and_antisymmetric_modes_mirrors_by_signs():
    partner = torch.tensor([1, 0])
    basis = torch.zeros(2, 3, 2)
    basis[:, 0, 0] = torch.tensor([1.0, -1.0])  # both sides move outward: symmetric
    basis[:, 0, 1] = torch.tensor([1.0, 1.0])  # both move to the left: antisymmetric
    torch.testing.assert_close(mirror_matrix(basis, partner, flips=True), torch.diag(torch.tensor([1.0, -1.0])))


def test_left_and_right_blendshapes_change_places(face_model):
    names = list(face_model.metadata.expression_names)
    matrix = mirror_matrix(face_model.expression_basis, face_model.mirror, flips=True)
    left, right = names.index("mouthSmile_L"), names.index("mouthSmile_R")
    one = torch.zeros(1, len(names))
    one[0, left] = 1.0
    mirrored = (one @ matrix)[0]
    assert mirrored[right] > 0.95 and mirrored[left].abs() < 0.05


@pytest.mark.parametrize("mirrored", [False, True])
def test_rotations_follow_the_affine_map_of_the_crop(face_model, mirrored):
    batch = a_batch(torch.tensor([0.3, -0.7]), torch.tensor([mirrored, mirrored]))
    fits = some_fits(face_model, 2)
    targets = FitTargets(face_model, fits, face_model.landmark_rows())
    wanted = targets.rotations(batch, torch.arange(2))
    points = face_model.landmark_rows().mean
    source = points * torch.tensor([-1.0, 1.0, 1.0]) if mirrored else points
    in_crop = (source @ fits.rotation.transpose(1, 2) if not mirrored else points @ fits.rotation.transpose(1, 2))[
        ..., :2
    ]
    scaled = in_crop @ batch.affine[:, :, :2].transpose(1, 2)  # orthographic: the plane of the image
    scale = torch.linalg.det(batch.affine[:, :, :2]).abs().sqrt()[:, None, None]
    shown = (source @ wanted.transpose(1, 2))[..., :2] * scale
    torch.testing.assert_close(shown, scaled, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_fit_itself_has_no_error_and_another_face_has(face_model, mirrored):
    batch = a_batch(torch.zeros(3), torch.full((3,), mirrored))
    fits = some_fits(face_model, 3)
    targets = FitTargets(face_model, fits, face_model.landmark_rows())
    flip = torch.tensor([-1.0, 1.0, 1.0])
    wanted = targets.rotations(batch, torch.arange(3))
    if mirrored:
        torch.testing.assert_close(wanted, flip[:, None] * fits.rotation * flip)
    vectors = _vectors(wanted)
    groups = {
        "identity": fits.identity @ targets.identity_mirror if mirrored else fits.identity,
        "expression": fits.expression @ targets.expression_mirror if mirrored else fits.expression,
        "albedo": fits.albedo @ targets.albedo_mirror if mirrored else fits.albedo,
        "rotation": vectors,
    }
    groups = {name: value.clone().requires_grad_() for name, value in groups.items()}
    terms = targets(faces_of(face_model, groups, batch), batch, torch.arange(3))
    for name, value in terms.items():
        assert value < 0.45, name  # the rounding of the square root at zero is 0.2 and 0.32
    groups["identity"] = groups["identity"] + 1.0
    groups["rotation"] = groups["rotation"] + torch.tensor([0.1, 0.0, 0.0])
    worse = targets(faces_of(face_model, groups, batch), batch, torch.arange(3))
    assert worse["identity"] > 3 * terms["identity"] and worse["rotation"] > 5 * terms["rotation"]
    torch.testing.assert_close(worse["expression"], terms["expression"])
    sum(worse.values()).backward()


def _vectors(rotations: torch.Tensor) -> torch.Tensor:
    """Inverse of `rotations_from_vectors`, for angles below π."""
    turned = rotations * torch.tensor([1.0, -1.0, -1.0])
    angle = ((turned.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1).acos()
    axis = torch.stack(
        [turned[:, 2, 1] - turned[:, 1, 2], turned[:, 0, 2] - turned[:, 2, 0], turned[:, 1, 0] - turned[:, 0, 1]], dim=1
    )
    return axis * (angle / (2 * angle.sin()))[:, None]


def test_identity_term_by_hand(small_model):
    batch = a_batch(torch.zeros(2), torch.zeros(2, dtype=torch.bool))
    fits = some_fits(small_model, 2)
    fits.shape_weight[1] = 0.0  # not fitted: does not count
    rows = small_model.landmark_rows()
    targets = FitTargets(small_model, fits, rows)
    groups = {name: getattr(fits, name).clone() for name in ("identity", "expression", "albedo")}
    groups["rotation"] = torch.zeros(2, 3)
    groups["identity"][0, 0] += 2.0
    groups["identity"][1] += 100.0
    moved = 2.0 * rows.basis.view(-1, 3, rows.basis.shape[1])[:, :, 0]
    expected = 100 * ((moved / 150.0).square().sum(-1) + 4e-6).sqrt().mean()
    terms = targets(faces_of(small_model, groups, batch), batch, torch.arange(2))
    torch.testing.assert_close(terms["identity"], expected)


def test_expression_rotation_and_albedo_terms_by_hand(small_model):
    batch = a_batch(torch.zeros(1), torch.zeros(1, dtype=torch.bool))
    fits = some_fits(small_model, 1)
    fits.rotation = layers.rotations_from_vectors(torch.zeros(1, 3))
    rows = small_model.landmark_rows()
    targets = FitTargets(small_model, fits, rows)
    groups = {name: getattr(fits, name).clone() for name in ("identity", "expression", "albedo")}
    groups["expression"][0, 1] += 0.5
    groups["albedo"][0, 2] -= 1.5
    groups["rotation"] = torch.tensor([[0.0, 0.0, 0.2]])
    terms = targets(faces_of(small_model, groups, batch), batch, torch.arange(1))
    moved = 0.5 * rows.basis.view(-1, 3, rows.basis.shape[1])[:, :, small_model.layout.identity + 1]
    expected = 100 * ((moved / 150.0).square().sum(-1) + 4e-6).sqrt().mean()
    torch.testing.assert_close(terms["expression"], expected)
    # a turn by 0.2 about z moves a point at distance r from the axis by 2 r sin 0.1
    centred = rows.mean - rows.mean.mean(0)
    moved = 2 * np.sin(0.1) * centred[:, :2].norm(dim=1)
    expected = 100 * ((moved / 150.0).square() + 4e-6).sqrt().mean()
    torch.testing.assert_close(terms["rotation"], expected, rtol=1e-4, atol=1e-4)
    difference = 1.5 * targets.albedo_rows[:, 2].view(-1, 3)
    expected = 100 * (difference.square().sum(-1) + 1e-5).sqrt().mean()
    torch.testing.assert_close(terms["albedo"], expected)


@pytest.mark.parametrize("name", ["identity", "expression", "rotation", "albedo"])
def test_gradients_of_the_fit_terms(small_model, name):
    batch = a_batch(torch.tensor([0.2, -0.4]), torch.tensor([True, False]))
    targets = FitTargets(small_model, some_fits(small_model, 2), small_model.landmark_rows()).double()
    targets.fits = Fits(**{key: value.double() for key, value in targets.fits.__dict__.items()})
    batch.affine, batch.sizes = batch.affine.double(), batch.sizes.double()
    layout = small_model.layout
    sizes = {"identity": layout.identity, "expression": layout.expression, "albedo": layout.albedo, "rotation": 3}
    generator = torch.Generator().manual_seed(4)
    groups = {key: 0.3 * torch.randn(2, width, generator=generator).double() for key, width in sizes.items()}

    def term(values: torch.Tensor) -> torch.Tensor:
        faces = faces_of(small_model, groups | {name: values}, batch)
        return targets(faces, batch, torch.arange(2))[name]

    assert torch.autograd.gradcheck(term, (groups[name].requires_grad_(),), eps=1e-6, atol=1e-5)


def test_sparse_colors_by_hand_and_by_differences(small_model):
    """Flat albedo and ambient light alone: every compared point has one colour."""
    model = small_model
    model.mean_albedo[:] = 0.5
    batch = a_batch(torch.zeros(1), torch.zeros(1, dtype=torch.bool), size=256, face=130.0)
    batch.images[:] = 255.0 * 0.3
    layout = model.layout
    illumination = torch.zeros(1, 27, requires_grad=True)
    groups = {
        "identity": torch.zeros(1, layout.identity),
        "expression": torch.zeros(1, layout.expression),
        "albedo": torch.zeros(1, layout.albedo),
        "rotation": torch.zeros(1, 3),
        "illumination": illumination,
    }
    term = SparseColors(model, torch.full((1, 96, 96), 255, dtype=torch.uint8), torch.Generator().manual_seed(0))
    faces = faces_of(model, groups, batch, FOCAL * 200.0 / 130.0)
    value = term(faces, batch, torch.arange(1))
    ambient = np.pi / np.sqrt(4 * np.pi)
    assert value.item() == pytest.approx(100 * (0.5 * 0.8 * ambient - 0.3), abs=1e-3)
    value.backward()
    # d/dγ of the red channel's ambient term: a third of 100 · albedo · H₀
    assert illumination.grad[0, 0].item() == pytest.approx(100 * 0.5 * ambient / 3, rel=1e-4)


def test_colors_are_compared_where_the_points_are(face_model):
    batch = a_batch(torch.zeros(1), torch.zeros(1, dtype=torch.bool), size=256, face=130.0)
    skin = torch.full((1, 96, 96), 255, dtype=torch.uint8)
    layout = face_model.layout
    groups = {
        "identity": torch.zeros(1, layout.identity),
        "expression": torch.zeros(1, layout.expression),
        "albedo": torch.zeros(1, layout.albedo, requires_grad=True),
        "rotation": torch.zeros(1, 3),
        "illumination": torch.zeros(1, 27, requires_grad=True),
    }
    # only the ambient term of the light: colour = albedo × (0.8 + offset) × π × 1/√(4π)
    depth = FOCAL * 150.0 / 130.0
    term = SparseColors(face_model, skin, torch.Generator().manual_seed(0))
    faces = faces_of(face_model, groups, batch, depth)
    mean = face_model.mean_albedo[torch.isin(face_model.regions, torch.tensor([0, 1]))].mean().item()
    shade = 0.8 * np.pi / np.sqrt(4 * np.pi)
    batch.images[:] = 255.0 * mean * shade
    near = float(term(faces, batch, torch.arange(1)).detach())
    batch.images[:] = 255.0 * (mean * shade + 0.3)
    far = term(faces, batch, torch.arange(1))
    assert near < 8 and 25 < float(far.detach()) < 35
    far.backward()
    assert groups["albedo"].grad.abs().max() > 0
    assert groups["illumination"].grad[0, 0] < 0  # brighter light would come nearer


@dataclass(frozen=True)
class Painted:
    """A rendered crop and what it was made of."""

    coefficients: NDArray[np.float32]  # (K_id + K_exp,)
    rotation: NDArray[np.float32]
    translation: NDArray[np.float32]
    colors: tuple[torch.Tensor, torch.Tensor]  # albedo (1, K_alb), light (1, 3, 9)
    image: NDArray[np.uint8]
    skin: NDArray[np.uint8]  # (96, 96)
    vertices: NDArray[np.float32]  # (N, 3), refined mesh


@pytest.fixture(scope="module")
def painted(face_model) -> Painted:
    generator = torch.Generator().manual_seed(5)
    layout = face_model.layout
    identity = 0.7 * torch.randn(1, layout.identity, generator=generator)
    expression = torch.zeros(1, layout.expression)
    expression[0, 20] = 0.6
    albedo = torch.randn(1, layout.albedo, generator=generator)
    rotation = layers.rotations_from_vectors(torch.tensor([[0.15, -0.35, 0.1]]))
    translation = torch.tensor([[8.0, -5.0, 1500.0]])
    light = torch.zeros(1, 3, 9)
    light[:, :, 0], light[:, :, 1], light[:, :, 2] = 0.75, 0.1, 0.3
    vertices = layers.transform(face_model.shapes(identity, expression), rotation, translation)
    normals = layers.vertex_normals(vertices, face_model.triangles) * torch.tensor([1.0, -1.0, -1.0])
    colors = face_model.albedos(albedo) * layers.shading(normals, light)
    camera = torch.tensor([FOCAL_PX]), torch.full((1, 2), CROP_SIZE / 2)
    shown = render(vertices, face_model.triangles, colors, *camera, CROP_SIZE, NativeTriangleIds(1))
    pose = rotation.numpy(), translation.numpy()
    return Painted(
        coefficients=torch.cat([identity, expression], dim=1)[0].numpy(),
        rotation=rotation[0].numpy(),
        translation=translation[0].numpy(),
        colors=(albedo, light),
        image=(255 * shown.values[0].clamp(0, 1)).permute(1, 2, 0).byte().numpy(),
        skin=(255 * shown.mask[0, 0, ::2, ::2]).byte().numpy(),
        vertices=runtime_model().native.vertices_camera(identity.numpy(), expression.numpy(), *pose, 1)[0],
    )


def runtime_model() -> wm3dr.FaceModel:
    return wm3dr.FaceModel.load(MODEL)


def test_a_render_of_known_coefficients_is_fitted(face_model, painted):
    """Points of a synthetic crop come back: pose within two degrees, landmarks within half a pixel."""
    correspondence = load_correspondence()
    points = point_model(face_model, correspondence)
    camera = points.points(painted.coefficients.astype(float)) @ painted.rotation.astype(float).T + painted.translation
    pixels = FOCAL_PX * camera[:, :2] / camera[:, 2:] + CROP_SIZE / 2
    fit = fit_photo(points, pixels[:68], pixels[68:], correspondence.confidence, profile=False)
    cosine = (np.trace(fit.rotation @ painted.rotation.T) - 1) / 2
    assert np.degrees(np.arccos(min(1.0, cosine))) < 2.0
    assert np.linalg.norm(fit.residual[17:], axis=1).mean() < 0.5


def albedo_error(face_model: FaceModel, painted: Painted, albedo: torch.Tensor) -> float:
    """Mean difference on skin and nose, in [0, 1], up to the brightness of each channel, which light can explain."""
    inner = torch.isin(face_model.regions, torch.tensor([0, 1]))
    own, truth = (face_model.albedos(a)[0, inner] for a in (albedo, painted.colors[0]))
    gain = (own * truth).sum(0) / (own * own).sum(0)
    return (gain * own - truth).abs().mean().item()


def front_colors(face_model: FaceModel, painted: Painted, albedo: torch.Tensor, light: torch.Tensor) -> torch.Tensor:
    """Colours of the vertices of skin and nose that face the camera, hidden or not."""
    vertices = torch.from_numpy(painted.vertices[None, : len(face_model.regions)])
    normals = layers.vertex_normals(vertices, face_model.triangles) * torch.tensor([1.0, -1.0, -1.0])
    front = torch.isin(face_model.regions, torch.tensor([0, 1])) & (normals[0, :, 2] > 0.3)
    return (face_model.albedos(albedo) * layers.shading(normals, light))[:, front]


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("scale", [1, 2])
def test_painted_albedo_and_light_come_back(face_model, painted, hidden, scale):
    """At any resolution, and where something blue hides the left third of the face."""
    image, skin = np.repeat(np.repeat(painted.image, scale, 0), scale, 1), painted.skin
    if hidden:
        columns = np.flatnonzero(skin.any(0))
        edge = columns[len(columns) // 3]
        image[:, : 2 * scale * edge], skin = (20, 40, 200), np.where(np.arange(96) < edge, 0, skin).astype(np.uint8)
    color = CropColors(runtime_model()).fit(image, skin, painted.vertices)
    assert color is not None and color.error < 5  # the mean albedo under the starting light is off by 25
    fitted = torch.from_numpy(color.albedo[None]), torch.from_numpy(color.illumination[None])
    difference = front_colors(face_model, painted, *fitted) - front_colors(face_model, painted, *painted.colors)
    assert 255 * difference.abs().mean() < 6  # under the blue, too
    assert albedo_error(face_model, painted, fitted[0]) < 0.75 * albedo_error(face_model, painted, 0 * fitted[0])


def test_a_face_that_shows_little_skin_has_no_colors(painted):
    colors = CropColors(runtime_model())
    rows, columns = np.mgrid[:96, :96]
    patch = np.where(np.hypot(rows - 48, columns - 48) < 6, painted.skin, 0).astype(np.uint8)
    half = np.where(rows < 48, painted.skin, 0).astype(np.uint8)
    assert patch.any()
    assert colors.fit(painted.image, 0 * painted.skin, painted.vertices) is None
    assert colors.fit(painted.image, patch, painted.vertices) is None
    assert colors.fit(painted.image, half, painted.vertices) is not None
    away = painted.vertices + np.array([400, 0, 0], np.float32)  # outside the crop, whatever the mask says
    assert colors.fit(painted.image, np.full_like(painted.skin, 255), away) is None


def test_samples_are_those_of_grid_sample():
    generator = torch.Generator().manual_seed(7)
    images = torch.rand((3, 2, 9, 13), generator=generator)
    index = torch.tensor([2, 0, 2, 1])
    pixels = torch.rand((4, 40, 2), generator=generator) * torch.tensor([17.0, 13.0]) - 2.0  # some outside
    grid = (pixels / torch.tensor([13.0, 9.0]) * 2 - 1)[:, None]
    wanted = torch.nn.functional.grid_sample(images[index], grid, align_corners=False)[:, :, 0]
    torch.testing.assert_close(_sampled(images, index, pixels), wanted, rtol=1e-5, atol=1e-6)
    assert (wanted == 0).all(1).any() and (wanted > 0.1).any()


def test_missing_fits_are_named_with_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="label --fits"):
        load_fits(tmp_path, "helen_train", np.arange(3))


def test_fits_of_another_face_model_are_refused(tmp_path):
    labels = write_synthetic_labels(tmp_path / "labels", count=4)
    path = labels / "fit_synthetic.npz"
    rows = np.arange(4)
    assert len(load_fits(labels, "synthetic", rows, "ab" * 32).identity) == 4  # of an older version: it does not say
    np.savez(path, **np.load(path), face_model_sha256=np.array("cd" * 32))
    assert len(load_fits(labels, "synthetic", rows, "cd" * 32).identity) == 4
    with pytest.raises(ModelError, match=r"fit_synthetic\.npz holds fits of another face model \(.*cdcdcdcd…\)"):
        load_fits(labels, "synthetic", rows, "ab" * 32)
