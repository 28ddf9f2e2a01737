"""Photos through Ray Data: what an actor returns, and whole jobs on a local Ray with two actors."""

import contextlib
import functools
import gc
import io
import json
import os
import re
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import wm3dr
from wm3dr.files import DEFAULT_ENCODER
from wm3dr.ray import MARKER, ReconstructBatch, _warn_of_waiting, reconstruct_folder
from wm3dr.tables import faces_from_photos, photo_schema

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'wm3dr[ray]'")
dataset = pytest.importorskip("pyarrow.dataset")

REPOSITORY = Path(__file__).parents[1]
WITHOUT_RAY = "ray is not installed: pip install 'wm3dr[ray]'"


def png(photo):
    stream = io.BytesIO()
    PIL.Image.fromarray(photo).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def models(encoder, face_model, tmp_path_factory):
    """Paths of the models for tests, as an actor takes them."""
    from builders import synthetic_face_model

    path = tmp_path_factory.mktemp("ray") / "synthetic.safetensors"
    assert synthetic_face_model(path).sha256 == face_model.sha256
    return {"encoder": str(encoder), "face_model": str(path)}


@pytest.fixture(scope="module")
def folder(photo, tmp_path_factory):
    """Seven photos in two folders: four good, one without faces, one broken, one empty; and a file that is no photo."""
    root = tmp_path_factory.mktemp("photos") / "a b%20c"
    (root / "deeper").mkdir(parents=True)
    for k in range(4):
        (root / ("deeper" if k % 2 else ".") / f"good{k}.png").write_bytes(png(np.roll(photo, 8 * k, axis=1)))
    (root / "dark.png").write_bytes(png(np.zeros((64, 96, 3), np.uint8)))
    (root / "broken.png").write_bytes(png(photo)[:300])
    (root / "deeper" / "empty.JPG").write_bytes(b"")
    (root / "notes.txt").write_text("no photo")
    return root


def test_rows_are_those_of_single_calls(models, reconstructor, photo, folder):
    """From arrays, file contents and paths: the same rows as `reconstruct` gives; bad ones are rows with errors."""
    actor = ReconstructBatch(folder=str(folder), **models)
    images = actor({"image": [photo, np.zeros((0, 4, 3), np.uint8), photo.astype(float)], "path": ["a", "b", "c"]})
    assert images.schema.equals(photo_schema(reconstructor.face_model), check_metadata=True)
    assert images["photo"].to_pylist() == ["a", "b", "c"]
    assert images["error"].to_pylist() == [
        None,
        "ValueError: 'image' is 4 x 0 pixels; both sides must be at least 1",
        "TypeError: 'image' has dtype float64, not uint8 (values 0-255)",
    ]
    wanted = reconstructor.reconstruct(photo).to_table("a").to_pylist()
    np.testing.assert_allclose(  # other numbers of threads may round differently
        [row["landmarks"] for row in faces_from_photos(images).to_pylist()],
        [row["landmarks"] for row in wanted],
        atol=1e-3,
    )
    contents = actor({"bytes": [png(photo), b"no image"]})
    assert contents["photo"].null_count == 2 and contents["error"].null_count == 1
    assert len(contents["faces"][0]) == len(wanted) and contents["faces"][1].as_py() is None
    paths = actor({"path": np.array(["good0.png", "absent.png", "deeper/empty.JPG"], dtype=object)})
    assert [error and error.split(":")[0] for error in paths["error"].to_pylist()] == [
        None,
        "FileNotFoundError",
        "ValueError",
    ]
    assert len(actor({"path": []})) == 0


def test_batch_without_photos(models):
    with pytest.raises(ValueError, match=r"no column 'image', 'bytes' or 'path', but item"):
        ReconstructBatch(**models)({"item": [1]})


def test_a_broken_machine_is_no_broken_photo(models, photo, monkeypatch):
    """What is not the photo's fault ends the job: a partition of nothing but errors would count as done."""
    actor = ReconstructBatch(**models)

    def lost(_photo):
        raise RuntimeError("CUDA failure 100")

    monkeypatch.setattr(actor._model, "reconstruct", lost)
    with pytest.raises(RuntimeError, match="CUDA failure 100"):
        actor({"image": [photo]})


def test_bad_folders_and_numbers(tmp_path):
    pytest.importorskip("ray", reason=WITHOUT_RAY)
    with pytest.raises(FileNotFoundError, match="'source': no such folder"):
        reconstruct_folder(str(tmp_path / "absent"), str(tmp_path / "out"))
    with pytest.raises(ValueError, match="'source': no photo in"):
        reconstruct_folder(str(tmp_path), str(tmp_path / "out"))
    with pytest.raises(ValueError, match="'actors' must be a whole number of at least 1, not 0"):
        reconstruct_folder(str(tmp_path), str(tmp_path / "out"), actors=0)


def test_without_ray(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "ray.data", raising=False)
    with pytest.raises(ImportError, match=r"'ray' is not installed: pip install 'wm3dr\[ray\]'"):
        reconstruct_folder(str(tmp_path), str(tmp_path / "out"))


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="session")
def local_ray(workplace):
    """Ray on this machine with two CPUs, started once in `workplace`; its warnings about itself are ignored."""
    ray = pytest.importorskip("ray", reason=WITHOUT_RAY)
    os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's 15, a busy machine takes minutes for these photos
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "150")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with warnings.catch_warnings(), contextlib.chdir(workplace):
        warnings.simplefilter("ignore")
        ray.init(num_cpus=2, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False)
        import ray.data

        ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.shutdown()
        gc.collect()  # Ray leaves it to the collector to wait for its processes


def modified(path):
    return {str(file): file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}


@pytest.mark.filterwarnings("ignore")
def test_job_with_two_actors_is_resumed(local_ray, models, folder, reconstructor, tmp_path):
    """Seven photos in two partitions; then one partition half written; then one photo renamed."""
    output, photos = tmp_path / "out", tmp_path / "photos"
    shutil.copytree(folder, photos)
    job = functools.partial(reconstruct_folder, str(photos), str(output), partition_size=4, batch_size=1, **models)
    first = job(actors=2)
    assert [part.photos for part in first] == [4, 3]
    whole = dataset.dataset(output, partitioning="hive").to_table()
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*") if path.suffix in (".png", ".JPG"))
    assert len(names) == 7 and sorted(whole["photo"].to_pylist()) == names
    bad = {row["photo"]: row["error"] for row in whole.select(["photo", "error"]).to_pylist() if row["error"]}
    assert sorted(bad) == ["broken.png", "deeper/empty.JPG"] and bad["deeper/empty.JPG"].endswith("empty")
    assert sum(part.errors for part in first) == 2
    faces = faces_from_photos(whole)
    assert faces.num_rows == sum(part.faces for part in first) > 4
    wanted = reconstructor.reconstruct(photos / "deeper" / "good3.png")
    rows = faces.filter(pa.compute.equal(faces["photo"], "deeper/good3.png")).to_pylist()
    np.testing.assert_allclose([row["landmarks"] for row in rows], [face.landmarks for face in wanted], atol=1e-3)

    (output / "partition=00001" / MARKER).unlink()  # as an interruption leaves it
    (output / "partition=00001" / "half.parquet").write_bytes(b"PAR1")
    kept = modified(output / "partition=00000")
    with pytest.warns(RuntimeWarning, match=r"the actors want 3 CPUs \(actors x threads\), Ray has 2"):
        _warn_of_waiting(3)
    again = job(actors=1)
    assert modified(output / "partition=00000") == kept
    assert not (output / "partition=00001" / "half.parquet").exists()
    assert [(p.photos, p.faces, p.errors) for p in again] == [(p.photos, p.faces, p.errors) for p in first]
    assert json.loads((output / "partition=00001" / MARKER).read_text())["digest"] == first[1].digest

    (photos / "good2.png").rename(photos / "zoo.png")
    with pytest.raises(ValueError, match=r"partition=00000 was made of other photos or with other settings"):
        job(score_threshold=0.9)
    with pytest.raises(ValueError, match=r"partition=00001 was made of other photos or with other settings"):
        job()
    job(actors=1, overwrite=True)
    assert modified(output / "partition=00000") == kept
    renamed = dataset.dataset(output / "partition=00001").to_table(columns=["photo"])["photo"].to_pylist()
    assert "zoo.png" in renamed and "good2.png" not in renamed


def needs_encoder():
    if not DEFAULT_ENCODER.is_file():
        pytest.skip("the installed package carries no encoder")


@pytest.mark.filterwarnings("ignore")
def test_the_examples_of_the_page_run(local_ray, workplace, monkeypatch, capsys):
    """docs/ray.md as it is written, on the repository's two photos: `read_images → map_batches → write_parquet`."""
    needs_encoder()
    examples = re.findall(r"^```python\n(.*?)^```", (REPOSITORY / "docs/ray.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) == 3 and ".read_images(" in examples[0]
    photos = sorted((REPOSITORY / "docs" / "photos").glob("*.jpg"))
    (workplace / "photos").mkdir()
    for path in photos:
        with PIL.Image.open(path) as image:
            image.thumbnail((640, 640))
            image.save(workplace / "photos" / path.name)
    monkeypatch.chdir(workplace)
    for number, example in enumerate(examples):
        exec(compile(example, f"docs/ray.md, {number}", "exec"), {})
    table = dataset.dataset("faces").to_table()
    found = {Path(row["photo"]).name: len(row["faces"]) for row in table.to_pylist()}
    model = wm3dr.Reconstructor(threads=1)  # as the actors: sums in another order may round otherwise
    single = {path.name: len(model.reconstruct(workplace / "photos" / path.name)) for path in photos}
    assert found == single and min(single.values()) > 0
    assert f"2 photos, {sum(single.values())} faces, 0 errors" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_shared_photos(local_ray, shared, tmp_path):
    """Group photos with the released models and two actors find the faces that single calls find."""
    needs_encoder()
    chosen = sorted((shared / "data" / "groups").glob("*.jpg"), key=lambda path: path.stat().st_size)[:4]
    if not chosen:
        pytest.skip("the shared data hold no group photos")
    (tmp_path / "photos").mkdir()
    for path in chosen:
        shutil.copy(path, tmp_path / "photos")
    reconstruct_folder(
        str(tmp_path / "photos"), str(tmp_path / "job"), actors=2, batch_size=1, max_side=512, large_faces=False
    )
    table = dataset.dataset(tmp_path / "job").to_table()
    model = wm3dr.Reconstructor(max_side=512, large_faces=False, threads=1)
    single = {path.name: len(model.reconstruct(path)) for path in chosen}
    assert {row["photo"]: len(row["faces"]) for row in table.to_pylist()} == single and min(single.values()) > 0
