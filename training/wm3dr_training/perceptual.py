"""MobileFace Identification V2 in torch: the face-recognition embedding φ of the perceptual loss (METHOD.md, L_per)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

EMBEDDING_SIZE = 112
# the usual five points of a 112×112 aligned face: eyes, nose tip, mouth corners
ALIGNED_FIVE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
BATCH_NORM_EPS = 1e-3  # MXNet's default, where the graph names none


class MobileFace(nn.Module):
    """Interprets the MXNet graph: (F, 3, 112, 112) RGB in raw 0–255 -> (F, 256). Frozen; gradients reach the input
    only.
    """

    def __init__(self, folder: str | Path) -> None:
        """Read `mobileface_v2_graph.json` and `mobileface_v2.npz`; FileNotFoundError when one is missing."""
        super().__init__()
        folder = Path(folder)
        for name in ("mobileface_v2_graph.json", "mobileface_v2.npz"):
            if not (folder / name).exists():
                raise FileNotFoundError(
                    f"{folder / name} is missing: the perceptual loss needs MobileFace's graph and arrays"
                )
        graph = json.loads((folder / "mobileface_v2_graph.json").read_text())
        self._nodes, self._output = graph["nodes"], graph["heads"][0][0]
        with np.load(folder / "mobileface_v2.npz") as arrays:
            for name in arrays:
                self.register_buffer(name, torch.from_numpy(arrays[name].astype(np.float32)), persistent=False)

    def forward(self, faces: Tensor) -> Tensor:
        values: list[Tensor | None] = []
        for node in self._nodes:
            inputs = [values[entry[0]] for entry in node["inputs"]]
            values.append(self._evaluate(node, inputs, faces))
        return values[self._output]

    def _evaluate(self, node: dict, inputs: list[Tensor], faces: Tensor) -> Tensor | None:
        operation, name = node["op"], node["name"]
        attributes = node.get("attrs") or {}
        if operation == "null":
            return faces if name == "data" else getattr(self, name, None)
        if operation == "Convolution":
            stride, pad = (json.loads(attributes[key].replace("(", "[").replace(")", "]")) for key in ("stride", "pad"))
            bias = inputs[2] if len(inputs) > 2 else None
            return functional.conv2d(
                inputs[0], inputs[1], bias, stride, pad, groups=int(attributes.get("num_group", 1))
            )
        if operation == "BatchNorm":
            gamma = torch.ones_like(inputs[1]) if attributes.get("fix_gamma", "True") == "True" else inputs[1]
            eps = float(attributes.get("eps", BATCH_NORM_EPS))
            return functional.batch_norm(inputs[0], inputs[3], inputs[4], gamma, inputs[2], eps=eps)
        if operation == "FullyConnected":
            return functional.linear(inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None)
        if operation == "Flatten":
            return inputs[0].flatten(1)
        if operation == "elemwise_add":
            return inputs[0] + inputs[1]
        scalar = float(attributes["scalar"])
        if operation == "_minus_scalar":
            return inputs[0] - scalar
        if operation == "_mul_scalar":
            return inputs[0] * scalar
        if operation == "_maximum_scalar":
            return inputs[0].clamp_min(scalar)
        if operation == "_minimum_scalar":
            return inputs[0].clamp_max(scalar)
        raise ValueError(f"MobileFace's graph has the unknown operation {operation!r}")


def similarity_to_aligned(landmarks: Tensor) -> Tensor:
    """Least-squares similarity from 68 landmarks (F, 68, 2) px to the aligned 112×112 frame: (F, 2, 3).

    The five points are the eye centres, the nose tip (30) and the mouth corners (48, 54).
    """
    five = torch.stack(
        [
            landmarks[:, 36:42].mean(1),
            landmarks[:, 42:48].mean(1),
            landmarks[:, 30],
            landmarks[:, 48],
            landmarks[:, 54],
        ],
        dim=1,
    )
    target = torch.tensor(ALIGNED_FIVE, device=five.device, dtype=five.dtype)
    source_mean, target_mean = five.mean(1, keepdim=True), target.mean(0)
    p, q = five - source_mean, (target - target_mean).expand_as(five)
    norm = (p**2).sum((1, 2)).clamp_min(1e-6)
    a = (p * q).sum((1, 2)) / norm
    b = (p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]).sum(1) / norm
    linear = torch.stack([torch.stack([a, -b], -1), torch.stack([b, a], -1)], dim=1)
    return torch.cat([linear, target_mean[None, :, None] - linear @ source_mean.transpose(1, 2)], dim=2)
