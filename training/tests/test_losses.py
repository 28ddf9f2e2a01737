"""Every loss against a value computed by hand, and its gradient against finite differences in float64."""

import math

import pytest
import torch
from torch import Tensor

from wm3dr_training import losses

RNG = torch.Generator().manual_seed(4)


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=RNG, dtype=torch.float64)


def positive(*shape: int) -> Tensor:
    return torch.rand(shape, generator=RNG, dtype=torch.float64) * 0.8 + 0.1


def test_center_loss_by_hand():
    logits = torch.tensor([[[[0.0, math.log(3.0)], [-math.log(3.0), 2.0]]]])  # p = 1/2, 3/4, 1/4, ignored
    target = torch.tensor([[[[1.0, 0.0], [0.5, -1.0]]]])
    every = 0.25 * math.log(2) + (9 / 16) * math.log(4) + (1 / 16) * math.log(4 / 3)
    assert losses.center_loss(logits, target).item() == pytest.approx(every, rel=1e-6)
    reduced = 0.25 * math.log(2) + (9 / 16) * math.log(4) + (1 / 16) * (1 / 16) * math.log(4 / 3)
    assert losses.center_loss(logits, target, negative_power=4.0).item() == pytest.approx(reduced, rel=1e-6)


def test_center_loss_of_a_photo_without_faces_pushes_down():
    logits = torch.zeros(1, 1, 2, 2, requires_grad=True)
    losses.center_loss(logits, torch.zeros(1, 1, 2, 2)).backward()
    assert (logits.grad > 0).all()


def test_photometric_loss_by_hand():
    rendered = torch.zeros(1, 3, 1, 3)
    image = torch.tensor([[[[0.3, 0.0, 1.0]], [[0.4, 0.0, 1.0]], [[0.0, 0.5, 1.0]]]])  # ‖·‖₂ = 0.5, 0.5, √3
    mask = torch.tensor([[[[1.0, 0.5, 0.0]]]])
    assert losses.photometric_loss(rendered, image, mask).item() == pytest.approx((0.5 + 0.25) / 1.5, rel=1e-6)
    assert losses.photometric_loss(rendered, image, 0 * mask).item() == 0.0


def test_perceptual_loss_by_hand():
    a, b = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 2.0], [5.0, 5.0]])
    assert losses.perceptual_loss(a, b).item() == pytest.approx((2.0 + 0.0) / 2)  # right angle, same direction
    assert losses.perceptual_loss(a[:0], b[:0]).item() == 0.0


def test_landmark_loss_by_hand():
    points = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [9.0, 9.0]]])
    weights = torch.tensor([[20.0, 1.0, 0.0]])
    assert losses.landmark_loss(points, torch.zeros(1, 3, 2), weights).item() == pytest.approx(25 / 21)


def test_paper_weights_favour_mouth_and_nose():
    weights = losses.paper_landmark_weights()
    assert weights.shape == (68,)
    assert weights[27:36].eq(20).all() and weights[48:].eq(20).all()
    assert weights[:27].eq(1).all() and weights[36:48].eq(1).all()


def test_scaled_landmark_loss_by_hand_and_its_independence_of_scale():
    points = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    value = losses.scaled_landmark_loss(points, torch.zeros(1, 2, 2), torch.tensor([1.0, 3.0]), torch.tensor([50.0]))
    assert value.item() == pytest.approx(100 * (math.hypot(0.1, 0.002) + 3 * 0.002) / 4, rel=1e-5)
    twice = losses.scaled_landmark_loss(
        2 * points, torch.zeros(1, 2, 2), torch.tensor([1.0, 3.0]), torch.tensor([100.0])
    )
    assert twice.item() == pytest.approx(value.item(), rel=1e-6)


def test_prior_loss_by_hand():
    identity, expression, albedo = torch.ones(2, 3), 2 * torch.ones(2, 2), 10 * torch.ones(2, 1)
    assert losses.prior_loss(identity, expression, albedo).item() == pytest.approx(3 + 0.8 * 8 + 0.0017 * 100)


def test_texture_loss_by_hand():
    albedo = torch.tensor([[[0.2, 0.5, 0.1], [0.4, 0.5, 0.5], [9.0, 9.0, 9.0]]])
    region = torch.tensor([True, True, False])
    assert losses.texture_loss(albedo, region).item() == pytest.approx(0.01 + 0.0 + 0.04, rel=1e-5)


def test_illumination_loss_by_hand():
    light = torch.zeros(1, 3, 9)
    light[0, :, 0] = torch.tensor([1.0, 0.5, 0.0])  # tint: 0.25 + 0 + 0.25
    light[0, :, 2] = 0.4  # grey and directional: 0.1 · 3 · 0.16
    assert losses.illumination_loss(light).item() == pytest.approx(0.5 + 0.048, rel=1e-5)


CASES = {
    "center": lambda x: losses.center_loss(x.view(1, 1, 2, 6), torch.tensor([1, 0, 0.3, -1] * 3).view(1, 1, 2, 6), 4.0),
    "photometric": lambda x: losses.photometric_loss(
        x.view(1, 3, 2, 2), numbers_fixed(1, 3, 2, 2), torch.ones(1, 1, 2, 2)
    ),
    "perceptual": lambda x: losses.perceptual_loss(x.view(2, 6), numbers_fixed(2, 6)),
    "landmark": lambda x: losses.landmark_loss(x.view(2, 3, 2), numbers_fixed(2, 3, 2), torch.tensor([20.0, 1.0, 0.0])),
    "scaled_landmark": lambda x: losses.scaled_landmark_loss(
        x.view(2, 3, 2), numbers_fixed(2, 3, 2), torch.tensor([1.0, 2.0, 0.0]), torch.tensor([40.0, 90.0])
    ),
    "prior": lambda x: losses.prior_loss(x[:4].view(2, 2), x[4:8].view(2, 2), x[8:].view(2, 2)),
    "texture": lambda x: losses.texture_loss(x.view(1, 4, 3), torch.tensor([True, True, True, False])),
    "illumination": lambda x: losses.illumination_loss(torch.cat([x, x, x[:3]]).view(1, 3, 9)),
}


def numbers_fixed(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.autograd.gradcheck(CASES[name], (numbers(12).requires_grad_(),), atol=1e-6)
    finally:
        torch.set_default_dtype(previous)


@pytest.mark.parametrize("name", ["perceptual", "landmark", "scaled_landmark", "prior", "texture"])
def test_no_faces_are_zero_with_gradient(name):
    empty = {
        "perceptual": lambda x: losses.perceptual_loss(x.view(0, 4), torch.zeros(0, 4)),
        "landmark": lambda x: losses.landmark_loss(x.view(0, 3, 2), torch.zeros(0, 3, 2), torch.ones(0, 3)),
        "scaled_landmark": lambda x: losses.scaled_landmark_loss(
            x.view(0, 3, 2), torch.zeros(0, 3, 2), torch.ones(0, 3), torch.ones(0)
        ),
        "prior": lambda x: losses.prior_loss(x.view(0, 2), x.view(0, 2), x.view(0, 2)),
        "texture": lambda x: losses.texture_loss(x.view(0, 3, 3), torch.tensor([True, False, True])),
    }[name]
    nothing = torch.zeros(0, requires_grad=True)
    value = empty(nothing)
    assert value.item() == 0.0
    value.backward()
