"""Quick validation during training: landmarks of held-out crops. The figures that count come from `evaluate`."""

from __future__ import annotations

import torch

from wm3dr_training.bank import CROP_SIZE, N_LANDMARKS
from wm3dr_training.config import TrainConfig
from wm3dr_training.data_setup import Data
from wm3dr_training.decoder import cells_around, decode
from wm3dr_training.encoder import Encoder
from wm3dr_training.layers import FaceModel
from wm3dr_training.sampling import crop_affines, map_points, sample_window

OUTER_EYE_CORNERS = (36, 45)


@torch.no_grad()
def validate(
    encoder: Encoder, face_model: FaceModel, data: Data, config: TrainConfig, limit: int = 400
) -> dict[str, float]:
    """NME of held-out crops, read at the centre cell, the face's side at 58 % of the image's (stage 1's scale).

    nme51: inner points over the distance of the outer eye corners, %; nme68: all points over √(w·h) of the true box, %.
    Sources without manual landmarks are measured on MediaPipe's points: `dense`, their weighted mean distance over the
    longer side of the landmark box, %.
    """
    encoder.eval()
    bank, device = data.validation, data.validation.images.device
    has_manual = (bank.weights[:, 17:68].sum(1) > 50).nonzero()[:, 0][:limit]
    chosen = has_manual if len(has_manual) else torch.arange(min(limit, len(bank)), device=device)
    size = min(config.size, 192)
    rows68 = face_model.landmark_rows().to(device)
    dense_rows = None
    if not len(has_manual):
        points = data.points
        ids, shares = (torch.from_numpy(table).to(device) for table in (points.vertex_ids, points.weights))
        dense_rows = face_model.point_rows(ids.long(), shares.float())
    inner, outer, dense = [], [], []
    for index in chosen.split(48):
        n = len(index)
        affine = crop_affines(
            torch.full((n, 2), size / 2, device=device),
            torch.full((n,), 0.58 * size, device=device),
            torch.zeros(n, device=device),
            torch.zeros(n, dtype=torch.bool, device=device),
        )
        images = sample_window(bank.images[index].permute(0, 3, 1, 2).float(), affine, size, CROP_SIZE)
        target = map_points(affine, bank.points[index, :N_LANDMARKS])
        features = encoder.features(images.contiguous(memory_format=torch.channels_last))
        centers = torch.full((n, 2), size / 2, device=device)
        cells, _ = cells_around(centers, (size // 8, size // 8), 0, data.generator)
        rows = encoder.rows_at(features, torch.arange(n, device=device), cells)
        faces = decode(rows, cells, centers, encoder.layout)
        if dense_rows is not None:
            seen = map_points(affine, bank.points[index, N_LANDMARKS:])
            apart, weight = (faces.points_px(dense_rows) - seen).norm(dim=-1), bank.weights[index, N_LANDMARKS:]
            dense.append((apart * weight).sum(1) / weight.sum(1).clamp_min(1e-6) / (0.58 * size))
            continue
        distance = (faces.points_px(rows68) - target).norm(dim=-1)  # (n, 68)
        between = (target[:, OUTER_EYE_CORNERS[0]] - target[:, OUTER_EYE_CORNERS[1]]).norm(dim=-1)
        extent = target.amax(1) - target.amin(1)
        inner.append(distance[:, 17:].mean(1) / between)
        outer.append(distance.mean(1) / extent.prod(1).sqrt())
    if dense:
        return {"dense": 100 * float(torch.cat(dense).mean()), "faces": len(chosen)}
    return {
        "nme51": 100 * float(torch.cat(inner).mean()),
        "nme68": 100 * float(torch.cat(outer).mean()),
        "faces": len(has_manual),
    }
