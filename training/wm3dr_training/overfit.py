"""Overfit a few photos: the check that network, decoder, renderer and losses together can reproduce what they see.

    python -m wm3dr_training.overfit --labels runs/labels --source london --out runs/overfit

trains stage 1 on the same few crops, without augmentation and with the image terms on, and draws photo | render |
overlay. It says nothing about faces that were not trained on; a fault anywhere between pixels and losses shows here
within minutes.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wm3dr.files import DEFAULT_FACE_MODEL
from wm3dr_training.bank import CROP_SIZE, N_LANDMARKS, SPLITS, FaceBank
from wm3dr_training.composer import Batch, face_points, gaussian_heatmap
from wm3dr_training.config import LossWeights, TrainConfig
from wm3dr_training.data.landmarks import MEDIAPIPE_68
from wm3dr_training.decoder import Faces, cells_around, decode
from wm3dr_training.encoder import FOCAL, STRIDE, Encoder
from wm3dr_training.layers import OPENGL_FROM_CAMERA, illumination_from_rows, shading, transform, vertex_normals
from wm3dr_training.objective import Objective
from wm3dr_training.renderer import NativeTriangleIds, render
from wm3dr_training.sampling import compose_affines, crop_affines, sample_window
from wm3dr_training.trainer import Trainer

FACE_SHARE = 0.62  # longer side of the landmark box over the side of the image
TILE = 168  # px, side of each tile of the picture
BACKDROP = 0.4  # grey behind the renders; the mesh has neither eyeballs nor teeth
TILE_SCALE = 1.5  # side of a tile over the longer side of the landmark box
LOSSES = LossWeights(
    center=0.0,
    landmark=0.0,
    scaled_landmark=1.0,
    dense_landmark=1.0,
    photometric=12.0,
    perceptual=0.0,
    prior=2e-4,
    texture=0.005,
    illumination=0.005,
)  # weak supervision alone: no coefficient targets from fits


def overfit_config(labels: Path, face_model: Path, source: str, **values: object) -> TrainConfig:
    """Stage 1 without augmentation, all of the encoder trained, every face rendered."""
    common = {
        "stage": 1,
        "labels": str(labels),
        "face_model": str(face_model),
        "sources": (source,),
        "size": 160,
        "batch": 8,
        "iterations": 240,
        "strength": 0.0,
        "warmup": 20,
        "ema": 0.95,
        "neighbours": 0,
        "render_share": 1.0,
        "render_size": 80,
        "losses": LOSSES,
        "log_every": 20,
        "validate_every": 10**9,
        "checkpoint_every": 80,
        "picture_every": 10**9,
    }
    return TrainConfig(**(common | values))


def write_subset(labels: Path, source: str, rows: list[int], out: Path) -> None:
    """A label folder that holds some rows of one source of another, all in the training split.

    Raises
    ------
    FileNotFoundError
        `labels` has no arrays of the source.
    ValueError
        A row is not there.
    """
    table = labels / f"train_{source}.npz"
    if not table.exists():
        raise FileNotFoundError(f"{table} is missing: run 'wm3dr-train label' for the source {source!r} first")
    with np.load(table) as content:
        columns = dict(content)
    count = len(columns["split"])
    if any(not 0 <= row < count for row in rows):
        raise ValueError(f"'rows' are {rows}, expected numbers from 0 to {count - 1}, the photos of {source!r}")
    out.mkdir(parents=True, exist_ok=True)
    images = np.load(labels / f"train_{source}.npy", mmap_mode="r")
    skin = labels / f"skin_{source}.npy"
    if skin.exists():
        np.save(out / skin.name, np.load(skin, mmap_mode="r")[rows])
    chosen = {name: values[rows] for name, values in columns.items()}
    chosen["split"] = np.full(len(rows), SPLITS["train"])
    if "fine_row" in chosen:
        fine = np.load(labels / f"fine_{source}.npy", mmap_mode="r")
        there = chosen["fine_row"] >= 0
        np.save(out / f"fine_{source}.npy", fine[chosen["fine_row"][there]])
        chosen["fine_row"] = np.where(there, np.cumsum(there) - 1, -1)
    np.save(out / f"train_{source}.npy", images[rows])
    np.savez(out / table.name, **chosen)


class FixedComposer:
    """Every batch is the whole bank, each face upright in the middle of its image, nothing augmented."""

    def __init__(self, bank: FaceBank, size: int) -> None:
        n, device = len(bank), bank.images.device
        index = torch.arange(n, device=device)
        sizes = torch.full((n,), FACE_SHARE * size, device=device)
        centers = torch.full((n, 2), size / 2, device=device)
        mirrored = torch.zeros(n, dtype=torch.bool, device=device)
        affine = crop_affines(centers, sizes, torch.zeros(n, device=device), mirrored)
        crops = torch.stack([_largest(bank, k) for k in range(n)])
        images = sample_window(crops, affine, size, CROP_SIZE)
        points, weights = face_points(bank, index, affine, mirrored)
        self._batch = Batch(
            images=images,
            image_index=index,
            points=points,
            weights=weights,
            centers=centers,
            sizes=sizes,
            bank_index=index,
            mirrored=mirrored,
            affine=affine,
            heatmap=gaussian_heatmap(n, (size // STRIDE, size // STRIDE), index, centers, sizes),
            principal_point=torch.full((n, 2), size / 2, device=device),
            clear=torch.ones_like(images[:, :1]),
        )

    def batch(self, _draw: object = None) -> Batch:
        """The same batch every time."""
        return self._batch


def _largest(bank: FaceBank, row: int) -> Tensor:
    """Crop (3, 384, 384): the fine one, or the other enlarged."""
    crop = bank.crop(row, fine=True).permute(2, 0, 1)[None].float()
    return torch.nn.functional.interpolate(crop, size=(2 * CROP_SIZE,) * 2, mode="bilinear")[0]


def decoded(encoder: Encoder, objective: Objective, batch: Batch) -> Faces:
    """The faces of a batch, read at their centre cells in evaluation mode."""
    encoder.eval()
    features = encoder.features(batch.images)
    cells, _ = cells_around(batch.centers, (features.shape[2], features.shape[3]), 0, objective.generator)
    return decode(encoder.rows_at(features, batch.image_index, cells), cells, batch.principal_point, objective.layout)


def landmark_errors(faces: Faces, objective: Objective, batch: Batch) -> dict[str, Tensor]:
    """Errors (F,) over √(w·h) of the box of MediaPipe's points, %.

    `dense`: weighted mean distance to all 468; `nme68`: mean distance to the 68 of them that stand for the landmarks
    of 300-W.
    """
    points, target = faces.points_px(objective.dense_rows), batch.points[:, N_LANDMARKS:]
    weights = batch.weights[:, N_LANDMARKS:]
    box = target.amax(1) - target.amin(1)
    distance = 100 * (points - target).norm(dim=-1) / box.prod(1).sqrt()[:, None]
    chosen = torch.from_numpy(MEDIAPIPE_68).to(distance.device)
    return {"dense": (distance * weights).sum(1) / weights.sum(1), "nme68": distance[:, chosen].mean(1)}


def tiles(faces: Faces, objective: Objective, bank: FaceBank, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Photos (F, 3, S, S) 0–1, renders of the same windows, and where there is a render (F, 1, S, S)."""
    model, groups = objective.face_model, faces.groups
    zoom = TILE / (TILE_SCALE * batch.sizes)
    shift = TILE / 2 - zoom[:, None] * batch.centers
    window = torch.cat([torch.eye(2, device=zoom.device) * zoom[:, None, None], shift[..., None]], dim=2)
    shapes = model.shapes(groups["identity"], groups["expression"])
    vertices = transform(shapes, faces.rotations, faces.translations)
    normals = vertex_normals(vertices, model.triangles) * vertices.new_tensor(OPENGL_FROM_CAMERA)
    colors = model.albedos(groups["albedo"]) * shading(normals, illumination_from_rows(groups["illumination"]))
    point = zoom[:, None] * faces.principal_point + shift
    rendered = render(vertices, model.triangles, colors, FOCAL * zoom, point, TILE, NativeTriangleIds(1))
    crops = torch.stack([_largest(bank, int(row)) for row in batch.bank_index])
    photos = sample_window(crops, compose_affines(window, batch.affine), TILE, CROP_SIZE) / 255.0
    return photos, rendered.values.clamp(0, 1), rendered.mask


def save_picture(photos: Tensor, rendered: Tensor, mask: Tensor, path: Path) -> None:
    """A column per face: photo, render, render pasted over the photo."""
    rows = [photos, rendered + BACKDROP * (1 - mask), photos * (1 - mask) + rendered * mask]
    sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    array = (255 * sheet.clamp(0, 1)).byte().permute(1, 2, 0).cpu().numpy()
    Image.fromarray(array).save(path, quality=88)


def overfit(config: TrainConfig, out: Path) -> dict[str, list[float]]:
    """Train, draw `out/overfit.jpg` and return the errors of every face in per cent."""
    trainer = Trainer(config, out)
    composer = FixedComposer(trainer.data.bank, config.size)
    trainer.data.composer = composer
    if trainer.progress() < 1:
        trainer.run()
    with torch.no_grad():
        batch = composer.batch()
        faces = decoded(trainer.average.module, trainer.objective, batch)
        errors = landmark_errors(faces, trainer.objective, batch)
        save_picture(*tiles(faces, trainer.objective, trainer.data.bank, batch), out / "overfit.jpg")
    return {name: values.tolist() for name, values in errors.items()}


@click.command()
@click.option("--labels", required=True, type=click.Path(path_type=Path), help="Folder that `label` wrote.")
@click.option("--source", required=True, help="Source to take the photos from.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run; resumed if begun.")
@click.option("--rows", help="Comma-separated numbers of the photos; default: eight, evenly spread.")
@click.option("--iterations", default=240, show_default=True, help="Steps.")
@click.option("--size", default=160, show_default=True, help="Side of the input, pixels.")
@click.option("--face-model", type=click.Path(path_type=Path), default=DEFAULT_FACE_MODEL, help="Face-model file.")
@click.option("--threads", default=1, show_default=True, help="Threads of torch.")
def main(
    labels: Path, source: str, out: Path, rows: str | None, iterations: int, size: int, face_model: Path, threads: int
) -> None:
    """Overfit a few photos of one source and draw what came out."""
    torch.set_num_threads(threads)
    try:
        chosen = _spread(labels, source) if rows is None else [int(row) for row in rows.split(",")]
        write_subset(labels, source, chosen, out / "labels")
        values = {"iterations": iterations, "size": size, "batch": len(chosen), "render_size": size // 2}
        errors = overfit(overfit_config(out / "labels", face_model, source, **values), out)
    except (OSError, ValueError, RuntimeError, FloatingPointError) as error:
        raise click.ClickException(str(error)) from error
    for name, per_face in errors.items():
        listed = " ".join(f"{value:.2f}" for value in per_face)
        click.echo(f"{name}: mean {np.mean(per_face):.2f} %, faces {listed}")
    click.echo(f"picture: {out / 'overfit.jpg'}")


def _spread(labels: Path, source: str) -> list[int]:
    """Eight rows of a source, evenly spread."""
    with np.load(labels / f"train_{source}.npz") as table:
        count = len(table["split"])
    return sorted(set(np.linspace(0, count - 1, 8).round().astype(int).tolist()))


if __name__ == "__main__":
    main()
