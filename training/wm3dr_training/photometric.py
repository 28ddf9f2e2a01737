"""Render the decoded faces in windows around them and compare with the photo: photometric, perceptual and texture
terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from wm3dr_training import losses
from wm3dr_training.bank import CROP_SIZE, FaceBank
from wm3dr_training.composer import Batch
from wm3dr_training.config import TrainConfig
from wm3dr_training.decoder import Faces
from wm3dr_training.encoder import FOCAL
from wm3dr_training.layers import FaceModel, illumination_from_rows, shading, transform, vertex_normals
from wm3dr_training.perceptual import EMBEDDING_SIZE, MobileFace, similarity_to_aligned
from wm3dr_training.renderer import NativeTriangleIds, PyTorch3DTriangleIds, Rendered, render
from wm3dr_training.sampling import compose_affines, sample_window

WINDOW_SCALE = 1.3  # side of the window over the longer side of the landmark box
SMALLEST_RENDERED = 40.0  # px: smaller faces show too little to compare
TEXTURE_REGIONS = ("skin", "nose")


@dataclass
class Windows:
    """Faces chosen for rendering: images (M, 3, R, R) 0–1, mask (M, 1, R, R), rendered colours, albedo (M, N, 3),
    window (M, 2, 3).
    """

    images: Tensor
    mask: Tensor
    rendered: Rendered
    albedo: Tensor
    window: Tensor


class Photometric(nn.Module):
    """Evaluates the image terms for a share of the faces of a batch."""

    def __init__(self, config: TrainConfig, face_model: FaceModel, bank: FaceBank, generator: torch.Generator) -> None:
        super().__init__()
        self.config, self.face_model, self.bank, self.generator = config, face_model, bank, generator
        self.backend = NativeTriangleIds() if config.raster == "native" else PyTorch3DTriangleIds()
        names = face_model.metadata.region_names
        labels = [names.index(name) for name in TEXTURE_REGIONS if name in names]
        regions = face_model.regions
        skin_vertices = torch.isin(regions, torch.tensor(labels, device=regions.device))
        self.register_buffer("skin_vertices", skin_vertices, persistent=False)
        self.embedding = MobileFace(config.mobileface) if config.losses.perceptual else None

    def choose(self, batch: Batch) -> Tensor:
        """Numbers of the faces to render: large enough, a random share, at most `render_limit`."""
        large = (batch.sizes >= SMALLEST_RENDERED).nonzero()[:, 0]
        order = torch.randperm(len(large), generator=self.generator, device=large.device)
        count = min(self.config.render_limit, round(self.config.render_share * len(large) + 0.49))
        return large[order[:count]]

    def windows(self, faces: Faces, batch: Batch, chosen: Tensor) -> Windows:
        """Render the `chosen` faces (their rows are those of `faces`), each in its own window."""
        size, model = self.config.render_size, self.face_model
        zoom = size / (WINDOW_SCALE * batch.sizes[chosen])  # (M,)
        shift = size / 2 - zoom[:, None] * batch.centers[chosen]
        window = torch.cat(
            [torch.eye(2, device=zoom.device) * zoom[:, None, None], shift[..., None]], dim=2
        )  # canvas → window
        groups = faces.groups
        vertices = transform(
            model.shapes(groups["identity"], groups["expression"]), faces.rotations, faces.translations
        )
        normals = vertex_normals(vertices, model.triangles) * vertices.new_tensor((1.0, -1.0, -1.0))  # OpenGL frame
        albedo = model.albedos(groups["albedo"])
        colors = albedo * shading(normals, illumination_from_rows(groups["illumination"]))
        principal_point = zoom[:, None] * faces.principal_point + shift
        rendered = render(vertices, model.triangles, colors, FOCAL * zoom, principal_point, size, self.backend)
        with torch.no_grad():
            index = batch.image_index[chosen]
            side = batch.images.shape[-1]
            images = sample_window(batch.images[index], window, size, side) / 255.0
            seen = sample_window(batch.clear[index], window, size, side, padding="zeros") > 0.99
            crop_to_window = compose_affines(window, batch.affine[chosen])
            skin = self.bank.skin[batch.bank_index[chosen]][:, None].float() / 255.0
            skin = sample_window(skin, crop_to_window, size, CROP_SIZE, padding="zeros")
            mask = skin * seen * rendered.mask
        return Windows(images, mask, rendered, albedo, window)

    def forward(self, faces: Faces, landmarks: Tensor, batch: Batch, chosen: Tensor) -> dict[str, Tensor]:
        """Terms by name. faces, landmarks (M, 68, 2) px: the rows of the chosen faces at their centre cells."""
        weights, shown = self.config.losses, self.windows(faces, batch, chosen)
        terms = {"photometric": losses.photometric_loss(shown.rendered.values, shown.images, shown.mask)}
        if weights.texture:
            terms["texture"] = losses.texture_loss(shown.albedo, self.skin_vertices)
        if weights.illumination:
            terms["illumination"] = losses.illumination_loss(illumination_from_rows(faces.groups["illumination"]))
        if weights.perceptual and self.embedding is not None:
            size = self.config.render_size
            target = batch.points[chosen, :68]
            manual = batch.weights[chosen, 17:68].amin(1) > 0
            points = torch.where(manual[:, None, None], target, landmarks.detach())
            inside = points @ shown.window[:, :, :2].transpose(1, 2) + shown.window[:, None, :, 2]
            align = similarity_to_aligned(inside)
            # the photo shows through where the mesh does not cover, so that only the face differs
            pasted = shown.images * (1 - shown.rendered.mask) + shown.rendered.values.clamp(0, 1) * shown.rendered.mask
            pair = [sample_window(x, align, EMBEDDING_SIZE, size) * 255.0 for x in (pasted, shown.images)]
            with torch.no_grad():
                photo = self.embedding(pair[1])
            terms["perceptual"] = losses.perceptual_loss(self.embedding(pair[0]), photo)
        return terms


def default_mobileface() -> Path:
    """Where a clone with the shared data beside it has MobileFace."""
    return Path("../shared/models/mobileface")
