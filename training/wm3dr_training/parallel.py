"""Several processes, one GPU each (`torchrun`): gradients are averaged, everything else stays as with one process.

The step reads single cells of the map, so gradients are averaged by hand after `backward`; the module is not wrapped.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn


def world_size() -> int:
    """Processes of this run, as torchrun says; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, 0 … world_size − 1. Process 0 writes files."""
    return int(os.environ.get("RANK", "0"))


def start(device: torch.device) -> torch.device:
    """Join the other processes (nccl on CUDA, gloo on CPU) and return this process's device."""
    if world_size() == 1:
        return device
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def same_start(module: nn.Module) -> None:
    """Give every process the tensors of process 0."""
    if world_size() > 1:
        for tensor in module.state_dict().values():
            distributed.broadcast(tensor, 0)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes; where only some have one, the others count as zero."""
    if world_size() == 1:
        return
    trained = [p for p in parameters if p.requires_grad]
    present = torch.tensor([float(p.grad is not None) for p in trained], device=trained[0].device)
    distributed.all_reduce(present)
    used = [p for p, count in zip(trained, present.tolist(), strict=True) if count]
    if not used:
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in used])
    distributed.all_reduce(flat)
    parts = torch.split(flat / world_size(), [p.numel() for p in used])
    for parameter, part in zip(used, parts, strict=True):
        parameter.grad = part.view_as(parameter).contiguous(
            memory_format=torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
        )


def from_first(value: float, device: torch.device) -> float:
    """Process 0's number, in every process: decisions that depend on the clock must be the same."""
    if world_size() == 1:
        return value
    tensor: Tensor = torch.tensor([value], dtype=torch.float64, device=device)
    distributed.broadcast(tensor, 0)
    return float(tensor)


def gathered(value: Any) -> list[Any]:
    """The values of all processes, in the order of their ranks, in every process."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values
