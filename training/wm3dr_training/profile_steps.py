"""Where the time of a training step goes: data, network, raster, image terms, optimiser.

`wm3dr-train stage1 … --profile-steps N` and `stage2 … --profile-steps N` run N steps of that very configuration and
print a table instead of training on; nothing is saved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from wm3dr_training.trainer import Trainer

PARTS = {
    "compose": "batch composed and augmented",
    "network forward": "backbone and neck",
    "triangle ids": "rasterizer",
    "image terms": "dense vertices, shading, interpolation, photo windows, embedding",
    "other losses": "heads at the cells, decoding, landmark terms, priors, heatmap",
    "losses backward": "gradients from the losses to the features",
    "network backward": "gradients of neck and backbone",
    "optimizer": "clipping, Adam, averaged weights",
    "rest": "everything else in the step",
}
"""Part -> what it covers, in the order of a step."""
WARM_UP = 2  # steps that are not counted: allocators, caches, compilation


class Stopwatch:
    """Exclusive time per part: what happens in an inner part is not counted in the outer one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds: dict[str, float] = {}
        self._clock, self._open, self._since = clock, [], 0.0

    def _switch(self) -> None:
        now = self._clock()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside to `name`."""
        self._switch()
        self._open.append(name)
        try:
            yield
        finally:
            self._switch()
            self._open.pop()

    def become(self, name: str) -> None:
        """Count what follows to `name` until the present part ends."""
        self._switch()
        self._open[-1] = name

    def timed(self, name: str, function: Callable) -> Callable:
        """`function` with its time counted to `name`."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return wrapped


@dataclass(frozen=True)
class StepProfile:
    """Mean milliseconds a step by part (the keys of `PARTS` that occur), images a step, and how it was measured."""

    milliseconds: dict[str, float]
    free_running: float  # ms a step with nothing measured inside, as training runs
    images: int
    steps: int
    device: str

    @property
    def total(self) -> float:
        """Milliseconds of a measured step, the sum of the parts."""
        return sum(self.milliseconds.values())

    def table(self) -> str:
        """Markdown: part, ms a step, share."""
        lines = ["| part | ms a step | share |", "|---|---|---|"]
        for name, value in self.milliseconds.items():
            lines.append(f"| {name} ({PARTS[name]}) | {value:.1f} | {100 * value / self.total:.1f} % |")
        lines.append(f"| all | {self.total:.1f} | 100 % |")
        rate = 1000 * self.images / self.free_running
        lines.append("")
        lines.append(
            f"{self.steps} steps of {self.images} images on {self.device}; "
            f"running free {self.free_running:.1f} ms a step, {rate:.1f} images/s"
        )
        return "\n".join(lines)


def profile_steps(trainer: Trainer, steps: int) -> StepProfile:
    """Run `steps` steps unmeasured and `steps` measured ones (on CUDA with a synchronisation at every boundary).

    The trainer's weights move; nothing is written.
    """
    for _ in range(WARM_UP):
        trainer.train_step()
    clock = _clock(trainer.device)
    start = clock()
    for _ in range(steps):
        trainer.train_step()
    free_running = 1000 * (clock() - start) / steps
    watch = Stopwatch(clock)
    with _instrumented(trainer, watch):
        for _ in range(steps):
            with watch.part("rest"):
                trainer.train_step()
    milliseconds = {name: 1000 * watch.seconds[name] / steps for name in PARTS if name in watch.seconds}
    return StepProfile(milliseconds, free_running, trainer.config.batch, steps, str(trainer.device))


def _clock(device: torch.device) -> Callable[[], float]:
    if device.type != "cuda":
        return time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


@contextmanager
def _instrumented(trainer: Trainer, watch: Stopwatch) -> Iterator[None]:
    """Measure the parts of `Trainer.train_step` by wrapping what it calls; undone on exit."""
    network, photometric = trainer._forward, trainer.objective.photometric

    def forward(images: torch.Tensor) -> torch.Tensor:
        with watch.part("network forward"):
            features = network(images)
        features.register_hook(lambda _gradient: watch.become("network backward"))
        return features

    with ExitStack() as stack:

        def replace(owner: object, name: str, function: Callable) -> None:
            stack.enter_context(patch.object(owner, name, function))

        replace(trainer.data.composer, "batch", watch.timed("compose", trainer.data.composer.batch))
        replace(trainer, "_forward", forward)
        replace(trainer.objective, "forward", watch.timed("other losses", trainer.objective.forward))
        if photometric is not None:
            replace(photometric, "forward", watch.timed("image terms", photometric.forward))
            replace(photometric, "backend", watch.timed("triangle ids", photometric.backend))
        replace(torch.Tensor, "backward", watch.timed("losses backward", torch.Tensor.backward))
        replace(torch.nn.utils, "clip_grad_norm_", watch.timed("optimizer", torch.nn.utils.clip_grad_norm_))
        replace(trainer.optimizer, "step", watch.timed("optimizer", trainer.optimizer.step))
        replace(trainer.average, "update", watch.timed("optimizer", trainer.average.update))
        yield
