"""Per-photo fits of the face model: coefficient targets for the encoder's first hours (profile `fast`).

Two closed steps per photo, both on a crop: shape and pose to the landmarks (`landmark_fit`), then albedo and light to
the colours, with the solver that the runtime uses for `fit_colors` (CONVENTIONS.md §6). Its robust weights leave out
hair and whatever else is in front of the face; the skin mask decides only whether there is a fit and where its error is
measured. The result is `fit_SOURCE.npz`.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import wm3dr
from wm3dr import _native
from wm3dr_training.bank import FACE_SIZE, JAW, PROFILE_WEIGHT
from wm3dr_training.data.arrays import save_npz
from wm3dr_training.data.correspondence import Correspondence, load_correspondence
from wm3dr_training.data.crops import CROP_SIZE
from wm3dr_training.data.landmark_fit import FOCAL_PX, LandmarkFit, PointModel, fit_landmarks
from wm3dr_training.encoder import AMBIENT_START
from wm3dr_training.layers import AMBIENT, FaceModel, ray_rotations

MANUAL_WEIGHT = 1.0
DENSE_WEIGHT = 0.25
"""MediaPipe's 468 points are neighbours of one another: together they weigh about as much as the 51 manual ones."""
MAX_RESIDUAL = 6.0
"""Per cent of the face's size; a fit farther from its landmarks is no target."""
N_SAMPLED = 1650
"""Vertices of skin and nose at which the mask is read and the error measured."""
LEAST_SKIN = 200
"""Of these; a face that shows skin at fewer has no fit."""
GRAZING = 0.25
"""Least cosine between normal and line of sight."""


@dataclass(frozen=True)
class ColorFit:
    """Light and albedo of one photo."""

    albedo: NDArray[np.float32]
    """(K_alb,)."""
    illumination: NDArray[np.float32]
    """(3, 9), the ambient term included."""
    error: float
    """Mean absolute difference over the sampled vertices that show skin, 0–255."""


def point_model(face_model: FaceModel, points: Correspondence) -> PointModel:
    """The 68 landmarks, then MediaPipe's 468 points, as linear functions of the coefficients."""
    ids = torch.from_numpy(points.vertex_ids.astype(np.int64))
    dense = face_model.point_rows(ids, torch.from_numpy(points.weights.astype(np.float32)))
    parts = []
    for rows in (face_model.landmark_rows(), dense):
        mean = rows.mean.double().numpy()
        parts.append(PointModel(mean, rows.basis.double().numpy().reshape(*mean.shape, -1), face_model.layout.identity))
    return parts[0].joined(parts[1])


class CropColors:
    """Fits albedo and light to crops of faces whose shape and pose are known.

    The solver expects zero albedo under the ambient light that an encoder starts with.
    """

    def __init__(self, face_model: wm3dr.FaceModel, seed: int = 0) -> None:
        self.model = face_model
        labels = face_model.regions[: face_model.n_stored]
        plain = [label for label, name in enumerate(face_model.region_names) if name in ("skin", "nose")]
        candidates = np.flatnonzero(np.isin(labels, plain))
        generator = np.random.default_rng(seed)
        self.sample = np.sort(generator.choice(candidates, min(N_SAMPLED, len(candidates)), replace=False))

    def fit(self, image: NDArray[np.uint8], skin: NDArray[np.uint8], vertices: NDArray[np.float32]) -> ColorFit | None:
        """Fit one photo.

        Parameters
        ----------
        image : (S, S, 3) uint8
            The crop, any resolution.
        skin : (S', S') uint8
            Its skin mask.
        vertices : (N, 3) float32
            Camera frame, mm; of the stored mesh, or of the refined one, which begins with them.

        Returns
        -------
        fit : ColorFit or None
            None when fewer than 200 of the sampled vertices show skin.
        """
        meshes = np.ascontiguousarray(vertices[None, : self.model.n_stored], dtype=np.float32)
        normals = self.model.native.stored_normals(meshes, 1)
        sample = self._that_show_skin(skin, meshes, normals)
        if len(sample) < LEAST_SKIN:
            return None
        scale = len(image) / CROP_SIZE
        albedo = np.zeros((1, self.model.widths["albedo"]), np.float32)
        light = np.zeros((1, 3, 9), np.float32)
        light[:, :, 0] = AMBIENT + AMBIENT_START
        fitted_albedo, fitted_light = self.model.color_fitter.fit(
            np.ascontiguousarray(image), FOCAL_PX * scale, (len(image) / 2,) * 2, meshes, normals, albedo, light, 1
        )
        albedos = self.model.native.albedos(fitted_albedo, 1)[:, sample]
        colors = _native.colors(albedos, normals[:, sample], fitted_light, 1)[0]
        shown = _bilinear(image.astype(np.float32) / 255.0, _pixels(meshes[0, sample]), scale)
        return ColorFit(fitted_albedo[0], fitted_light[0], float(255 * np.abs(colors - shown).mean()))

    def _that_show_skin(
        self, skin: NDArray[np.uint8], meshes: NDArray[np.float32], normals: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        """Sampled vertices that nothing of the face hides, where the mask says skin."""
        triangles, center = self.model.stored_triangles, (CROP_SIZE / 2, CROP_SIZE / 2)
        ids = _native.rasterize(meshes, triangles, FOCAL_PX, center, (CROP_SIZE, CROP_SIZE), 1)[0]
        seen = np.isin(self.sample, triangles[ids[ids >= 0]])
        points = meshes[0, self.sample]
        pixels = _pixels(points)
        facing = -(normals[0, self.sample] * points).sum(1) / np.linalg.norm(points, axis=1)
        inside = ((pixels > 1) & (pixels < CROP_SIZE - 1)).all(1)
        mask = _bilinear(skin[..., None].astype(np.float32) / 255.0, pixels, len(skin) / CROP_SIZE)[:, 0]
        return self.sample[seen & (facing > GRAZING) & inside & (mask > 0.95)]


def fit_photo(
    model: PointModel, landmarks68: NDArray, dense: NDArray, confidence: NDArray, profile: bool
) -> LandmarkFit:
    """Shape and pose of one crop; NaN landmarks are missing. ValueError when too few are there."""
    manual = np.isfinite(landmarks68).all(1) * MANUAL_WEIGHT
    manual[JAW] = 0.0
    found = np.isfinite(dense).all(1) * confidence * DENSE_WEIGHT * (PROFILE_WEIGHT if profile else 1.0)
    weights = np.concatenate([manual, found])
    return fit_landmarks(model, np.concatenate([landmarks68, dense]), weights, CROP_SIZE / 2)


def fit_rows(
    source: str, folder: Path, rows: NDArray[np.int64], face_model: Path, points_file: Path | None = None
) -> dict[str, NDArray[np.float32]]:
    """Fit some photos of `train_SOURCE.npz`; the arrays of `write_fits` for these rows."""
    torch.set_num_threads(1)
    model, runtime_model = FaceModel.load(face_model), wm3dr.FaceModel.load(face_model)
    correspondence = load_correspondence(points_file)
    correspondence.require_mesh(model.metadata.name, len(model.mean_shape), model.triangles.numpy())
    confidence = correspondence.confidence
    table = np.load(folder / f"train_{source}.npz")
    images, skins = (np.load(folder / f"{kind}_{source}.npy", mmap_mode="r") for kind in ("train", "skin"))
    fine_path = folder / f"fine_{source}.npy"
    fine = np.load(fine_path, mmap_mode="r") if fine_path.exists() else None
    landmarks68, dense = table["landmarks68"], table["landmarks478"][:, : len(confidence)]
    profile = table["profile"] if "profile" in table else np.zeros(len(images), bool)
    fine_row = table["fine_row"] if fine is not None and "fine_row" in table else np.full(len(images), -1)
    points, colors = point_model(model, correspondence), CropColors(runtime_model)
    count, layout = len(rows), model.layout
    out = {
        "identity": np.zeros((count, layout.identity), np.float32),
        "expression": np.zeros((count, layout.expression), np.float32),
        "rotation": np.zeros((count, 3, 3), np.float32),
        "albedo": np.zeros((count, layout.albedo), np.float32),
        "illumination": np.zeros((count, 3, 9), np.float32),
        "residual": np.full(count, np.inf, np.float32),
        "color_error": np.full(count, np.inf, np.float32),
    }
    for number, row in enumerate(rows):
        try:
            fit = fit_photo(points, landmarks68[row], dense[row], confidence, bool(profile[row]))
        except (ValueError, np.linalg.LinAlgError):
            continue  # too few landmarks: this photo has no target
        known = np.isfinite(np.concatenate([landmarks68[row], dense[row]])).all(1)
        known[JAW] = False
        residual = 100 * float(np.linalg.norm(fit.residual[known], axis=1).mean()) / FACE_SIZE
        if not residual <= MAX_RESIDUAL or fit.translation[2] <= 0:
            continue
        out["residual"][number] = residual
        out["identity"][number] = fit.coefficients[: layout.identity]
        out["expression"][number] = fit.coefficients[layout.identity :]
        ray = ray_rotations(torch.from_numpy(fit.translation[None]))[0].numpy()
        out["rotation"][number] = ray.T @ fit.rotation
        rotation, translation = fit.rotation[None].astype(np.float32), fit.translation[None].astype(np.float32)
        coefficients = out["identity"][[number]], out["expression"][[number]]
        vertices = runtime_model.native.stored_vertices(*coefficients, rotation, translation, 1)[0]
        image = fine[fine_row[row]] if fine is not None and fine_row[row] >= 0 else images[row]
        color = colors.fit(image, skins[row], vertices)
        if color is not None:
            out["albedo"][number], out["illumination"][number] = color.albedo, color.illumination
            out["color_error"][number] = color.error
    return out


def write_fits(
    source: str,
    folder: Path,
    face_model: Path,
    correspondence: Path | None = None,
    workers: int = 1,
    progress: Callable[[Iterable], Iterable] = lambda x: x,
) -> dict[str, float]:
    """Write `fit_SOURCE.npz`, aligned with `train_SOURCE.npz`.

    It holds `identity` (n, K_id), `expression` (n, K_exp), `rotation` (n, 3, 3) relative to the viewing ray,
    `albedo` (n, K_alb), `illumination` (n, 3, 9), float32; `residual` (n,) per cent of the face's size and
    `color_error` (n,) 0–255, infinite where there is no fit; `face_model_sha256`, of the file that was fitted.

    Parameters
    ----------
    source, folder : str, Path
        What `label` wrote.
    face_model : Path
        Face-model file.
    correspondence : Path, optional
        MediaPipe's points on its mesh; default: those on the default face model's.
    workers : int
        Processes.
    progress : callable
        Wraps the parts of 200 photos.

    Returns
    -------
    counts : dict
        `photos`, `shapes`, `colors`: how many there are and how many were fitted; `color_error`: median.

    Raises
    ------
    wm3dr.ModelError
        MediaPipe's points are not registered to the model's mesh.
    """
    count = len(np.load(folder / f"train_{source}.npy", mmap_mode="r"))
    parts = np.array_split(np.arange(count), max(1, -(-count // 200)))
    run = partial(fit_rows, source, folder, face_model=face_model, points_file=correspondence)
    if workers == 1:
        done = [run(rows) for rows in progress(parts)]
    else:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            done = list(progress(pool.map(run, parts)))
    out = {name: np.concatenate([part[name] for part in done]) for name in done[0]}
    digest = hashlib.sha256(face_model.read_bytes()).hexdigest()
    save_npz(folder / f"fit_{source}.npz", **out, face_model_sha256=np.array(digest))
    fitted = np.isfinite(out["color_error"])
    return {
        "photos": count,
        "shapes": int(np.isfinite(out["residual"]).sum()),
        "colors": int(fitted.sum()),
        "color_error": float(np.median(out["color_error"][fitted])) if fitted.any() else float("nan"),
    }


def _pixels(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Crop pixels (P, 2) of points in the camera frame (P, 3)."""
    return FOCAL_PX * points[:, :2] / points[:, 2:] + CROP_SIZE / 2


def _bilinear(image: NDArray[np.float32], pixels: NDArray, scale: float) -> NDArray[np.float32]:
    """Values (P, C) of an image (S, S, C) at crop pixels (P, 2); scale = image pixels per crop pixel."""
    at = (pixels * scale - 0.5).clip(0, len(image) - 1.001)
    low = at.astype(np.int64)
    (x, y), (u, v) = low.T, (at - low).astype(np.float32).T[..., None]
    top = image[y, x] * (1 - u) + image[y, x + 1] * u
    bottom = image[y + 1, x] * (1 - u) + image[y + 1, x + 1] * u
    return top * (1 - v) + bottom * v
