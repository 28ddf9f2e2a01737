"""`wm3dr edit`: what it writes is what the Python calls give; bad input has its message and writes nothing."""

import json

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

import wm3dr
from wm3dr.cli import main
from wm3dr.image import read_rgb


@pytest.fixture
def source(photo, tmp_path):
    path = tmp_path / "photo.png"
    PIL.Image.fromarray(photo).save(path)
    return path


@pytest.fixture
def run(encoder, face_model, source):
    """Run `wm3dr edit` on the photo with the planted encoder."""

    def edit(*arguments, photo=source):
        models = ["--encoder", str(encoder), "--face-model", str(face_model.path)]
        return CliRunner().invoke(main, ["edit", str(photo), *map(str, arguments), *models])

    return edit


def test_one_face_in_the_photo(run, result, photo, tmp_path):
    out = tmp_path / "out.png"
    done = run("-o", out, "--face", 1, "--expression", "expression2=1.5,expression0=-1", "--light", "left")
    assert done.exit_code == 0 and done.output.strip() == f"1 face edited -> {out}", done.output
    edited = result[1].with_expression({"expression2": 1.5, "expression0": -1.0}).with_illumination("left")
    wanted = np.asarray(result.composite(photo, edited)).astype(int)
    found = read_rgb(out).astype(int)
    assert np.abs(found - wanted).max() <= 1  # threads of the network may differ
    assert np.abs(found - photo).max() > 20


def test_all_faces_by_the_model(run, result, photo, tmp_path):
    out = tmp_path / "out.JPG"
    done = run("-o", out, "--neutral", "--expression", "expression1=0.5", "--mode", "model")
    assert done.exit_code == 0 and done.output.startswith("3 faces edited"), done.output
    edited = [face.neutral().with_expression({"expression1": 0.5}) for face in result]
    wanted = np.asarray(result.composite(photo, edited, mode="model")).astype(float)
    with PIL.Image.open(out) as picture:
        assert picture.format == "JPEG"
    assert np.abs(read_rgb(out) - wanted).mean() < 3 < np.abs(read_rgb(out) - photo.astype(float)).mean()


def test_a_scene_with_one_expression_on_another(run, result, tmp_path):
    out = tmp_path / "out.json"
    done = run("-o", out, "--face", 0, "--face", 2, "--face", 0, "--retarget", 1)
    assert done.exit_code == 0 and done.output.startswith("2 faces edited"), done.output
    faces = json.loads(out.read_text())["faces"]
    wanted = wm3dr.retarget(result[1], result[0])
    assert len(faces) == 3
    np.testing.assert_allclose(faces[0]["landmarks"], wanted.landmarks, atol=0.02)
    for face, own in zip(faces, result, strict=True):
        weights = result[1].coefficients.expression
        np.testing.assert_allclose(face["coefficients"]["expression"], weights, atol=1e-4)
        np.testing.assert_allclose(face["coefficients"]["identity"], own.coefficients.identity, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["-o", "out.png"], 2, "nothing to edit: give --expression, --neutral, --retarget or --light"),
        (["-o", "out.bmp", "--neutral"], 2, "out.bmp ends in none of .png, .jpg, .jpeg, .webp, .glb"),
        (["-o", "out.png", "--neutral", "--retarget", "1"], 2, "--neutral and --retarget exclude each other"),
        (["-o", "out.png", "--expression", "jawOpen"], 2, "'jawOpen' is not NAME=WEIGHT, like jawOpen=0.6"),
        (["-o", "out.png", "--expression", "expression7=1"], 1, "near it: 'expression"),
        (["-o", "out.png", "--expression", "expression1=nan"], 1, "nan for 'expression1', not a finite number"),
        (["-o", "out.png", "--light", "behind"], 2, "'behind' is not one of"),
        (["-o", "out.png", "--neutral", "--face", "3"], 1, "there is no face 3: "),
        (["-o", "out.png", "--retarget", "3"], 1, "has 3 faces, from number 0"),
        (["-o", "photo.png", "--neutral"], 1, "photo.png exists; --overwrite replaces it"),
    ],
)
def test_bad_input(arguments, status, message, run, source, monkeypatch):
    monkeypatch.chdir(source.parent)
    before = source.read_bytes()
    done = run(*arguments)
    assert done.exit_code == status and message in done.output, done.output
    assert [path.name for path in source.parent.iterdir()] == ["photo.png"] and source.read_bytes() == before


def test_a_photo_without_faces_or_absent(run, tmp_path):
    dark = tmp_path / "dark.png"
    PIL.Image.new("RGB", (96, 64)).save(dark)
    done = run("-o", tmp_path / "out.png", "--neutral", photo=dark)
    assert done.exit_code == 1 and f"no face in {dark}" in done.output
    done = run("-o", tmp_path / "out.png", "--neutral", photo=tmp_path / "none.png")
    assert done.exit_code == 1 and "no such file" in done.output
