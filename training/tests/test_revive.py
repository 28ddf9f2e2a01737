"""Dead hidden units come back without a change of the output."""

import pytest
import torch
from torch import nn

from wm3dr_training.revive import revive_hidden


def head(width: int = 12, hidden: int = 20, outputs: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(width, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, outputs, 1))


def outputs(module: nn.Sequential, features: torch.Tensor) -> torch.Tensor:
    return module(features[:, :, None, None])[:, :, 0, 0]


def test_dead_units_fire_again_and_the_output_stays():
    module, features = (
        head(),
        torch.randn(300, 12, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.1, 3, 12),
    )
    with torch.no_grad():
        module[0].bias[4:9] = -100.0
    before = outputs(module, features)
    assert revive_hidden(module, features, torch.Generator().manual_seed(2)) == 5
    torch.testing.assert_close(outputs(module, features), before)
    hidden = torch.relu(module[0](features[:, :, None, None])[:, :, 0, 0])[:, 4:9]
    share = (hidden > 0).float().mean(0)
    assert ((share > 0.2) & (share < 0.95)).all() and hidden.std(0).min() > 0.05
    assert module[2].weight[:, 4:9].eq(0).all()
    outputs(module, features).square().sum().backward()
    assert module[2].weight.grad[:, 4:9].abs().min() > 0, "their say in the output can be learned"
    assert revive_hidden(module, features, torch.Generator()) == 0


def test_a_head_with_a_larger_kernel_is_refused():
    module = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with pytest.raises(ValueError, match="1×1"):
        revive_hidden(module, torch.zeros(5, 4), torch.Generator())
