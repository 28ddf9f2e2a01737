"""Small models and data for the tests of the training core. Nothing here has seen a face; names say so."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import synthetic_arrays
from numpy.typing import NDArray

import wm3dr
from wm3dr.face_model import write_face_model
from wm3dr_training.bank import CROP_SIZE, N_DENSE, N_LANDMARKS
from wm3dr_training.config import FAST, TrainConfig
from wm3dr_training.data.arrays import save_npz
from wm3dr_training.data.register_mediapipe import MorphableMesh, Places, correspondence_arrays

SHARED = Path(__file__).parents[3] / "shared"
MODEL = Path(__file__).parents[2] / "models" / "wm3dr-face.safetensors"
STEPS = 4

needs_model = pytest.mark.skipif(not MODEL.exists(), reason=f"{MODEL}, the default face model, is not there")
needs_weights = pytest.mark.usefixtures("imagenet")


def write_synthetic_model(path: Path, **options) -> wm3dr.FaceModel:
    """Write the runtime tests' synthetic face model, with the widths and kind of `builders.synthetic_arrays`."""
    return write_face_model(path, *synthetic_arrays(**options))


def write_synthetic_correspondence(path: Path, model: Path) -> Places:
    """MediaPipe's points at random places of a face model, as the registration writes them."""
    rng = np.random.default_rng(5)
    mesh = MorphableMesh.of_file(model)
    corners = mesh.triangles[rng.integers(0, len(mesh.triangles), N_DENSE)]
    places = Places(corners, rng.dirichlet(np.ones(3), N_DENSE))
    points = rng.normal(size=(N_DENSE, 3))
    arrays = correspondence_arrays(mesh, places, np.ones(N_DENSE), np.arange(N_DENSE), points, mesh.landmark_vertices)
    save_npz(path, **arrays)
    return places


def blob_faces(count: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Crops (n, 192, 192, 3) with a disc and two dots each, and 68 points (n, 68, 2) on its edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:CROP_SIZE, 0:CROP_SIZE] + 0.5
    images = np.zeros((count, CROP_SIZE, CROP_SIZE, 3), np.uint8)
    points = np.zeros((count, N_LANDMARKS, 2), np.float32)
    angle = np.linspace(0, 2 * np.pi, N_LANDMARKS, endpoint=False)
    for k in range(count):
        center, radius = CROP_SIZE / 2 + rng.uniform(-3, 3, 2), rng.uniform(42, 48)
        inside = np.hypot(x - center[0], y - center[1]) < radius
        images[k] = rng.integers(0, 60, 3)
        images[k][inside] = rng.integers(120, 220, 3)
        for side in (-1, 1):
            images[k][np.hypot(x - center[0] - side * 16, y - center[1] + 12) < 5] = 20
        points[k] = center + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return images, points


def write_synthetic_labels(folder: Path, count: int = 24, source: str = "synthetic") -> Path:
    """A label folder as `wm3dr-train label` writes it: one source of discs, and backgrounds of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    images, points = blob_faces(count)
    np.save(folder / f"train_{source}.npy", images)
    dense = np.repeat(points, 7, axis=1)[:, :N_DENSE]
    dense = np.concatenate([dense, dense[:, : 478 - N_DENSE]], axis=1)
    np.savez(
        folder / f"train_{source}.npz",
        split=np.zeros(count, np.int64),
        landmarks68=points,
        landmarks478=dense,
        covered=np.tile(np.array([0, 0, CROP_SIZE, CROP_SIZE], np.float32), (count, 1)),
    )
    y, x = np.mgrid[0:96, 0:96] + 0.5
    skin = np.where(np.hypot(x - 48, y - 48) < 20, 255, 0).astype(np.uint8)
    np.save(folder / f"skin_{source}.npy", np.repeat(skin[None], count, axis=0))
    rng = np.random.default_rng(1)
    widths = {"identity": 80, "expression": 53, "albedo": 80}  # of the default face model
    np.savez(
        folder / f"fit_{source}.npz",
        **{name: rng.normal(0, 0.1, (count, width)).astype(np.float32) for name, width in widths.items()},
        rotation=np.tile(np.diag([1, -1, -1]).astype(np.float32), (count, 1, 1)),
        illumination=np.zeros((count, 3, 9), np.float32),
        residual=np.where(np.arange(count) % 5 == 4, np.inf, 1.0).astype(np.float32),
        color_error=np.where(np.arange(count) % 3 == 2, np.inf, 9.0).astype(np.float32),
    )
    np.save(folder / "background.npy", rng.integers(0, 255, (6, 384, 384, 3), dtype=np.uint8))
    np.savez(folder / "background.npz", split=np.zeros(6, np.int64))
    return folder


def small_config(stage: int, labels: Path, **values) -> TrainConfig:
    """A run of some seconds on `write_synthetic_labels` with the default face model."""
    common = {
        "stage": stage,
        "face_model": str(MODEL),
        "labels": str(labels),
        "sources": ("synthetic",),
        "size": 64,
        "batch": 3,
        "iterations": STEPS,
        "warmup": 2,
        "log_every": 1,
        "validate_every": 100,
        "picture_every": 100,
        "checkpoint_every": 2,
        "smallest_face": 24.0,
        "largest_face": 50.0,
        "largest_count": 2,
        "render_size": 32,
        "losses": replace(FAST, perceptual=0.0),
    }
    return TrainConfig(**(common | values))
