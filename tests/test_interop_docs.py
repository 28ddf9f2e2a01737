"""The examples of docs/adapters.md run, section by section, where their package is installed."""

import importlib.util
import re
import shutil
import warnings
from pathlib import Path

import pytest

import wm3dr
from wm3dr.files import DEFAULT_ENCODER

REPOSITORY = Path(__file__).parents[1]
PHOTO = "docs/photos/solvay_1927.jpg"


@pytest.fixture(scope="module")
def solvay():
    if not DEFAULT_ENCODER.is_file():
        pytest.skip(f"the installed package carries no {DEFAULT_ENCODER.name}")
    return wm3dr.reconstruct(REPOSITORY / PHOTO)


@pytest.mark.parametrize(
    ("section", "package", "written"),
    [
        ("Tables", "pandas", "faces.parquet"),
        ("supervision", "supervision", None),
        ("Rerun", "rerun", "scene.rrd"),
    ],
)
def test_adapter_examples(section, package, written, solvay, tmp_path, monkeypatch):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    text = (REPOSITORY / "docs" / "adapters.md").read_text()
    body = text.split(f"\n## {section}\n", 1)[1].split("\n## ")[0]
    (example,) = re.findall(r"^```python\n(.*?)^```", body, re.MULTILINE | re.DOTALL)
    (tmp_path / PHOTO).parent.mkdir(parents=True)
    shutil.copy(REPOSITORY / PHOTO, tmp_path / PHOTO)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages, about themselves
        space = {"result": solvay}
        exec(compile(example, f"docs/adapters.md, {section}", "exec"), space)
    if written:
        if section == "Rerun":
            space["rr"].disconnect()
        assert (tmp_path / written).stat().st_size > 10_000
    if section == "supervision":
        assert 0 < len(space["frontal"]) < len(solvay) and space["picture"].shape == space["photo"].shape
