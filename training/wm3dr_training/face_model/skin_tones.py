"""Skin tones beyond those of the photographed people, by BioSkin's autoencoder (linear BGR ↔ five skin parameters).

Encoder and decoder are three tanh layers and a sigmoid layer each (layers l3, l3_1, l3_2, l4 and l1, l1_1, l1_2, l2).
Decoding random parameters, encoding and decoding again returns the colour with a median error of 0.0011.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

N_PARAMETERS = 5
SHIFT_LOW = np.array([-0.10, -0.25, -0.70, -0.10, -0.30])
SHIFT_HIGH = np.array([0.15, 0.25, 0.00, 0.50, 0.10])
"""Range of the shifts of the parameters (melanin, haemoglobin, three finer ones): chosen so that the tones measured in
photos of dark faces lie inside the basis."""
RATIO_RANGE = (0.3, 1.7)


class BioSkin:
    """Colours (…, 3) sRGB-encoded RGB in [0, 1] ↔ parameters (…, 5) in [0, 1]."""

    def __init__(self, path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.layers = {key.removeprefix("module."): value.double().numpy() for key, value in state.items()}

    def _run(self, x: NDArray[np.float64], hidden: tuple[str, ...], last: str) -> NDArray[np.float64]:
        for layer in hidden:
            x = np.tanh(x @ self.layers[f"{layer}.weight"].T + self.layers[f"{layer}.bias"])
        return 1 / (1 + np.exp(-(x @ self.layers[f"{last}.weight"].T + self.layers[f"{last}.bias"])))

    def parameters(self, colors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Skin parameters of colours."""
        linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
        return self._run(linear[..., ::-1], ("l3", "l3_1", "l3_2"), "l4")

    def colors(self, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        """Colours of skin parameters."""
        linear = self._run(parameters, ("l1", "l1_1", "l1_2"), "l2")[..., ::-1]
        return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def tone_ratios(bioskin: BioSkin, tones: NDArray[np.float64], copies: int) -> NDArray[np.float64]:
    """Factors (copies, P, 3) that turn tones (P, 3) into other skin: parameters shifted, evenly spread."""
    count = copies * len(tones)
    root = 1.3606000624  # of x⁶ = x + 1: the additive recurrence of lowest discrepancy in five dimensions (R5)
    for _ in range(50):
        root = (1 + root) ** (1 / (N_PARAMETERS + 1))
    steps = root ** -np.arange(1, N_PARAMETERS + 1)
    sequence = (0.5 + np.arange(1, count + 1)[:, None] * steps) % 1
    shift = SHIFT_LOW + sequence * (SHIFT_HIGH - SHIFT_LOW)
    parameters = np.tile(bioskin.parameters(tones), (copies, 1))
    before, after = bioskin.colors(parameters), bioskin.colors(np.clip(parameters + shift, 0.02, 0.98))
    return np.clip(after / before, *RATIO_RANGE).reshape(copies, len(tones), 3)
