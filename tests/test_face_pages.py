"""Texture and edits with the released model on the photos of the documentation, and the examples of their pages."""

import re
from pathlib import Path

import numpy as np
import pytest
import trimesh
from click.testing import CliRunner
from PIL import Image

import wm3dr
from wm3dr.cli import main
from wm3dr.files import DEFAULT_ENCODER, DEFAULT_FACE_MODEL
from wm3dr.texture import MIRRORED, MODEL, SEEN

REPOSITORY = Path(__file__).parents[1]
SOLVAY, LONDON = (REPOSITORY / "docs" / "photos" / name for name in ("solvay_1927.jpg", "london_four.jpg"))

pytestmark = pytest.mark.skipif(
    not (DEFAULT_ENCODER.is_file() and DEFAULT_FACE_MODEL.is_file()), reason="the installed package carries no model"
)


@pytest.fixture(scope="module")
def london() -> wm3dr.Result:
    result = wm3dr.reconstruct(LONDON)
    assert len(result) == 4
    return result


def test_the_textured_mesh_looks_like_the_photo(london):
    """Where a texel is wholly seen, the texture read back at the photo's pixels is the photo."""
    photo = np.asarray(Image.open(LONDON).convert("RGB"), np.float64)
    raster, buffers = london.render(), london.dense.raster
    for face in london:
        texture = face.texture(LONDON, 512)
        hit = raster.face_id == face.index
        uv = np.einsum("mk,mkc->mc", buffers.barycentric[hit], face.face_model.uv[raster.triangle_id[hit]])
        texel = np.floor(uv * [512, -512] + [0, 512]).astype(int).clip(0, 511)
        seen = texture.mask[texel[:, 1], texel[:, 0]] == 255
        assert seen.mean() > 0.4
        error = np.abs(texture.sample(uv) - photo[hit])[seen]
        assert np.median(error) <= 1.5 and error.mean() <= 4  # hair and lashes are finer than texels
        shares = np.bincount(texture.source.ravel(), minlength=4) / 512**2
        assert shares[SEEN] > 0.3 and shares[MODEL] < 0.5


def test_a_turned_face_is_mirrored():
    result = wm3dr.reconstruct(SOLVAY)
    face = max(result, key=lambda face: abs(face.pose.yaw))
    texture = face.texture(SOLVAY, 256)
    half = [np.bincount(part.ravel(), minlength=4) for part in (texture.source[:, :128], texture.source[:, 128:])]
    far, near = half if face.pose.yaw < 0 else half[::-1]  # yaw > 0 turns the subject's left, u > ½, away
    assert near[SEEN] > 1.3 * far[SEEN] and far[MIRRORED] > 4 * near[MIRRORED] + 500
    assert np.ptp(texture.albedo.astype(int), axis=2).max() <= 3  # a grey photo


def test_light_from_the_left_brightens_the_left(london):
    photo = np.asarray(Image.open(LONDON).convert("RGB"), np.float64)
    face = max(london, key=lambda face: face.score)
    sides = {}
    x0, y0, x1, y1 = face.box
    rows = slice(int(y0 + 0.4 * (y1 - y0)), int(y0 + 0.7 * (y1 - y0)))
    for light in ("left", "right"):
        picture = np.asarray(london.composite(LONDON, face.with_illumination(light)), np.float64)
        part = (picture / np.maximum(photo, 8))[rows, int(x0 + 0.2 * (x1 - x0)) : int(x1 - 0.2 * (x1 - x0))].mean(
            axis=(0, 2)
        )
        sides[light] = part[: len(part) // 3].mean() / part[-(len(part) // 3) :].mean()
    assert sides["left"] > 1.3 and sides["right"] < 1 / 1.3


def test_an_opened_mouth_is_dark_and_the_rest_of_the_photo_stays(london):
    photo = np.asarray(Image.open(LONDON).convert("RGB"), np.int64)
    face = min(london, key=lambda face: face.box[0])  # the leftmost has her mouth closed
    opened = face.with_expression({"jawOpen": 0.6})
    picture = np.asarray(london.composite(LONDON, opened), np.int64)
    x, y = opened.landmarks[60:68].mean(axis=0).astype(int)
    assert picture[y, x].max() < 60 < photo[y, x].max()
    beyond = int(face.box[2] + 0.3 * (face.box[2] - face.box[0]))  # her ear, hair and a margin
    assert (picture[:, beyond:] == photo[:, beyond:]).all()
    eyes = face.landmarks[36:48].astype(int)
    change = np.abs(picture - photo)[eyes[:, 1].min() : eyes[:, 1].max(), eyes[:, 0].min() : eyes[:, 0].max()]
    assert change.mean() < 3  # the jaw moves no eyes


@pytest.mark.parametrize("page", ["texture", "editing"])
def test_the_examples_of_the_pages_run(page, tmp_path, monkeypatch):
    (tmp_path / "docs" / "photos").mkdir(parents=True)
    (tmp_path / "docs" / "photos" / LONDON.name).symlink_to(LONDON)
    monkeypatch.chdir(tmp_path)
    text = (REPOSITORY / "docs" / f"{page}.md").read_text()
    for example in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(compile(example, page, "exec"), {})
    expected = {
        "texture": ["face.mtl", "face.obj", "face_face_0.png", "scene.glb"],
        "editing": ["edited.glb", "lit.jpg"],
    }
    for name in expected[page]:
        assert (tmp_path / name).stat().st_size > 50
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (REPOSITORY / "docs" / target).exists(), target


def test_textured_scene_on_the_command_line(tmp_path):
    outcome = CliRunner().invoke(main, ["reconstruct", str(LONDON), "-o", str(tmp_path), "--save", "textured"])
    assert outcome.exit_code == 0, outcome.output
    scene = trimesh.load_scene(tmp_path / "london_four_textured.glb", process=False)
    assert len(scene.geometry) == 4
    for mesh in scene.geometry.values():
        assert mesh.visual.material.baseColorTexture.size == (1024, 1024)  # faces of 350 px
