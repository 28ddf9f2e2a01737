"""Checkpoints: written whole or not at all, bound to their configuration and face model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from wm3dr_training.config import TrainConfig
from wm3dr_training.layers import FaceModel


class CheckpointError(ValueError):
    """A checkpoint is unreadable or belongs to another configuration or face model."""


def save_checkpoint(path: Path, config: TrainConfig, face_model: FaceModel, state: dict[str, Any]) -> None:
    """Write to a temporary file beside `path`, flush it to the disk, then rename.

    Raises
    ------
    OSError
        The file could not be written (disk full, …); the former checkpoint is untouched.
    """
    temporary = path.with_suffix(path.suffix + ".partial")
    content = {
        "config": config.to_dict(),
        "face_model": face_model.metadata.name,
        "widths": face_model.layout.groups,
        **state,
    }
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError | RuntimeError):
            raise OSError(f"checkpoint {path} could not be written, the former one is kept: {error}") from error
        raise


def load_checkpoint(path: Path, config: TrainConfig | None, face_model: FaceModel | None) -> dict[str, Any]:
    """Read a checkpoint; with `config`, refuse one that was trained under another configuration.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    CheckpointError
        It cannot be read, or its configuration or face model differs.
    """
    if not path.exists():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        stored = TrainConfig.from_dict(state["config"])
    except Exception as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    if config is not None and (different := config.differences(stored)):
        listed = "; ".join(f"{key}: now {mine!r}, checkpoint {its!r}" for key, (mine, its) in different.items())
        raise CheckpointError(
            f"checkpoint {path} belongs to another configuration ({listed}); choose another output folder"
        )
    if face_model is not None:
        widths = [tuple(group) for group in state["widths"]]
        if widths != face_model.layout.groups:
            raise CheckpointError(
                f"checkpoint {path} has coefficient groups {widths}, the face model {face_model.layout.groups}"
            )
    return state
