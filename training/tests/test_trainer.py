"""Both stages on synthetic data: they run, resume exactly, survive a full disk and NaN, refuse foreign checkpoints."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import (
    SHARED,
    STEPS,
    needs_model,
    needs_weights,
    write_synthetic_correspondence,
    write_synthetic_labels,
    write_synthetic_model,
)
from synthetic import small_config as config

from wm3dr import ModelError
from wm3dr_training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from wm3dr_training.config import FAST, PROFILES, LossWeights, TrainConfig, fast_stage, paper_stage
from wm3dr_training.data.landmarks import MEDIAPIPE_68
from wm3dr_training.decoder import cells_around, decode
from wm3dr_training.layers import FaceModel
from wm3dr_training.trainer import Trainer, append_row

PROCESS = """
import sys
from pathlib import Path
import torch
from wm3dr_training import parallel
from wm3dr_training.config import TrainConfig
from wm3dr_training.trainer import Trainer
import json

torch.set_num_threads(1)
folder, settings = Path(sys.argv[1]), TrainConfig.from_dict(json.loads(Path(sys.argv[2]).read_text()))
trainer = Trainer(settings, folder / "run")
rank = parallel.rank()
a, b, c = (torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(3))
a.grad = torch.full((2, 3), float(rank + 1))
b.grad = torch.ones(2, 3) if rank == 0 else None
parallel.average_gradients([a, b, c])
assert a.grad.eq(1.5).all() and b.grad.eq(0.5).all() and c.grad is None
assert parallel.from_first(float(rank), torch.device("cpu")) == 0.0
trainer.run()
again = Trainer(settings, folder / "run")
assert again.step == trainer.step
rows = sorted(torch.cat(again.data.orders).tolist())
torch.save({"rows": rows, "weights": trainer.encoder.state_dict(), "draw": again.data.draw(3)}, folder / f"{rank}.pt")
torch.distributed.destroy_process_group()
"""


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@needs_model
@needs_weights
@pytest.mark.parametrize("stage", [1, 2])
def test_a_killed_run_resumes_with_the_same_losses(tmp_path, labels, stage, monkeypatch):
    settings = config(stage, labels, render_share=1.0 if stage == 2 else 0.0)
    measures = Trainer(settings, tmp_path / "whole").run()
    assert np.isfinite(list(measures.values())).all()
    assert (tmp_path / "whole" / f"step{STEPS:06d}.png").stat().st_size > 1000

    step = Trainer.train_step

    def killed(self):
        if self.step == 3:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Trainer, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        Trainer(settings, tmp_path / "parts").run()
    monkeypatch.setattr(Trainer, "train_step", step)
    resumed = Trainer(settings, tmp_path / "parts")
    assert resumed.step == 2
    resumed.run()
    whole = rows(tmp_path / "whole" / "training.csv")
    parts = [
        row for k, row in enumerate(rows(tmp_path / "parts" / "training.csv")) if k != 2
    ]  # its third step was lost
    assert [row["step"] for row in parts] == [row["step"] for row in whole] == ["1", "2", "3", "4"]
    names = [name for name in whole[0] if name not in ("minutes", "images_per_second")]
    assert {"total", "scaled_landmark", "dense_landmark", "prior"} <= set(names)
    assert ({"center", "photometric", "texture", "illumination"} <= set(names)) == (stage == 2)
    for mine, its in zip(parts, whole, strict=True):
        assert [mine[name] for name in names] == [its[name] for name in names]
    assert all(row[name] for row in whole for name in ("total", "prior"))
    a, b = (torch.load(tmp_path / part / "last.pt", weights_only=True) for part in ("whole", "parts"))
    for part in ("encoder", "average"):  # sums in another order may differ in their last bits
        for name, tensor in a[part].items():
            torch.testing.assert_close(tensor, b[part][name], rtol=1e-4, atol=1e-5)


@needs_model
@needs_weights
def test_perceptual_term_reaches_the_encoder(tmp_path, labels):
    folder = SHARED / "models" / "mobileface"
    if not folder.exists():
        pytest.skip(f"no {folder}: the embedding of the perceptual term is not here")
    only = replace(FAST, **{name: 0.0 for name in ("scaled_landmark", "dense_landmark", "prior", "texture")})
    only = replace(only, photometric=1e-6, perceptual=1.0, center=1e-9, illumination=0.0)
    settings = config(
        2, labels, render_share=1.0, mobileface=str(folder), losses=only, negative_share=0.0, smallest_face=44.0
    )
    trainer = Trainer(settings, tmp_path / "run")
    before = trainer.encoder.coefficients[-1].weight.detach().clone()
    terms = [trainer.train_step() for _ in range(3)]
    assert any(t is not None and t.get("perceptual", 0) > 0 for t in terms), terms
    assert not torch.equal(before, trainer.encoder.coefficients[-1].weight)


@needs_model
@needs_weights
def test_not_finite_gradients_are_skipped_and_counted(tmp_path, labels, monkeypatch):
    trainer = Trainer(config(1, labels), tmp_path / "run")
    before = {name: p.detach().clone() for name, p in trainer.encoder.named_parameters()}
    forward = trainer.objective.forward

    def broken(*arguments):
        total, terms = forward(*arguments)
        return total * float("nan"), terms

    monkeypatch.setattr(trainer.objective, "forward", broken)
    assert trainer.train_step() is None and trainer.skipped == 1
    assert all(torch.equal(before[name], p) for name, p in trainer.encoder.named_parameters())
    trainer.skipped = 100
    with pytest.raises(FloatingPointError, match=r"more than 100 steps had non-finite gradients"):
        trainer.train_step()
    monkeypatch.setattr(trainer.objective, "forward", forward)
    trainer.skipped = 0
    assert trainer.train_step() is not None


@needs_model
@needs_weights
def test_frozen_parameters_stay_and_start_from_continues(tmp_path, labels):
    settings = config(1, labels, frozen=("backbone.",), iterations=2)
    trainer = Trainer(settings, tmp_path / "first")
    stem = trainer.encoder.backbone.conv_stem.weight.detach().clone()
    statistics = trainer.encoder.backbone.bn1.running_mean.clone()
    trainer.run()
    assert torch.equal(stem, trainer.encoder.backbone.conv_stem.weight)
    assert torch.equal(statistics, trainer.encoder.backbone.bn1.running_mean)
    second = Trainer(config(2, labels), tmp_path / "second", start_from=tmp_path / "first" / "best.pt")
    assert torch.equal(second.encoder.neck.project3[0].weight, trainer.average.module.neck.project3[0].weight)


@needs_model
def test_a_gpu_that_is_not_there_is_named(tmp_path, labels):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RuntimeError, match=r"'device' is 'cuda', but torch sees no CUDA device"):
        Trainer(config(1, labels), tmp_path / "run", device="cuda")


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    write_synthetic_model(path)
    return FaceModel.load(path)


def test_a_full_disk_keeps_the_former_checkpoint(tmp_path, labels, small_model, monkeypatch):
    path, settings = tmp_path / "last.pt", config(1, labels)
    save_checkpoint(path, settings, small_model, {"step": 1})
    save = torch.save

    def full(content, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"last\.pt could not be written, the former one is kept: .*No space left"):
        save_checkpoint(path, settings, small_model, {"step": 2})
    monkeypatch.setattr(torch, "save", save)
    assert load_checkpoint(path, settings, small_model)["step"] == 1
    assert os.listdir(tmp_path) == ["last.pt"]


def test_foreign_checkpoints_are_refused(tmp_path, labels, small_model):
    path, settings = tmp_path / "last.pt", config(1, labels)
    save_checkpoint(path, settings, small_model, {"step": 1})
    with pytest.raises(CheckpointError, match=r"another configuration \(batch: now 5, checkpoint 3\)"):
        load_checkpoint(path, replace(settings, batch=5), small_model)
    longer = replace(settings, iterations=10**6, minutes=3.0, log_every=9)
    assert load_checkpoint(path, longer, small_model)["step"] == 1  # budget and logging may change
    other = tmp_path / "other.safetensors"
    write_synthetic_model(other, identity=9)
    with pytest.raises(CheckpointError, match=r"coefficient groups .*'identity', 5.* the face model .*'identity', 9"):
        load_checkpoint(path, settings, FaceModel.load(other))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"last\.pt cannot be read"):
        load_checkpoint(path, settings, small_model)
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt does not exist"):
        load_checkpoint(tmp_path / "nothing.pt", None, None)


def test_configurations_survive_the_round_trip_and_are_checked(labels):
    settings = config(2, labels, frozen=("backbone.",))
    assert TrainConfig.from_dict(settings.to_dict()) == settings
    with pytest.raises(ValueError, match=r"'stage' is 3, expected 1 or 2"):
        config(3, labels)
    with pytest.raises(ValueError, match=r"'size' is 100, expected a multiple of 32"):
        config(1, labels, size=100)
    with pytest.raises(ValueError, match=r"'raster' is 'cuda', expected 'native' or 'pytorch3d'"):
        config(1, labels, raster="cuda")
    with pytest.raises(ValueError, match="neither 'iterations' nor 'minutes' is set"):
        config(1, labels, iterations=0)


def test_the_paper_profile_has_the_values_of_the_paper():
    common = {"face_model": "", "labels": "", "sources": ()}
    one, two = paper_stage(1, **common), paper_stage(2, **common)
    assert (one.backbone, one.size, one.batch, one.iterations, one.learning_rate) == (
        "resnet50",
        224,
        128,
        200_000,
        1e-4,
    )
    assert (two.size, two.batch, two.iterations, two.largest_count) == (512, 32, 100_000, 10)
    assert (one.step_at, two.step_at) == (0.75, 0.5)
    weights = PROFILES["paper"]
    assert (weights.center, weights.photometric, weights.perceptual) == (1.0, 100.0, 0.01)
    assert (weights.landmark, weights.prior, weights.texture) == (0.1, 1e-4, 1e-3)
    assert one.losses.center == 0.0 and two.losses == weights
    assert fast_stage(1, **common).render_share == 0.0 and fast_stage(2, **common).render_share > 0


@needs_model
@needs_weights
def test_two_processes_share_gradients_and_split_the_photos(tmp_path, labels):
    (tmp_path / "process.py").write_text(PROCESS)
    (tmp_path / "config.json").write_text(json.dumps(config(1, labels, iterations=2).to_dict()))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += [str(tmp_path / "process.py"), str(tmp_path), str(tmp_path / "config.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one["rows"] == [0, 2, 4, 6, 8] and two["rows"] == [1, 3, 5, 7, 9]
    trained = [name for name, value in one["weights"].items() if "running" not in name and "tracked" not in name]
    assert all(torch.equal(one["weights"][name], two["weights"][name]) for name in trained)
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert len(state["others"]) == 1 and state["step"] == 2
    with pytest.raises(CheckpointError, match=r"the checkpoint is of 2 processes, now there are 1"):
        Trainer(config(1, labels, iterations=2), tmp_path / "run")


@needs_weights
def test_a_face_model_of_another_mesh_needs_its_own_correspondence(tmp_path, labels):
    model = tmp_path / "other.safetensors"
    write_synthetic_model(model)
    settings = config(1, labels, face_model=str(model), losses=LossWeights(center=0.0, dense_landmark=1.0))
    with pytest.raises(ModelError, match=r"'synthetic-for-tests' has 169 vertices, .*--correspondence POINTS\.npz"):
        Trainer(settings, tmp_path / "refused")
    points = tmp_path / "points.npz"
    write_synthetic_correspondence(points, model)
    trainer = Trainer(replace(settings, correspondence=str(points)), tmp_path / "run")
    terms = trainer.train_step()
    assert terms is not None and terms["dense_landmark"] > 0


@needs_model
@needs_weights
@pytest.mark.parametrize("manual", [True, False])
def test_the_papers_landmark_term_takes_the_detectors_points_where_nobody_annotated(tmp_path, manual):
    folder = write_synthetic_labels(tmp_path / "labels", count=4)
    table = dict(np.load(folder / "train_synthetic.npz"))
    if not manual:
        table["landmarks68"][:] = np.nan
        np.savez(folder / "train_synthetic.npz", **table)
    only = LossWeights(center=0.0, photometric=0.0, perceptual=0.0, prior=0.0, texture=0.0)
    trainer = Trainer(config(1, folder, losses=only, neighbours=1), tmp_path / "run")
    objective = trainer.objective
    batch = trainer.data.composer.batch(trainer.data.draw)
    encoder = trainer.encoder.eval()
    with torch.no_grad():
        features = encoder.features(batch.images)
        total, terms = objective(encoder, features, batch)
        cells, face = cells_around(batch.centers, tuple(features.shape[2:]), 0, objective.generator)
        faces = decode(encoder.rows_at(features, face, cells), cells, batch.principal_point, objective.layout)
        points, wanted, weights = objective._landmarks(
            faces, faces.points_px(objective.landmark_rows), batch.points, batch.weights
        )
    assert set(terms) == {"landmark"} and total.item() > 0
    assert bool((weights[:, 17:68] > 0).all()) == manual and bool((weights[:, 68:] > 0).any()) != manual
    nose = 30 if manual else 68 + 30
    assert (weights[:, nose] / weights[:, nose + 15 - 9]).allclose(torch.tensor(20.0))  # against landmark 36
    dense = faces.points_px(objective.dense_rows)
    assert torch.allclose(points[:, 68 + 30], dense[:, MEDIAPIPE_68[30]], atol=1e-4)
    assert torch.equal(wanted[:, 68 + 30], batch.points[:, 68 + MEDIAPIPE_68[30]])


def test_loss_tables_grow_columns(tmp_path):
    append_row(tmp_path / "t.csv", {"step": 1, "a": 0.5})
    append_row(tmp_path / "t.csv", {"step": 2, "a": 0.25, "b": 3.0})
    append_row(tmp_path / "t.csv", {"step": 3, "b": 4.0})
    assert rows(tmp_path / "t.csv") == [
        {"step": "1", "a": "0.5", "b": ""},
        {"step": "2", "a": "0.25", "b": "3"},
        {"step": "3", "a": "", "b": "4"},
    ]
    assert os.listdir(tmp_path) == ["t.csv"]
