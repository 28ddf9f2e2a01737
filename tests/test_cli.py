"""The command line, as a process would see it: files, messages and exit status."""

import json
import os

import numpy as np
import PIL.Image
import pytest
from builders import synthetic_arrays
from click.testing import CliRunner

import wm3dr
from wm3dr import doctor
from wm3dr.cli import SAVES, main
from wm3dr.encoder import CUDA_COMMAND
from wm3dr.image import read_rgb


@pytest.fixture
def run(encoder, face_model):
    """Run `wm3dr reconstruct` with the planted encoder."""

    def reconstruct(*arguments):
        models = ["--encoder", str(encoder), "--face-model", str(face_model.path)]
        return CliRunner().invoke(main, ["reconstruct", *map(str, arguments), *models])

    return reconstruct


@pytest.fixture
def photos(tmp_path, photo):
    """A folder with two photos, one broken photo and a text file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    PIL.Image.fromarray(photo).save(folder / "b.png")
    PIL.Image.fromarray(photo[:, :120]).save(folder / "a.png")
    (folder / "c.jpg").write_bytes(b"no photo")
    (folder / "notes.txt").write_text("no photo either")
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_files_of_one_photo(run, photos, tmp_path, result):
    out = tmp_path / "new" / "out"
    done = run(photos / "b.png", "-o", out)
    assert done.exit_code == 0, done.output
    assert done.output.strip() == f"1 photo, 3 faces (CPUExecutionProvider) -> {out}"
    assert names(out) == ["b.glb", "b.json", "b_overlay.png"]
    stored = json.loads((out / "b.json").read_text())
    expected = json.loads(json.dumps(result.to_dict()))
    for key in ("faces", "camera", "size", "provider"):
        assert stored[key] == expected[key]
    assert read_rgb(out / "b_overlay.png").shape == (180, 236, 3)


def test_everything_can_be_saved(run, photos, tmp_path):
    done = run(photos / "b.png", "-o", tmp_path / "out", "--save", ",".join(SAVES))
    assert done.exit_code == 0, done.output
    assert names(tmp_path / "out") == sorted(f"b{ending}" for ending in SAVES.values())


def test_one_bad_photo_in_a_folder(run, photos, tmp_path):
    done = run(photos, "-o", tmp_path / "out", "--save", "json")
    assert done.exit_code == 1
    assert names(tmp_path / "out") == ["a.json", "b.json"]
    assert "2 photos, 5 faces" in done.output
    assert f"not done: {photos / 'c.jpg'}: 'image': {photos / 'c.jpg'}: not an image" in done.output


def test_a_missing_photo_is_reported(run, photos, tmp_path):
    done = run(photos / "none.jpg", photos / "b.png", "-o", tmp_path / "out", "--save", "json")
    assert done.exit_code == 1 and names(tmp_path / "out") == ["b.json"]
    assert f"not done: {photos / 'none.jpg'}: 'image': no such file" in done.output


def test_output_that_exists(run, photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.json").write_text("mine")
    done = run(photos / "b.png", "-o", out)
    assert done.exit_code == 1 and "b.json exists; --overwrite replaces it" in done.output
    assert names(out) == ["b.json"] and (out / "b.json").read_text() == "mine"
    done = run(photos / "b.png", "-o", out, "--overwrite")
    assert done.exit_code == 0 and json.loads((out / "b.json").read_text())["faces"]


def test_output_that_is_a_file(run, photos, tmp_path):
    (tmp_path / "out").write_text("a file")
    done = run(photos / "b.png", "-o", tmp_path / "out")
    assert done.exit_code == 1 and "Error:" in done.output and (tmp_path / "out").read_text() == "a file"


def test_read_only_output_folder(run, photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    access = os.access
    monkeypatch.setattr("wm3dr.cli.os.access", lambda path, mode: False if path == out else access(path, mode))
    done = run(photos / "b.png", "-o", out)
    assert done.exit_code == 1 and f"cannot write to the folder {out}" in done.output and names(out) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_output_folder_of_the_file_system(run, photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    done = run(photos / "b.png", "-o", out)
    assert done.exit_code == 1 and "cannot write to the folder" in done.output


def test_equal_stems_keep_their_suffix(run, photos, tmp_path, photo):
    PIL.Image.fromarray(photo).save(photos / "b.webp", lossless=True)
    done = run(photos / "b.png", photos / "b.webp", photos / "a.png", "-o", tmp_path / "out", "--save", "json")
    assert done.exit_code == 0 and names(tmp_path / "out") == ["a.json", "b_png.json", "b_webp.json"]


def test_photos_that_would_write_the_same_files(run, photos, tmp_path, photo):
    (tmp_path / "other").mkdir()
    PIL.Image.fromarray(photo).save(tmp_path / "other" / "b.png")
    done = run(photos / "b.png", tmp_path / "other" / "b.png", "-o", tmp_path / "out")
    assert done.exit_code == 2 and "would write the same files" in done.output and not (tmp_path / "out").exists()


def test_a_photo_without_faces(run, tmp_path):
    PIL.Image.new("RGB", (50, 40)).save(tmp_path / "empty.png")
    done = run(tmp_path / "empty.png", "-o", tmp_path / "out", "--save", ",".join(SAVES))
    assert done.exit_code == 0 and "1 photo, 0 faces" in done.output
    assert names(tmp_path / "out") == [
        "empty.glb",
        "empty.json",
        "empty_attributes.png",
        "empty_maps",
        "empty_overlay.png",
        "empty_textured.glb",
        "empty_views.png",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing option '-o'"),
        (("-o", "out", "--save", "stl"), "stl is none of overlay, json"),
        (("-o", "out", "--save", ""), "nothing is none of"),
        (("-o", "out", "--max-side", "3"), "is not in the range x>=32"),
        (("-o", "out", "--provider", "abacus"), "is not one of"),
        (("-o", "out", "--threads", "0"), "is not in the range x>=1"),
        (("-o", "out", "--score-threshold", "1.5"), "is not in the range"),
    ],
)
def test_usage_errors(run, photos, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(photos / "b.png", *arguments)
    assert done.exit_code == 2 and message in done.output and not (tmp_path / "out").exists()


def test_an_empty_folder_is_a_usage_error(run, tmp_path):
    (tmp_path / "empty").mkdir()
    done = run(tmp_path / "empty", "-o", tmp_path / "out")
    assert done.exit_code == 2 and "no photo in" in done.output


def test_missing_models_are_errors_without_a_traceback(photos, tmp_path):
    arguments = [str(photos / "b.png"), "-o", str(tmp_path / "out"), "--encoder", str(tmp_path / "none.onnx")]
    done = CliRunner().invoke(main, ["reconstruct", *arguments, "--face-model", str(tmp_path / "none.safetensors")])
    assert done.exit_code == 1 and done.output.startswith("Error: 'face_model': ")


def test_options_reach_the_model(run, tmp_path, photo):
    PIL.Image.fromarray(photo.repeat(4, axis=0).repeat(4, axis=1)).save(tmp_path / "large.png")
    for side, faces in ((236, 3), (32, 0)):
        out = tmp_path / str(side)
        done = run(tmp_path / "large.png", "-o", out, "--save", "json", "--max-side", side, "--threads", 1)
        assert done.exit_code == 0
        assert len(json.loads((out / "large.json").read_text())["faces"]) == faces
    done = run(
        tmp_path / "large.png", "-o", tmp_path / "t", "--save", "json", "--max-side", 236, "--score-threshold", 0.7
    )
    assert done.exit_code == 0 and len(json.loads((tmp_path / "t" / "large.json").read_text())["faces"]) == 2


def test_face_model_info(face_model):
    done = CliRunner().invoke(main, ["face-model", "info", str(face_model.path)])
    assert done.exit_code == 0
    for text in (
        "synthetic-for-tests",
        "CC0-1.0",
        face_model.sha256,
        "625",
        "1152",
        "expression0, expression1",
        "skin",
    ):
        assert text in done.output
    done = CliRunner().invoke(main, ["face-model", "info", "none.safetensors"])
    assert done.exit_code == 1 and done.output.startswith("Error: 'face_model': none.safetensors: no such file")


def test_import_bfm(tmp_path):
    scipy_io = pytest.importorskip("scipy.io", reason="reading MATLAB files needs SciPy")
    from test_face_model_io import synthetic_bfm

    source, target = tmp_path / "BFM_model_front.mat", tmp_path / "bfm.safetensors"
    scipy_io.savemat(source, synthetic_bfm()[0])
    arguments = ["face-model", "import-bfm", str(source), str(target)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0 and "may not be redistributed" in done.output
    assert wm3dr.FaceModel.load(target).name == "bfm-2009-front"
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 1 and "exists; --overwrite replaces it" in again.output
    assert CliRunner().invoke(main, [*arguments, "--overwrite"]).exit_code == 0


def test_doctor_of_an_installation_without_models(monkeypatch, tmp_path):
    for name in ("DEFAULT_FACE_MODEL", "DEFAULT_ENCODER", "CHECKSUMS"):
        monkeypatch.setattr(doctor, name, tmp_path / name)
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 1
    for text in (
        "versions",
        "providers",
        "CPUExecutionProvider",
        "DEFAULT_ENCODER is missing",
        "repair: git checkout models",
    ):
        assert text in done.output


def test_doctor_sees_changed_files_and_mixed_runtimes(monkeypatch, tmp_path, face_model):
    from wm3dr.face_model import write_face_model

    path = tmp_path / "face.safetensors"
    write_face_model(path, *synthetic_arrays())
    (tmp_path / "CHECKSUMS").write_text(f"{'0' * 64}  face.safetensors\n")
    monkeypatch.setattr(doctor, "DEFAULT_FACE_MODEL", path)
    monkeypatch.setattr(doctor, "CHECKSUMS", tmp_path / "CHECKSUMS")
    versions = {"onnxruntime": "1.20", "onnxruntime-gpu": "1.20"}
    monkeypatch.setattr("wm3dr.encoder.installed_runtimes", lambda: versions)
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 1
    assert "face.safetensors is not the released file (checksum differs)" in done.output
    assert "onnxruntime and onnxruntime-gpu are installed together" in done.output
    assert CUDA_COMMAND in done.output


def test_checksums_are_read_as_sha256sum_writes_them(tmp_path):
    path = tmp_path / "CHECKSUMS"
    path.write_text("ab  one.onnx\ncd *two.safetensors\n\n")
    assert doctor.read_checksums(path) == {"one.onnx": "ab", "two.safetensors": "cd"}
    assert doctor.read_checksums(tmp_path / "none") == {}


def test_help_and_version():
    for arguments in (["-h"], ["reconstruct", "-h"], ["doctor", "-h"], ["face-model", "import-bfm", "-h"]):
        assert CliRunner().invoke(main, arguments).exit_code == 0
    assert wm3dr.__version__ in CliRunner().invoke(main, ["--version"]).output


def test_arrays_survive_the_json(run, photos, tmp_path, result):
    run(photos / "b.png", "-o", tmp_path / "out", "--save", "json")
    stored = json.loads((tmp_path / "out" / "b.json").read_text())
    for face, read in zip(result, stored["faces"], strict=True):
        np.testing.assert_array_equal(np.float32(read["landmarks_camera"]), face.landmarks_camera)
