"""The training loop of both stages: config → data → model → optimiser → loop."""

from __future__ import annotations

import copy
import csv
import math
import os
import time
from pathlib import Path

import torch
from torch import nn

from wm3dr_training import parallel
from wm3dr_training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from wm3dr_training.config import TrainConfig
from wm3dr_training.data_setup import Data, load_data
from wm3dr_training.decoder import cells_around
from wm3dr_training.encoder import Encoder, load_imagenet
from wm3dr_training.layers import FaceModel
from wm3dr_training.objective import Objective
from wm3dr_training.revive import revive_hidden
from wm3dr_training.validation import validate


class Averaged:
    """Exponential moving average of all floating tensors of a module."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.steps = copy.deepcopy(module).eval().requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards `module`; the decay warms up so that early averages follow quickly."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for mine, its in zip(self.module.state_dict().values(), module.state_dict().values(), strict=True):
            if mine.dtype.is_floating_point:
                mine.lerp_(its, 1 - decay)
            else:
                mine.copy_(its)


class Trainer:
    """One run, resumable: `Trainer(config, folder).run()`. Under torchrun every process has its part of the photos."""

    def __init__(self, config: TrainConfig, folder: Path, device: str = "cpu", start_from: Path | None = None) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise RuntimeError(f"'device' is {device!r}, but torch sees no CUDA device")
        self.config, self.folder, self.device = config, folder, parallel.start(torch.device(device))
        folder.mkdir(parents=True, exist_ok=True)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")  # TF32
        torch.manual_seed(config.seed + parallel.rank())
        self.generator = torch.Generator(self.device).manual_seed(config.seed + parallel.rank())
        self.face_model = FaceModel.load(config.face_model).to(self.device)
        self.data: Data = load_data(config, self.device, self.generator)
        self.encoder = Encoder(config.backbone, self.face_model.layout, self.face_model.blendshapes).to(self.device)
        self.objective = Objective(config, self.face_model, self.data, self.generator).to(self.device)
        self.step, self.seconds, self.skipped, self.best = 0, 0.0, 0, math.inf
        last = folder / "last.pt"
        state = load_checkpoint(last, config, self.face_model) if last.exists() else None
        if state is None and start_from is not None:
            self.encoder.load_state_dict(load_checkpoint(start_from, None, self.face_model)["average"])
            if config.revive:
                self._revive()
        elif state is None:
            load_imagenet(self.encoder, config.backbone, config.imagenet)
        parallel.same_start(self.encoder)
        self.encoder.to(memory_format=torch.channels_last)
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_(not name.startswith(config.frozen) if config.frozen else True)
        self._frozen_norms = [
            module
            for module in self.encoder.modules()
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad
        ]
        self.average = Averaged(self.encoder, config.ema)
        trained = [p for p in self.encoder.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
                {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            fused=self.device.type == "cuda",
        )
        if state is not None:
            self._restore(state)
        self._forward = torch.compile(self.encoder.features) if config.compile else self.encoder.features

    def _revive(self) -> None:
        """Give hidden units of the head that no longer fire new directions, by the features of some hundred faces."""
        self.encoder.eval()
        rows: list[torch.Tensor] = []
        with torch.no_grad():
            for _ in range(100):
                batch = self.data.composer.batch(self.data.draw)
                features = self.encoder.features(batch.images)
                shape = (features.shape[2], features.shape[3])
                cells, face = cells_around(batch.centers, shape, 0, self.generator)
                rows.append(features[batch.image_index[face], :, cells[:, 0], cells[:, 1]])
                if sum(len(part) for part in rows) >= 600:
                    break
        count = revive_hidden(self.encoder.coefficients, torch.cat(rows), self.generator)
        print(f"{count} hidden units of the head that hardly fired were revived", flush=True)

    def _restore(self, state: dict) -> None:
        self.encoder.load_state_dict(state["encoder"])
        self.average.module.load_state_dict(state["average"])
        self.average.steps = state["average_steps"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        self.skipped = state["skipped"]
        own = [{"generator": state["generator"], "sampler": state["sampler"]}, *state.get("others", [])]
        if len(own) != parallel.world_size():
            raise CheckpointError(f"the checkpoint is of {len(own)} processes, now there are {parallel.world_size()}")
        self.generator.set_state(own[parallel.rank()]["generator"].cpu())
        self.data.restore(own[parallel.rank()]["sampler"])

    def _state(self) -> dict:
        """Everything to go on exactly; called by all processes together."""
        first, *others = parallel.gathered({"generator": self.generator.get_state(), "sampler": self.data.state()})
        return {
            "encoder": self.encoder.state_dict(),
            "average": self.average.module.state_dict(),
            "average_steps": self.average.steps,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "skipped": self.skipped,
            "generator": first["generator"],
            "sampler": first["sampler"],
            "others": others,
        }

    def progress(self) -> float:
        """Share of the budget that is spent, 0 … 1."""
        shares = []
        if self.config.iterations:
            shares.append(self.step / self.config.iterations)
        if self.config.minutes:
            shares.append(self.seconds / (60 * self.config.minutes))
        return max(shares)

    def learning_rate(self) -> float:
        """Rate of the present step: linear warm-up, then cosine to 1 % or a single division by ten."""
        progress = min(1.0, self.progress())
        if self.config.schedule == "cosine":
            factor = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
        else:
            factor = 0.1 if progress >= self.config.step_at else 1.0
        return self.config.learning_rate * factor * min(1.0, (self.step + 1) / max(1, self.config.warmup))

    def train_step(self) -> dict[str, float] | None:
        """One optimiser step; returns every loss term by name, or None when a non-finite gradient was skipped."""
        self.encoder.train()
        for module in self._frozen_norms:
            module.eval()
        batch = self.data.composer.batch(self.data.draw)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.amp):
            features = self._forward(images)
        total, terms = self.objective(self.encoder, features.float(), batch)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        parallel.average_gradients(self.encoder.parameters())
        norm = nn.utils.clip_grad_norm_(self.encoder.parameters(), self.config.clip)
        if not torch.isfinite(norm):  # CPU-GPU sync point, once a step
            self.skipped += 1
            if self.skipped > 100:
                raise FloatingPointError(
                    f"more than 100 steps had non-finite gradients, the last one at step {self.step}"
                )
            return None
        self.optimizer.step()
        self.average.update(self.encoder)
        values = torch.stack([value.detach().float() for value in (total, *terms.values())]).tolist()  # sync point
        return dict(zip(("total", *terms), values, strict=True))

    def run(self) -> dict[str, float]:
        """Train until the budget is spent; returns the last validation measures."""
        started, before, sums, counts, measures = time.monotonic(), self.seconds, {}, {}, {}
        first = parallel.rank() == 0
        while self.progress() < 1.0:
            terms = self.train_step()
            self.step += 1
            self.seconds = parallel.from_first(before + time.monotonic() - started, self.device)
            for name, value in (terms or {}).items():  # a step without large faces has no image terms
                sums[name], counts[name] = sums.get(name, 0.0) + value, counts.get(name, 0) + 1
            done = self.progress() >= 1.0
            if first and (self.step % self.config.log_every == 0 or done):
                self._log({name: value / counts[name] for name, value in sums.items()})
                sums, counts = {}, {}
            if first and (self.step % self.config.validate_every == 0 or done):
                measures = validate(self.average.module, self.face_model, self.data, self.config)
                self._write("validation.csv", {"step": self.step, "minutes": self.seconds / 60} | measures)
                error = measures.get("nme51", measures.get("dense", math.inf))
                if error < self.best:
                    self.best = error
                    save_checkpoint(
                        self.folder / "best.pt",
                        self.config,
                        self.face_model,
                        {"average": self.average.module.state_dict(), "step": self.step, "measures": measures},
                    )
            if first and (self.step % self.config.picture_every == 0 or done):
                self.objective.picture(
                    self.average.module,
                    self.data.composer.batch(self.data.draw),
                    self.folder / f"step{self.step:06d}.png",
                )
            if self.step % self.config.checkpoint_every == 0 or done:
                state = self._state()
                if first:
                    save_checkpoint(self.folder / "last.pt", self.config, self.face_model, state)
                parallel.from_first(0.0, self.device)  # nobody goes on before the file is there
        return measures

    def _log(self, terms: dict[str, float]) -> None:
        row = {"step": self.step, "minutes": self.seconds / 60, "rate": self.learning_rate(), "skipped": self.skipped}
        row["images_per_second"] = self.step * self.config.batch * parallel.world_size() / max(self.seconds, 1e-9)
        self._write("training.csv", row | terms)

    def _write(self, name: str, row: dict[str, float]) -> None:
        append_row(self.folder / name, row)
        print(name.split(".")[0], " ".join(f"{k}={v:.4g}" for k, v in row.items()), flush=True)


def append_row(path: Path, row: dict[str, float]) -> None:
    """Append a row to a CSV file with a header; names it does not have yet are added as columns."""
    old: list[dict[str, str]] = []
    names: list[str] = []
    if path.exists():
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or [])
            old = list(reader) if set(row) - set(names) else []
    fresh = [name for name in row if name not in names]
    names += fresh
    target = path.with_suffix(".partial.csv") if old else path
    with target.open("w" if old else "a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=names, restval="")
        if fresh:
            writer.writeheader()
            writer.writerows(old)
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
    if old:
        os.replace(target, path)
