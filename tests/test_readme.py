"""The README keeps its word: commands in their place, pictures and links there, examples that run."""

import re
import shutil
from pathlib import Path

import pytest

from wm3dr.cli import SAVES
from wm3dr.files import DEFAULT_ENCODER, DEFAULT_FACE_MODEL

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
PHOTO = "docs/photos/solvay_1927.jpg"


@pytest.fixture(scope="module")
def text():
    return README.read_text()


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_two_commands_come_first(text):
    first, second = blocks(text, "sh")[0].splitlines()
    assert first == f"pip install . && wm3dr reconstruct {PHOTO} -o out"
    assert second == "pip install '.[dev]' && pytest"
    assert text.index("```sh") < 120 and (REPOSITORY / PHOTO).is_file()


def test_links_and_pictures_are_there(text):
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert target.startswith("https://") or (REPOSITORY / target).exists(), target


def test_the_command_line_is_described_as_it_is(text):
    assert f"--save {','.join(name for name in SAVES if name != 'glb').replace('ply', 'ply,glb')}" in text


def test_the_python_examples_run(text, tmp_path, monkeypatch):
    for path in (DEFAULT_ENCODER, DEFAULT_FACE_MODEL):
        if not path.is_file():
            pytest.skip(f"the installed package carries no {path.name}")
    (tmp_path / PHOTO).parent.mkdir(parents=True)
    shutil.copy(REPOSITORY / PHOTO, tmp_path / PHOTO)
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    for example in blocks(text, "python"):
        exec(compile(example, str(README), "exec"), space)
    assert len(space["result"]) >= 10  # of 29 faces: far below what any usable weights find
    assert space["vertices"].shape == (space["face"].face_model.n_vertices, 3)
    assert (tmp_path / "scene.glb").stat().st_size > 1_000_000 and (tmp_path / "attributes.png").is_file()
