"""From features and a batch to the weighted sum of the loss terms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from wm3dr_training import losses
from wm3dr_training.bank import N_LANDMARKS
from wm3dr_training.composer import Batch
from wm3dr_training.config import TrainConfig
from wm3dr_training.data.landmarks import MEDIAPIPE_68
from wm3dr_training.data_setup import Data
from wm3dr_training.decoder import Faces, cells_around, decode
from wm3dr_training.encoder import Encoder
from wm3dr_training.layers import FaceModel
from wm3dr_training.photometric import SMALLEST_RENDERED, Photometric
from wm3dr_training.targets import FitTargets, SparseColors, bank_fits


class Objective(nn.Module):
    """Evaluates every term whose weight is not zero."""

    def __init__(self, config: TrainConfig, face_model: FaceModel, data: Data, generator: torch.Generator) -> None:
        super().__init__()
        points = data.points
        self.config, self.generator = config, generator
        self.face_model = face_model
        self.layout = face_model.layout
        self.landmark_rows = face_model.landmark_rows()
        device = face_model.mean_shape.device
        points.require_mesh(face_model.metadata.name, len(face_model.mean_shape), face_model.triangles.cpu().numpy())
        vertex_ids = torch.from_numpy(points.vertex_ids.astype(np.int64)).to(device)
        weights = torch.from_numpy(points.weights.astype(np.float32)).to(device)
        self.dense_rows = face_model.point_rows(vertex_ids, weights)
        self.register_buffer("detector_68", torch.from_numpy(MEDIAPIPE_68).to(device), persistent=False)
        self.detected_rows = face_model.point_rows(vertex_ids[self.detector_68], weights[self.detector_68])
        rendering = config.render_share > 0 and config.losses.photometric > 0
        self.photometric = Photometric(config, face_model, data.bank, generator) if rendering else None
        self.targets, self.colors = None, None
        if config.losses.with_fits:
            fits = bank_fits(Path(config.labels), data.bank, face_model.sha256)
            self.targets = FitTargets(face_model, fits, self.dense_rows)
        if config.losses.sparse_color:
            assert data.bank.skin is not None  # load_data reads the masks for this term
            self.colors = SparseColors(face_model, data.bank.skin, generator)
        self.register_buffer("paper_weights", losses.paper_landmark_weights(), persistent=False)

    def forward(self, encoder: Encoder, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted total and every unweighted term by name."""
        weights = self.config.losses
        map_size = (features.shape[2], features.shape[3])
        cells, face = cells_around(batch.centers, map_size, self.config.neighbours, self.generator)
        image_index = batch.image_index[face]
        rows = encoder.rows_at(features, image_index, cells)
        faces = decode(rows, cells, batch.principal_point[image_index], self.layout)
        groups, sizes = faces.groups, batch.sizes[face]
        terms: dict[str, Tensor] = {}
        landmarks = faces.points_px(self.landmark_rows)
        target, point_weights = batch.points[face], batch.weights[face]
        if weights.landmark:
            points, wanted, per_point = self._landmarks(faces, landmarks, target, point_weights)
            scale = (224.0 / (2 * sizes))[:, None, None]  # as if every face were a 224-px crop
            terms["landmark"] = losses.landmark_loss(points * scale, wanted * scale, per_point)
        if weights.scaled_landmark:
            terms["scaled_landmark"] = losses.scaled_landmark_loss(
                landmarks, target[:, :N_LANDMARKS], point_weights[:, :N_LANDMARKS], sizes
            )
        if weights.dense_landmark:
            terms["dense_landmark"] = losses.scaled_landmark_loss(
                faces.points_px(self.dense_rows), target[:, N_LANDMARKS:], point_weights[:, N_LANDMARKS:], sizes
            )
        if weights.prior:
            terms["prior"] = losses.prior_loss(groups["identity"], groups["expression"], groups["albedo"])
        if self.targets is not None and len(face):
            terms |= {f"fit_{name}": value for name, value in self.targets(faces, batch, face).items()}
        if self.colors is not None and len(face):
            main = torch.arange(len(batch.centers), device=face.device)  # rows of the centre cells come first
            terms["sparse_color"] = self.colors(faces.rows(main), batch, face[main])
        if self.photometric is not None and len(chosen := self.photometric.choose(batch)):
            some = faces.rows(chosen)  # the first rows are the centre cells, in the order of the batch's faces
            terms |= self.photometric(some, landmarks[chosen], batch, chosen)
        if weights.center and self.config.stage == 2:
            terms["center"] = losses.center_loss(encoder.heatmap(features), batch.heatmap, negative_power=4.0)
        total = sum(getattr(weights, name) * value for name, value in terms.items())
        return total, terms

    def _landmarks(
        self, faces: Faces, landmarks: Tensor, target: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Points, targets and weights of METHOD's landmark term: the 68 manual landmarks of faces that have them, the
        detector's 68 of all others, at the places of the mesh where the detector puts them.
        """
        manual = weights[:, :N_LANDMARKS]
        alone = (manual.sum(1, keepdim=True) == 0).float()
        detected = N_LANDMARKS + self.detector_68
        points = torch.cat([landmarks, faces.points_px(self.detected_rows)], dim=1)
        wanted = torch.cat([target[:, :N_LANDMARKS], target[:, detected]], dim=1)
        per_point = torch.cat([manual, alone * weights[:, detected]], dim=1) * self.paper_weights.repeat(2)
        return points, wanted, per_point

    @torch.no_grad()
    def picture(self, encoder: Encoder, batch: Batch, path: Path, count: int = 16) -> None:
        """Save a sheet of inputs with decoded landmarks (green), dense points (blue) and their targets (red), and
        one of renders.
        """
        encoder.eval()
        images = batch.images[:count]
        keep = batch.image_index < len(images)
        features = encoder.features(images)
        cells, face = cells_around(batch.centers[keep], (features.shape[2], features.shape[3]), 0, self.generator)
        image_index = batch.image_index[keep][face]
        faces = decode(
            encoder.rows_at(features, image_index, cells), cells, batch.principal_point[image_index], self.layout
        )
        landmarks, dense = faces.points_px(self.landmark_rows).cpu(), faces.points_px(self.dense_rows).cpu()
        target, weights = batch.points[keep].cpu(), batch.weights[keep].cpu()
        tiles = []
        for number, image in enumerate(images.permute(0, 2, 3, 1).clamp(0, 255).byte().cpu().numpy()):
            tile = Image.fromarray(image).resize((image.shape[1] * 2, image.shape[0] * 2))
            draw = ImageDraw.Draw(tile)
            for row in (image_index.cpu() == number).nonzero()[:, 0].tolist():
                for point in (2 * target[row][weights[row] > 0]).tolist():
                    draw.point(point, fill=(255, 60, 60))
                for point in (2 * dense[row]).tolist():
                    draw.point(point, fill=(80, 160, 255))
                for x, y in (2 * landmarks[row]).tolist():
                    draw.ellipse((x - 1.2, y - 1.2, x + 1.2, y + 1.2), fill=(0, 255, 0))
            tiles.append(np.asarray(tile))
        _save_sheet(tiles, path, columns=4)
        if self.photometric is None:
            return
        chosen = (batch.sizes[keep] >= SMALLEST_RENDERED).nonzero()[:, 0][:count]
        if len(chosen):
            shown = self.photometric.windows(faces.rows(chosen), batch, keep.nonzero()[:, 0][chosen])
            shape = 0.7 * shown.rendered.mask  # albedo alone, at a constant light
            albedo = shape * shown.albedo.mean(1)[:, :, None, None]
            rows = [
                shown.images,
                shown.rendered.values,
                shown.images * (1 - shown.rendered.mask) + shown.rendered.values,
                shown.mask.expand_as(shown.images),
                albedo,
            ]
            tiles = [np.concatenate([_to_uint8(kind[k]) for kind in rows], axis=1) for k in range(len(chosen))]
            _save_sheet(tiles, path.with_name(path.stem + "_render.png"), columns=2)


def _to_uint8(image: Tensor) -> np.ndarray:
    """(3, H, W) in 0–1 -> (H, W, 3) uint8."""
    return (255 * image.permute(1, 2, 0).clamp(0, 1)).byte().cpu().numpy()


def _save_sheet(tiles: list[np.ndarray], path: Path, columns: int) -> None:
    tiles = tiles + [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    sheet = np.concatenate([np.concatenate(tiles[k : k + columns], axis=1) for k in range(0, len(tiles), columns)])
    Image.fromarray(sheet).save(path)
