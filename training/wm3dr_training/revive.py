"""Hidden units of the coefficient head that no longer fire, put to new use.

High learning rates at the start leave ReLU units that are off for every face: half of them after the first hour of the
compact encoder, and with them half of what the head could tell apart. Pointing them along random directions of the
whitened features, with no say in the output yet, changes nothing at first and gives the head its width back.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

RARE = 0.03
"""A unit that is on for a smaller share of the faces counts as dead."""
N_DIRECTIONS = 100
"""Principal directions of the features that take part."""
FLOOR = 0.02
"""Of the largest standard deviation: weaker directions are not blown up beyond it."""
GAIN, OFFSET = 0.4, 0.1
"""Standard deviation and mean of a new unit before its ReLU."""


@torch.no_grad()
def revive_hidden(coefficients: nn.Sequential, features: Tensor, generator: torch.Generator) -> int:
    """Replace dead units of a 1×1 head (convolution, ReLU, convolution); returns how many there were.

    Parameters
    ----------
    coefficients : nn.Sequential
        The head; changed in place. Its output for `features` stays what it was.
    features : (M, width)
        Neck features at the centre cells of M faces.
    generator : torch.Generator
        Draws the directions.

    Raises
    ------
    ValueError
        The head's first convolution is not 1×1, or there are fewer than two faces.
    """
    inner, last = coefficients[0], coefficients[2]
    if not isinstance(inner, nn.Conv2d) or inner.kernel_size != (1, 1) or len(features) < 2:
        raise ValueError(f"expected a 1×1 head and at least two faces, got {inner} and {len(features)}")
    hidden = torch.relu(inner(features[:, :, None, None])[:, :, 0, 0])
    dead = ((hidden > 0).float().mean(0) < RARE).nonzero()[:, 0]
    if not len(dead):
        return 0
    mean = features.mean(0)
    _, spread, directions = torch.linalg.svd((features - mean) / len(features) ** 0.5, full_matrices=False)
    count = min(N_DIRECTIONS, len(spread))
    spread, directions = spread[:count], directions[:count]
    mixed = torch.randn((len(dead), count), generator=generator, device=generator.device).to(features.device)
    weight = GAIN * (mixed / count**0.5) @ (directions / (spread + FLOOR * spread[0])[:, None])
    # what the few faces that a rare unit is on for got from it is lost: less than RARE of them
    inner.weight[dead] = weight[:, :, None, None]
    inner.bias[dead] = OFFSET - weight @ mean
    last.weight[:, dead] = 0.0
    return len(dead)
