"""Overfitting in the small: faces rendered from known coefficients come back through network, decoder and losses."""

import csv

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from synthetic import MODEL, needs_model, needs_weights

from wm3dr_training import layers
from wm3dr_training.bank import CROP_SIZE
from wm3dr_training.data.correspondence import load_correspondence
from wm3dr_training.encoder import FOCAL
from wm3dr_training.layers import FaceModel
from wm3dr_training.overfit import main, overfit, overfit_config, write_subset
from wm3dr_training.renderer import NativeTriangleIds, render

FACES = 3


@pytest.fixture(scope="module")
def rendered_labels(tmp_path_factory):
    """A label folder with renders of the default face model: crops, MediaPipe's points where they are, masks."""
    if not MODEL.exists():
        pytest.skip(f"{MODEL}, the default face model, is not there")
    folder, model, rng = tmp_path_factory.mktemp("rendered"), FaceModel.load(MODEL), np.random.default_rng(8)
    identity = torch.from_numpy(rng.normal(0, 0.8, (FACES, model.layout.identity))).float()
    albedo = torch.from_numpy(rng.normal(0, 0.8, (FACES, model.layout.albedo))).float()
    expression = torch.zeros(FACES, model.layout.expression)
    expression[1, model.metadata.expression_names.index("jawOpen")] = 0.6
    turns = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.3, 0.0], [-0.1, -0.35, 0.1]])
    translations = torch.tensor([[0.0, 0.0, 1450.0]]).repeat(FACES, 1)
    vertices = layers.transform(model.shapes(identity, expression), layers.rotations_from_vectors(turns), translations)
    normals = layers.vertex_normals(vertices, model.triangles) * torch.tensor(layers.OPENGL_FROM_CAMERA)
    light = torch.zeros(FACES, 3, 9)
    light[:, :, 0], light[:, :, 2] = 0.9, 0.25
    colors = model.albedos(albedo) * layers.shading(normals, light)
    middle = torch.full((FACES, 2), CROP_SIZE / 2)
    shown = render(
        vertices, model.triangles, colors, torch.full((FACES,), FOCAL), middle, CROP_SIZE, NativeTriangleIds(1)
    )
    photos = shown.values.clamp(0, 1) + 0.5 * (1 - shown.mask)
    pixels = layers.project(vertices, middle).numpy()
    points = load_correspondence().points(pixels)
    np.save(folder / "train_rendered.npy", (255 * photos).byte().permute(0, 2, 3, 1).numpy())
    np.save(folder / "skin_rendered.npy", (255 * shown.mask[:, 0, ::2, ::2]).byte().numpy())
    np.savez(
        folder / "train_rendered.npz",
        split=np.ones(FACES, np.int64),
        landmarks68=np.full((FACES, 68, 2), np.nan, np.float32),
        landmarks478=np.concatenate([points, points[:, :10]], axis=1).astype(np.float32),
        covered=np.tile(np.array([0, 0, CROP_SIZE, CROP_SIZE], np.float32), (FACES, 1)),
    )
    return folder


@needs_model
@needs_weights
def test_rendered_faces_are_reproduced(rendered_labels, tmp_path):
    write_subset(rendered_labels, "rendered", [0, 1, 2], tmp_path / "labels")
    config = overfit_config(
        tmp_path / "labels",
        MODEL,
        "rendered",
        size=96,
        batch=FACES,
        iterations=70,
        render_size=48,
        learning_rate=2e-3,
        frozen=("backbone.",),
    )
    errors = overfit(config, tmp_path / "run")
    print(errors)
    assert max(errors["dense"]) < 1.5 and max(errors["nme68"]) < 2.5
    with Image.open(tmp_path / "run" / "overfit.jpg") as picture:
        assert picture.size == (FACES * 168, 3 * 168)
    with (tmp_path / "run" / "training.csv").open() as file:
        table = list(csv.DictReader(file))
    assert float(table[-1]["photometric"]) < 0.6 * float(table[0]["photometric"])


def test_subsets_are_whole_and_refuse_what_is_not_there(rendered_labels, tmp_path):
    write_subset(rendered_labels, "rendered", [2, 0], tmp_path)
    images, part = np.load(rendered_labels / "train_rendered.npy"), np.load(tmp_path / "train_rendered.npy")
    assert np.array_equal(part, images[[2, 0]])
    assert np.load(tmp_path / "train_rendered.npz")["split"].tolist() == [0, 0]
    assert len(np.load(tmp_path / "skin_rendered.npy")) == 2
    with pytest.raises(ValueError, match=r"'rows' are \[3\], expected numbers from 0 to 2"):
        write_subset(rendered_labels, "rendered", [3], tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train_nothing\.npz is missing"):
        write_subset(rendered_labels, "nothing", [0], tmp_path)


def test_the_command_explains_itself():
    outcome = CliRunner().invoke(main, ["--help"])
    assert outcome.exit_code == 0 and "Overfit a few photos" in outcome.output


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "train_nothing.npz"), (["--rows", "0"], "train_nothing.npz is missing"), (["--rows", "a"], "'a'")],
)
def test_what_is_wrong_is_named_in_a_line(tmp_path, options, message):
    arguments = ["--labels", str(tmp_path), "--source", "nothing", "--out", str(tmp_path / "run"), *options]
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code == 1 and message in outcome.output and outcome.output.startswith("Error: ")
