"""Face bank: every labelled crop in one uint8 tensor on the training device, with its points (CONVENTIONS.md §1).

Points of a face are the 68 landmarks followed by MediaPipe's 468: (P, 2) with P = 536, in crop pixels, with one
weight each (0 = missing).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wm3dr_training.data.crops import CROP_SIZE
from wm3dr_training.data.landmarks import MIRROR_68, N_LANDMARKS

N_DENSE = 468  # MediaPipe's points on the face; the last ten of its 478 are the irises
SPLITS = {"train": 0, "validation": 1}
FACE_SIZE = CROP_SIZE / 2  # longer side of the landmark box in a crop
JAW = slice(0, 17)
PROFILE_WEIGHT = 0.25  # of MediaPipe's points on photos known to be profiles


@dataclass
class FaceBank:
    """Crops and points of all sources.

    images (n, S, S, 3) uint8; points (n, P, 2) crop px; weights (n, P); covered (n, 4) part of the crop that is
    photo, px; skin (n, 96, 96) uint8 mask or None; fine (m, 2S, 2S, 3) uint8, crops of the larger photos at twice the
    resolution, and fine_row (n,), their rows or −1; source (n,) number in `sources`; mirror (P,) partner of each
    point; photo (n,) row of each crop in its source's arrays.
    """

    images: Tensor
    points: Tensor
    weights: Tensor
    covered: Tensor
    skin: Tensor | None
    fine: Tensor
    fine_row: Tensor
    source: Tensor
    sources: list[str]
    mirror: Tensor
    photo: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def crop(self, index: int, fine: bool) -> Tensor:
        """One crop (S, S, 3) uint8, or (2S, 2S, 3) when `fine` is asked for and there."""
        row = int(self.fine_row[index])
        return self.fine[row] if fine and row >= 0 else self.images[index]

    def to(self, device: torch.device) -> FaceBank:
        """The same bank on another device."""
        moved = {
            name: value.to(device) if isinstance(value, Tensor) else value for name, value in self.__dict__.items()
        }
        return FaceBank(**moved)


@dataclass
class BackgroundBank:
    """Photos without faces: images (n, S, S, 3) uint8."""

    images: Tensor

    def to(self, device: torch.device) -> BackgroundBank:
        """The same photos on another device."""
        return BackgroundBank(self.images.to(device))


def load_backgrounds(folder: Path, split: str = "train") -> BackgroundBank:
    """Read `background.npy/.npz` as the verb `label` wrote them; FileNotFoundError when they are missing."""
    path = folder / "background.npy"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run 'wm3dr-train label' with the source 'background' first")
    rows = np.flatnonzero(np.load(folder / "background.npz")["split"] == SPLITS[split])
    return BackgroundBank(torch.from_numpy(np.load(path, mmap_mode="r")[rows]))


def load_bank(
    folder: Path,
    sources: list[str],
    mirror_468: np.ndarray,
    confidence_468: np.ndarray,
    split: str = "train",
    jaw_weight: float = 0.0,
    with_skin: bool = False,
) -> FaceBank:
    """Read `train_SOURCE.npy/.npz` (and `skin_SOURCE.npy`) as the verb `label` wrote them.

    Parameters
    ----------
    folder : Path
        Output folder of `wm3dr-train label`.
    sources : list of str
        Names of the sources.
    mirror_468, confidence_468 : (468,)
        Partner and weight of each MediaPipe point.
    split : "train" or "validation"
    jaw_weight : float
        Weight of the manual jaw points, which follow the visible contour and not fixed points of the head.
    with_skin : bool
        Read the skin masks; sources without a mask file get empty masks.

    Raises
    ------
    FileNotFoundError
        The arrays of a source are missing.
    ValueError
        No photo of the split is left.
    """
    images, points, weights, covered, skins, numbers, photos = [], [], [], [], [], [], []
    wanted = SPLITS[split]
    fine, fine_rows, n_fine = [], [], 0
    for number, source in enumerate(sources):
        path = folder / f"train_{source}.npy"
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: run 'wm3dr-train label' for the source {source!r} first")
        table = np.load(folder / f"train_{source}.npz")
        rows = np.flatnonzero(table["split"] == wanted)
        if not len(rows):
            continue
        images.append(np.load(path, mmap_mode="r")[rows])
        manual, dense = table["landmarks68"][rows], table["landmarks478"][rows, :N_DENSE]
        weight68 = np.isfinite(manual).all(-1).astype(np.float32)
        weight68[:, JAW] *= jaw_weight
        weight468 = np.isfinite(dense).all(-1) * confidence_468[None].astype(np.float32)
        if "profile" in table:  # MediaPipe flattens profiles: trust the annotated fiducials more
            weight468[table["profile"][rows]] *= PROFILE_WEIGHT
        points.append(np.nan_to_num(np.concatenate([manual, dense], axis=1), nan=0.0).astype(np.float32))
        weights.append(np.concatenate([weight68, weight468], axis=1).astype(np.float32))
        covered.append(table["covered"][rows].astype(np.float32))
        numbers.append(np.full(len(rows), number))
        photos.append(rows)
        fine_row = table["fine_row"][rows] if "fine_row" in table else np.full(len(rows), -1)
        has_fine = fine_row >= 0
        if has_fine.any():
            fine.append(np.load(folder / f"fine_{source}.npy", mmap_mode="r")[fine_row[has_fine]])
            fine_row = np.where(has_fine, n_fine + np.cumsum(has_fine) - 1, -1)
            n_fine += int(has_fine.sum())
        fine_rows.append(fine_row.astype(np.int64))
        if with_skin:
            skin_path = folder / f"skin_{source}.npy"
            empty = np.zeros((len(rows), CROP_SIZE // 2, CROP_SIZE // 2), np.uint8)
            skins.append(np.load(skin_path, mmap_mode="r")[rows] if skin_path.exists() else empty)
    if not images:
        raise ValueError(f"'sources' {sources} hold no photo of the split {split!r}")
    mirror = np.concatenate([MIRROR_68, N_LANDMARKS + mirror_468])
    return FaceBank(
        images=torch.from_numpy(np.concatenate(images)),
        points=torch.from_numpy(np.concatenate(points)),
        weights=torch.from_numpy(np.concatenate(weights)),
        covered=torch.from_numpy(np.concatenate(covered)),
        skin=torch.from_numpy(np.concatenate(skins)) if with_skin else None,
        fine=torch.from_numpy(
            np.concatenate(fine) if fine else np.zeros((0, 2 * CROP_SIZE, 2 * CROP_SIZE, 3), np.uint8)
        ),
        fine_row=torch.from_numpy(np.concatenate(fine_rows)),
        source=torch.from_numpy(np.concatenate(numbers)),
        sources=list(sources),
        mirror=torch.from_numpy(mirror.astype(np.int64)),
        photo=torch.from_numpy(np.concatenate(photos)),
    )
