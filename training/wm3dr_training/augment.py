"""Batched image augmentation on the device that holds the images: colour, grey, blur, noise, JPEG, occluders.

All functions take and return (B, 3, H, W) float in 0–255 and draw from the given generator.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_JPEG_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)  # ITU-T T.81, annex K
_LUMA = (0.299, 0.587, 0.114)


def uniform(generator: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Uniform numbers on the generator's device."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def _chosen(generator: torch.Generator, count: int, probability: float) -> Tensor:
    return (torch.rand((count,), generator=generator, device=generator.device) < probability).nonzero()[:, 0]


def jitter_color(images: Tensor, generator: torch.Generator, strength: float = 1.0, grey: float = 0.08) -> Tensor:
    """Gain, colour cast, contrast, saturation and gamma per image; a share `grey` becomes grey."""
    n = len(images)
    luma = images.new_tensor(_LUMA).view(1, 3, 1, 1)

    def factor(spread: float, *shape: int) -> Tensor:
        return torch.exp(uniform(generator, shape, -spread * strength, spread * strength)).view(n, -1, 1, 1)

    x = (images / 255.0).clamp(1e-4, 1.0) ** factor(0.35, n)  # gamma
    x = x * factor(0.25, n) * factor(0.10, n, 3)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = mean + (x - mean) * factor(0.3, n)
    tone = (x * luma).sum(1, keepdim=True)
    saturation = factor(0.4, n)
    saturation[_chosen(generator, n, grey)] = 0.0
    return ((tone + (x - tone) * saturation) * 255.0).clamp(0, 255)


def blur(images: Tensor, generator: torch.Generator, probability: float = 0.25, largest: float = 1.6) -> Tensor:
    """Gaussian blur of a share of the images, σ from 0.3 to `largest` px."""
    rows = _chosen(generator, len(images), probability)
    if not len(rows):
        return images
    sigma = uniform(generator, (len(rows),), 0.3, largest)
    taps = torch.arange(-4, 5, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (taps / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)  # (3 M, 9)
    x = images[rows].reshape(1, -1, *images.shape[2:])
    x = functional.conv2d(
        functional.pad(x, (4, 4, 0, 0), mode="replicate"), kernel[:, None, None, :], groups=len(kernel)
    )
    x = functional.conv2d(
        functional.pad(x, (0, 0, 4, 4), mode="replicate"), kernel[:, None, :, None], groups=len(kernel)
    )
    return images.index_copy(0, rows, x.view(-1, *images.shape[1:]))


def noise(images: Tensor, generator: torch.Generator, probability: float = 0.2, largest: float = 12.0) -> Tensor:
    """Additive Gaussian noise in a share of the images, σ up to `largest` grey levels."""
    rows = _chosen(generator, len(images), probability)
    if not len(rows):
        return images
    sigma = uniform(generator, (len(rows), 1, 1, 1), 1.0, largest)
    grain = torch.randn((len(rows), *images.shape[1:]), generator=generator, device=images.device)
    return images.index_copy(0, rows, (images[rows] + sigma * grain).clamp(0, 255))


def jpeg(images: Tensor, generator: torch.Generator, probability: float = 0.25) -> Tensor:
    """Quantise the 8×8 DCT of luma and chroma as JPEG of quality 15–80 would, in a share of the images."""
    rows = _chosen(generator, len(images), probability)
    if not len(rows):
        return images
    x = images[rows]
    k = torch.arange(8, device=x.device, dtype=x.dtype)
    dct = torch.cos(math.pi * (2 * k[None] + 1) * k[:, None] / 16) * 0.5
    dct[0] /= math.sqrt(2)
    y = (x * x.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    planes = torch.cat([y - 128, (x[:, 2:] - y) * 0.564, (x[:, :1] - y) * 0.713], dim=1)
    m, _, height, width = planes.shape
    blocks = planes.view(m, 3, height // 8, 8, width // 8, 8).permute(0, 1, 2, 4, 3, 5)
    quality = uniform(generator, (m,), 15, 80)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50).view(m, 1, 1, 1, 1, 1)
    table = (x.new_tensor(_JPEG_LUMINANCE) * scale).clamp_min(1)
    table = table * x.new_tensor([1.0, 1.6, 1.6]).view(1, 3, 1, 1, 1, 1)
    coefficients = torch.round(dct @ blocks @ dct.T / table) * table
    blocks = dct.T @ coefficients @ dct
    planes = blocks.permute(0, 1, 2, 4, 3, 5).reshape(m, 3, height, width)
    y, cb, cr = (planes[:, :1] + 128), planes[:, 1:2] / 0.564, planes[:, 2:] / 0.713
    red, blue = y + cr, y + cb
    green = (y - _LUMA[0] * red - _LUMA[2] * blue) / _LUMA[1]
    return images.index_copy(0, rows, torch.cat([red, green, blue], dim=1).clamp(0, 255))


def occlude(
    images: Tensor,
    generator: torch.Generator,
    probability: float = 0.25,
    largest: float = 0.45,
    donors: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cover a rectangle of a share of the images with a colour or a piece of a donor (None: another image of the
    batch).

    Also returns (B, 1, H, W): 0 where something was covered, else 1.
    """
    rows = _chosen(generator, len(images), probability).tolist()
    clear = torch.ones_like(images[:, :1])
    if not rows:
        return images, clear
    images = images.clone()
    _, _, height, width = images.shape
    draws = torch.rand((len(rows), 9), generator=generator, device=images.device).tolist()
    for row, (a, b, c, d, kind, other, *color) in zip(rows, draws, strict=True):
        h, w = int(height * largest * (0.2 + 0.8 * a)), int(width * largest * (0.2 + 0.8 * b))
        y, x = int((height - h) * c), int((width - w) * d)
        if kind < 0.5:
            source = images if donors is None else donors
            donor = source[int(other * len(source))]
            patch = donor[:, int((height - h) * d) :, int((width - w) * c) :][:, :h, :w].clone()
        else:
            patch = 255 * images.new_tensor(color).view(3, 1, 1).expand(3, h, w)
        images[row, :, y : y + h, x : x + w] = patch
        clear[row, :, y : y + h, x : x + w] = 0
    return images, clear


def augment(
    images: Tensor,
    generator: torch.Generator,
    strength: float = 1.0,
    occluders: float = 0.25,
    donors: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The whole chain; `strength` scales colours and the shares of blur, noise and JPEG. Returns images and
    `occlude`'s mask.
    """
    images, clear = occlude(images, generator, probability=occluders, donors=donors)
    images = jitter_color(images, generator, strength)
    images = blur(images, generator, 0.25 * strength)
    images = noise(images, generator, 0.2 * strength)
    return jpeg(images, generator, 0.25 * strength), clear
