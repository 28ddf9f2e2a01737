"""The profile of a training step: exclusive times, and parts that a real step has."""

from dataclasses import replace

import pytest
import torch
from synthetic import needs_model, needs_weights
from synthetic import small_config as config

from wm3dr_training.config import FAST
from wm3dr_training.profile_steps import PARTS, StepProfile, Stopwatch, profile_steps
from wm3dr_training.trainer import Trainer


def test_inner_parts_are_not_counted_twice():
    moments = iter([0.0, 1.0, 3.0, 7.0, 8.0, 10.0, 20.0, 21.0, 25.0])
    watch = Stopwatch(lambda: next(moments))
    with watch.part("outer"):  # 0
        with watch.part("inner"):  # 1
            watch.become("later")  # 3
        with watch.part("inner"):  # 7 … 8, 10
            pass
    assert watch.seconds == {"outer": 1 + 1 + 10, "inner": 2 + 2, "later": 4}
    assert watch.timed("again", lambda a, b=0: a + b)(3, b=4) == 7


def test_table_has_shares_and_throughput():
    profile = StepProfile({"compose": 25.0, "network forward": 75.0}, 80.0, 8, 3, "cpu")
    table = profile.table()
    assert "| compose (batch composed and augmented) | 25.0 | 25.0 % |" in table
    assert "3 steps of 8 images on cpu; running free 80.0 ms a step, 100.0 images/s" in table


@needs_model
@needs_weights
@pytest.mark.parametrize("stage", [1, 2])
def test_a_real_step_is_measured_part_by_part_and_nothing_stays_wrapped(tmp_path, labels, stage):
    rendered = stage == 2
    settings = config(
        stage,
        labels,
        render_share=float(rendered),
        negative_share=0.0,
        smallest_face=44.0,
        losses=replace(FAST, perceptual=0.0),
    )
    trainer = Trainer(settings, tmp_path / "run")
    backward, step = torch.Tensor.backward, trainer.optimizer.step
    profile = profile_steps(trainer, 2)
    expected = [name for name in PARTS if rendered or name not in ("triangle ids", "image terms")]
    assert list(profile.milliseconds) == expected
    assert all(value > 0 for value in profile.milliseconds.values())
    assert profile.milliseconds["network forward"] > profile.milliseconds["rest"]
    assert torch.Tensor.backward is backward and trainer.optimizer.step == step
    assert "batch" not in vars(trainer.data.composer) and "forward" not in vars(trainer.objective)
    assert not list((tmp_path / "run").iterdir())
