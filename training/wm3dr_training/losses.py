"""Losses of METHOD.md's table, each a pure function that returns a scalar; weights live in the config.

Functions whose sum runs over faces return 0 (with gradient) for an empty batch of faces.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

MOUTH_AND_NOSE = tuple(range(27, 36)) + tuple(range(48, 68))
PRIOR_WEIGHTS = (1.0, 0.8, 0.0017)  # identity, expression, albedo (METHOD.md, L_norm)


def paper_landmark_weights() -> Tensor:
    """(68,) ω: 20 for mouth and nose, 1 else (METHOD.md, L_lan)."""
    weights = torch.ones(68)
    weights[list(MOUTH_AND_NOSE)] = 20.0
    return weights


def center_loss(logits: Tensor, target: Tensor, negative_power: float = 0.0) -> Tensor:
    """Focal loss of the heatmap, γ = 2 (METHOD.md, L_c).

    logits (B, 1, h, w); target (B, 1, h, w): 1 at the cells of face centres, 0 elsewhere, or in between for
    Gaussian-reduced negatives; `negative_power` β > 0 weighs the negatives with (1 − target)^β (CenterNet), β = 0
    counts all alike. Cells with target < 0 are ignored. `−1/n Σ (1 − p̂)² log p̂`, p̂ = p at positives and 1 − p at
    negatives, n = number of positives.
    """
    log_p, log_q = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    p = torch.sigmoid(logits)
    positive = target == 1
    negative = (target >= 0) & ~positive
    terms = torch.where(positive, (1 - p) ** 2 * log_p, torch.zeros_like(p))
    reduced = (1 - target.clamp(0, 1)) ** negative_power if negative_power else torch.ones_like(target)
    terms = terms + torch.where(negative, reduced * p**2 * log_q, torch.zeros_like(p))
    return -terms.sum() / positive.sum().clamp_min(1)


def photometric_loss(rendered: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """L2,1 over the mask: Σ M ‖I − I*‖₂ / Σ M (METHOD.md, L_pix).

    rendered, image (B, 3, H, W) in 0–1; mask (B, 1, H, W) in 0–1.
    """
    distance = ((rendered - image) ** 2).sum(1, keepdim=True).clamp_min(1e-8).sqrt()
    return (mask * distance).sum() / mask.sum().clamp_min(1.0)


def perceptual_loss(rendered_embedding: Tensor, image_embedding: Tensor) -> Tensor:
    """1/n Σ ‖φ(I) − φ(I*)‖² of L2-normalised face-recognition embeddings (F, D) (METHOD.md, L_per)."""
    a, b = functional.normalize(rendered_embedding, dim=1), functional.normalize(image_embedding, dim=1)
    return ((a - b) ** 2).sum(1).sum() / max(len(a), 1)


def landmark_loss(points: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """1/n Σ_k Σ_j ω_j ‖q_kj − q*_kj‖² / Σω (METHOD.md, L_lan; the sum over points is a weighted mean here).

    points, target (F, P, 2) px; weights (P,) or (F, P), 0 for missing points.
    """
    squared = ((points - target) ** 2).sum(-1)
    weights = weights.expand_as(squared)
    return (weights * squared).sum() / weights.sum().clamp_min(1e-6)


def scaled_landmark_loss(points: Tensor, target: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
    """Weighted mean distance in per cent of the face's size: the same pull at every scale (profile `fast`).

    points, target (F, P, 2) px; weights (F, P) or (P,); sizes (F,) px. `100 Σ ω √(‖q − q*‖²/s² + ε²) / Σ ω`, ε = 0.2 %.
    """
    squared = ((points - target) ** 2).sum(-1) / sizes[:, None] ** 2
    weights = weights.expand_as(squared)
    return 100.0 * (weights * (squared + 4e-6).sqrt()).sum() / weights.sum().clamp_min(1e-6)


def prior_loss(identity: Tensor, expression: Tensor, albedo: Tensor) -> Tensor:
    """1/n Σ (1.0 ‖δ_id‖² + 0.8 ‖δ_exp‖² + 0.0017 ‖δ_alb‖²) (METHOD.md, L_norm); groups (F, K)."""
    total = sum(w * (group**2).sum() for w, group in zip(PRIOR_WEIGHTS, (identity, expression, albedo), strict=True))
    return total / max(len(identity), 1)


def texture_loss(albedo: Tensor, region: Tensor) -> Tensor:
    """1/n Σ_c Var(A_c over the skin region R) (METHOD.md, L_var); albedo (F, N, 3), region (N,) bool."""
    values = albedo[:, region]
    return ((values - values.mean(dim=1, keepdim=True)) ** 2).mean(dim=1).sum() / max(len(albedo), 1)


def illumination_loss(illumination: Tensor) -> Tensor:
    """Mean squared deviation of each channel's light from grey, and of the directional terms from none (a tenth of it).

    illumination (F, 3, 9). Light that may take any colour would explain skin tone; most light is nearly white.
    """
    grey = illumination.mean(1, keepdim=True)
    tinted = ((illumination - grey) ** 2).sum((1, 2))
    directional = (illumination[:, :, 1:] ** 2).sum((1, 2))
    return (tinted + 0.1 * directional).sum() / max(len(illumination), 1)
