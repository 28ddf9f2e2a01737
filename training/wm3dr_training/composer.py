"""Batches for both stages, composed on the device that holds the face bank (METHOD.md, training).

Stage 1: one face at the centre. Stage 2: canvases with many faces at log-uniform scales, pasted onto backgrounds.
Landmarks, centres and masks go through the same affine maps as the pixels (`sampling`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from wm3dr_training.augment import augment, uniform
from wm3dr_training.bank import CROP_SIZE, BackgroundBank, FaceBank
from wm3dr_training.config import TrainConfig
from wm3dr_training.encoder import STRIDE
from wm3dr_training.paste import WHOLE_REACH, Pastes, paste_faces
from wm3dr_training.sampling import crop_affines, map_points, sample_window

ROLL = math.radians(14)  # standard deviation of the in-plane rotation
OUTSIDE_WEIGHT = 0.3  # of points that the frame cuts off
WHOLE_SHARE = 0.15  # of the canvases show one crop as a whole
GRID_SIDES = (2, 2, 3, 3, 4)  # faces along a side of a grid, each as likely as it is listed
PLAIN_SHARE = 0.1  # of the canvases have a plain or noisy background


@dataclass
class Batch:
    """What a training step sees.

    images (B, 3, H, W) float 0–255; image_index (F,) canvas of each face; points (F, P, 2) canvas px; weights (F, P),
    0 where a point is missing; centers (F, 2) px; sizes (F,) px, the longer side of the landmark box; bank_index (F,)
    row of the bank; mirrored (F,) bool; affine (F, 2, 3) crop px → canvas px; heatmap (B, 1, h, w), 1 at centres,
    Gaussian around, −1 to ignore; principal_point (B, 2) px.
    """

    images: Tensor
    image_index: Tensor
    points: Tensor
    weights: Tensor
    centers: Tensor
    sizes: Tensor
    bank_index: Tensor
    mirrored: Tensor
    affine: Tensor
    heatmap: Tensor
    principal_point: Tensor
    clear: Tensor


def face_points(bank: FaceBank, index: Tensor, affine: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
    """Points and weights of bank rows on the canvas; a mirrored face swaps left and right points."""
    points, weights = map_points(affine, bank.points[index]), bank.weights[index]
    points = torch.where(mirrored[:, None, None], points[:, bank.mirror], points)
    return points, torch.where(mirrored[:, None], weights[:, bank.mirror], weights)


def gaussian_heatmap(batch: int, cells: tuple[int, int], image_index: Tensor, centers: Tensor, sizes: Tensor) -> Tensor:
    """Target of the centre loss: 1 at the cell of each centre, Gaussian-reduced around it (σ = 10 % of the face),
    maximum over faces.
    """
    height, width = cells
    y = (torch.arange(height, device=centers.device) + 0.5) * STRIDE
    x = (torch.arange(width, device=centers.device) + 0.5) * STRIDE
    target = torch.zeros(batch, height, width, device=centers.device)
    if not len(centers):
        return target[:, None]
    cell = (centers / STRIDE).floor().long()
    inside = (cell >= 0).all(1) & (cell[:, 0] < width) & (cell[:, 1] < height)
    middle = (cell + 0.5) * STRIDE
    sigma = (0.1 * sizes).clamp_min(0.6 * STRIDE)
    bump = torch.exp(
        -0.5
        * ((y[None, :, None] - middle[:, 1, None, None]) ** 2 + (x[None, None] - middle[:, 0, None, None]) ** 2)
        / sigma[:, None, None] ** 2
    )
    with warnings.catch_warnings():  # PyTorch calls index_reduce beta, once a process
        warnings.simplefilter("ignore", UserWarning)
        target.index_reduce_(0, image_index, bump.clamp_max(0.999), "amax")
    rows = inside.nonzero()[:, 0]
    target[image_index[rows], cell[rows, 1], cell[rows, 0]] = 1.0
    return target[:, None]


Draw = Callable[[int], Tensor]
"""Returns that many rows of the bank."""


class SingleFaceComposer:
    """Stage 1: one face near the centre of a `size`² image (METHOD.md: aligned; here with rotation, scale and
    shift).
    """

    def __init__(self, bank: FaceBank, config: TrainConfig, generator: torch.Generator) -> None:
        self.bank, self.config, self.generator = bank, config, generator

    def batch(self, draw: Draw) -> Batch:
        """`config.batch` images of one face each."""
        g, n, size = self.generator, self.config.batch, self.config.size
        index = draw(n)
        sizes = size * uniform(g, (n,), 0.40, 0.78)
        angles = torch.randn((n,), generator=g, device=g.device) * ROLL
        mirrored = torch.rand((n,), generator=g, device=g.device) < 0.5
        centers = size / 2 + uniform(g, (n, 2), -0.07, 0.07) * size
        affine = crop_affines(centers, sizes, angles, mirrored)
        crops = self.bank.images[index].permute(0, 3, 1, 2).float()
        images, clear = augment(sample_window(crops, affine, size, CROP_SIZE), g, self.config.strength)
        points, weights = face_points(self.bank, index, affine, mirrored)
        image_index = torch.arange(n, device=index.device)
        heatmap = gaussian_heatmap(n, (size // STRIDE, size // STRIDE), image_index, centers, sizes)
        principal_point = torch.full((n, 2), size / 2, device=index.device)
        return Batch(
            images=images,
            image_index=image_index,
            points=points,
            weights=weights,
            centers=centers,
            sizes=sizes,
            bank_index=index,
            mirrored=mirrored,
            affine=affine,
            heatmap=heatmap,
            principal_point=principal_point,
            clear=clear,
        )


class MultiFaceComposer:
    """Stage 2: canvases with 0 … `largest_count` faces at log-uniform scales (METHOD.md, stage 2).

    Sizes are drawn per canvas: one log-uniform in [smallest_face, largest_face], the others between a third of it and
    itself, as the people of one photo. A face's paste (an ellipse or a rectangle, feathered or not) may reach under
    an already pasted face but never over its landmarks' box by more than about a tenth; centres stay inside, so that
    a face can be cut by the frame by almost half.
    """

    def __init__(
        self, bank: FaceBank, backgrounds: BackgroundBank, config: TrainConfig, generator: torch.Generator
    ) -> None:
        self.bank, self.backgrounds, self.config, self.generator = bank, backgrounds, config, generator
        self._fine_row = bank.fine_row.tolist()  # on the host, where the layout is decided

    def batch(self, draw: Draw) -> Batch:
        """`config.batch` canvases."""
        g, config, device = self.generator, self.config, self.bank.images.device
        n, size = config.batch, config.size
        chances = torch.rand((n, 8 + 60 * config.largest_count), generator=g, device=g.device).tolist()
        layouts = [self._layout(iter(row)) for row in chances]
        canvas = [k for k, faces in enumerate(layouts) for _ in faces]
        image_index = torch.tensor(canvas, dtype=torch.long, device=device)
        flat = [face for faces in layouts for face in faces]
        table = torch.tensor(flat, device=device).reshape(-1, 4)
        centers, sizes = table[:, :2], table[:, 2]
        count = len(flat)
        index = draw(count)
        roll = torch.randn((count,), generator=g, device=g.device) * ROLL
        roll = torch.where(torch.rand((count,), generator=g, device=g.device) < 0.06, 3.0 * roll, roll)
        mirrored = torch.rand((count,), generator=g, device=g.device) < 0.5
        affine = crop_affines(centers, sizes, roll, mirrored)
        canvases = self._background(n)
        gain = torch.exp(uniform(g, (count, 3), -0.12, 0.12))
        draws = torch.rand((count, 3), generator=g, device=g.device)
        x, y, size_px, reach = ([face[j] for face in flat] for j in range(4))
        pastes = Pastes(canvas, index.tolist(), x, y, size_px, reach, affine, gain, draws)
        paste_faces(canvases, self.bank, self._fine_row, pastes)
        images, clear = augment(canvases, g, config.strength, occluders=0.3, donors=self._background(2))
        points, weights = face_points(self.bank, index, affine, mirrored)
        outside = (points < 0).any(-1) | (points > size).any(-1)
        weights = weights * torch.where(outside, OUTSIDE_WEIGHT, 1.0)
        # an error of the same per cent is fewer pixels on a small face and cannot be resolved there: it pulls less
        weights = weights * (sizes / CROP_SIZE * 2).sqrt().clamp(0.4, 1.0)[:, None]
        heatmap = gaussian_heatmap(n, (size // STRIDE, size // STRIDE), image_index, centers, sizes)
        # the network cannot see where the optical axis is: any point near the canvas may be it
        principal_point = size / 2 + uniform(g, (n, 2), -0.5, 0.5) * size
        return Batch(
            images=images,
            image_index=image_index,
            points=points,
            weights=weights,
            centers=centers,
            sizes=sizes,
            bank_index=index,
            mirrored=mirrored,
            affine=affine,
            heatmap=heatmap,
            principal_point=principal_point,
            clear=clear,
        )

    def _layout(self, numbers: Iterator[float]) -> list[tuple[float, float, float, float]]:
        """Faces of one canvas from uniform numbers: (x, y, size, reach); reach = half side of the paste over half side
        of the crop.
        """
        config, size = self.config, self.config.size
        if next(numbers) < config.negative_share:
            return []
        if next(numbers) < WHOLE_SHARE:  # one whole crop with its own surroundings, as a portrait
            scale = size * (0.42 + 0.3 * next(numbers))
            x, y = (size * (0.5 + 0.12 * (next(numbers) - 0.5)) for _ in range(2))
            return [(x, y, min(scale, config.largest_face), WHOLE_REACH)]
        if next(numbers) < config.grid_share:
            return self._grid(numbers)
        first = config.smallest_face * (config.largest_face / config.smallest_face) ** next(numbers)
        wanted = 1 + int(next(numbers) * config.largest_count)
        faces: list[tuple[float, float, float, float]] = []
        for number in range(wanted):
            scale = first if number == 0 else max(config.smallest_face, first * 3.0 ** -next(numbers))
            reach = 0.62 + 0.33 * next(numbers)
            for _ in range(16):
                x, y = (0.06 * scale + next(numbers) * (size - 0.12 * scale) for _ in range(2))
                own = reach * scale  # half side of the paste, px
                if all(math.hypot(x - a, y - b) > 0.85 * own + 0.42 * s for a, b, s, _ in faces):
                    faces.append((x, y, scale, reach))
                    break
        return faces

    def _grid(self, numbers: Iterator[float]) -> list[tuple[float, float, float, float]]:
        """A jittered grid: as many faces as a canvas of this size can show, which is what a step costs."""
        size = self.config.size
        per_side = [n for n in GRID_SIDES if self.config.smallest_face <= 0.6 * size / n <= self.config.largest_face]
        if not per_side:
            return []
        count = per_side[int(next(numbers) * len(per_side))]
        cell = size / count
        faces = []
        for row in range(count):
            for column in range(count):
                scale = min(self.config.largest_face, cell * (0.6 + 0.35 * next(numbers)))
                x, y = (cell * (k + 0.5 + 0.16 * (next(numbers) - 0.5)) for k in (column, row))
                faces.append((x, y, scale, min(0.95, 0.62 * cell / scale)))
        return faces

    def _background(self, count: int) -> Tensor:
        """(count, 3, size, size): pieces of photos without faces, some plain or noisy."""
        g, size = self.generator, self.config.size
        index = torch.randint(0, len(self.backgrounds.images), (count,), generator=g, device=g.device)
        photos = self.backgrounds.images[index].permute(0, 3, 1, 2).float()
        side = photos.shape[-1]
        zoom = torch.exp(uniform(g, (count,), -0.7, 0.5))  # canvas px per photo px
        zoom = zoom.clamp_min(size / side)  # the photo covers the canvas
        room = 1 - size / (side * zoom)  # of the centre, each way, in grid units
        middle = uniform(g, (count, 2), -1.0, 1.0) * room[:, None]
        flip = torch.where(torch.rand((count,), generator=g, device=g.device) < 0.5, -1.0, 1.0)
        half = size / (side * zoom)
        zero = torch.zeros_like(half)
        theta = torch.stack([half * flip, zero, middle[:, 0], zero, half, middle[:, 1]], dim=1).view(-1, 2, 3)
        grid = functional.affine_grid(theta, [count, 3, size, size], align_corners=False)
        canvases = functional.grid_sample(photos, grid, align_corners=False, padding_mode="reflection")
        plain = (torch.rand((count,), generator=g, device=g.device) < PLAIN_SHARE).nonzero()[:, 0]
        if len(plain):
            color = uniform(g, (len(plain), 3, 1, 1), 0, 255)
            grain = torch.randn((len(plain), 3, size, size), generator=g, device=g.device)
            canvases[plain] = (color + grain * uniform(g, (len(plain), 1, 1, 1), 0, 60)).clamp(0, 255)
        return canvases


class MixedComposer:
    """Stage 2 with a share of steps that show close-ups: faces too large for the usual canvas, on larger canvases."""

    def __init__(
        self, bank: FaceBank, backgrounds: BackgroundBank, config: TrainConfig, generator: torch.Generator
    ) -> None:
        self.config, self.generator = config, generator
        close = replace(
            config,
            size=config.close_size,
            batch=config.close_batch,
            smallest_face=config.largest_face / 2,
            largest_face=config.close_largest,
            largest_count=3,
        )
        self.usual = MultiFaceComposer(bank, backgrounds, config, generator)
        self.close = MultiFaceComposer(bank, backgrounds, close, generator)

    def batch(self, draw: Draw) -> Batch:
        """Canvases of one of the two kinds."""
        chance = torch.rand((), generator=self.generator, device=self.generator.device)
        return (self.close if chance < self.config.close_share else self.usual).batch(draw)
