"""Per-photo fits of the face model: coefficient targets for the encoder's first hours (profile `fast`).

Two closed steps per photo, both on a crop: shape and pose to the landmarks (`landmark_fit`), then light and albedo to
the colours at the visible vertices, alternating two linear least-squares problems. The result is `fit_SOURCE.npz`.
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

from wm3dr import _native
from wm3dr_training.bank import FACE_SIZE, JAW, PROFILE_WEIGHT
from wm3dr_training.data.arrays import save_npz
from wm3dr_training.data.correspondence import Correspondence, load_correspondence
from wm3dr_training.data.crops import CROP_SIZE
from wm3dr_training.data.landmark_fit import FOCAL_PX, LandmarkFit, PointModel, fit_landmarks
from wm3dr_training.layers import AMBIENT, FaceModel, harmonics, ray_rotations, vertex_normals

MANUAL_WEIGHT = 1.0
DENSE_WEIGHT = 0.25
"""MediaPipe's 468 points are neighbours of one another: together they weigh about as much as the 51 manual ones."""
MAX_RESIDUAL = 6.0
"""Per cent of the face's size; a fit farther from its landmarks is no target."""
COLOR_SIGMA = 0.04
"""Deviation of a vertex colour (0–1) from albedo times light that counts as one."""
LIGHT_SIGMA, TINT_SIGMA = 0.35, 0.06
"""Of the grey part of the light and of each channel's deviation from it: tinted light would explain skin tone."""
COLOR_ROUNDS = 4
N_SAMPLED = 2600
"""Vertices whose colours are compared."""
GRAZING = 0.25
"""Least cosine between normal and line of sight."""


@dataclass(frozen=True)
class ColorFit:
    """Light and albedo of one photo."""

    albedo: NDArray[np.float64]
    """(K_alb,)."""
    illumination: NDArray[np.float64]
    """(3, 9), the ambient term included."""
    error: float
    """Mean absolute difference over the compared skin vertices, 0–255."""


def point_model(face_model: FaceModel, points: Correspondence) -> PointModel:
    """The 68 landmarks, then MediaPipe's 468 points, as linear functions of the coefficients."""
    ids = torch.from_numpy(points.vertex_ids.astype(np.int64))
    dense = face_model.point_rows(ids, torch.from_numpy(points.weights.astype(np.float32)))
    parts = []
    for rows in (face_model.landmark_rows(), dense):
        mean = rows.mean.double().numpy()
        parts.append(PointModel(mean, rows.basis.double().numpy().reshape(*mean.shape, -1), face_model.layout.identity))
    return parts[0].joined(parts[1])


class ColorFitter:
    """Fits light and albedo to the colours of a crop, for a known shape and pose."""

    def __init__(self, face_model: FaceModel, seed: int = 0) -> None:
        self.model = face_model
        self.triangles = np.ascontiguousarray(face_model.triangles.numpy(), dtype=np.int32)
        names = face_model.metadata.region_names
        inner = [k for k, name in enumerate(names) if not any(part in name for part in ("ear", "neck", "eyeball"))]
        candidates = np.flatnonzero(np.isin(face_model.regions.numpy(), inner))
        generator = np.random.default_rng(seed)
        self.sample = np.sort(generator.choice(candidates, min(N_SAMPLED, len(candidates)), replace=False))
        self.mean = face_model.mean_albedo.double().numpy()[self.sample]
        self.basis = face_model.albedo_basis.double().numpy()[self.sample]
        plain = [k for k, name in enumerate(names) if name in ("skin", "nose")]
        self.plain = np.isin(face_model.regions.numpy()[self.sample], plain)

    def fit(self, image: NDArray[np.uint8], skin: NDArray[np.uint8], vertices: NDArray) -> ColorFit | None:
        """Fit one photo.

        Parameters
        ----------
        image : (S, S, 3) uint8
            The crop, any resolution.
        skin : (S', S') uint8
            Its skin mask.
        vertices : (N0, 3)
            Camera frame, mm.

        Returns
        -------
        fit : ColorFit or None
            None when fewer than 200 vertices show skin.
        """
        torch_vertices = torch.from_numpy(vertices[None].astype(np.float32))
        normals = vertex_normals(torch_vertices, self.model.triangles)[0, self.sample].double().numpy()
        points = vertices[self.sample]
        pixels = FOCAL_PX * points[:, :2] / points[:, 2:] + CROP_SIZE / 2
        ids = _native.rasterize(
            np.ascontiguousarray(vertices[None], dtype=np.float32),
            self.triangles,
            FOCAL_PX,
            (CROP_SIZE / 2, CROP_SIZE / 2),
            (CROP_SIZE, CROP_SIZE),
            1,
        )[0]
        shown = np.zeros(len(vertices), bool)
        shown[self.triangles[ids[ids >= 0]].ravel()] = True
        facing = -(normals * points).sum(1) / np.linalg.norm(points, axis=1)
        inside = ((pixels > 1) & (pixels < CROP_SIZE - 1)).all(1)
        usable = shown[self.sample] & (facing > GRAZING) & inside
        mask = _bilinear(skin[..., None].astype(np.float32) / 255.0, pixels, len(skin) / CROP_SIZE)[:, 0]
        weight = usable * facing.clip(0, 1) * np.where(self.plain, mask > 0.95, 0.5)
        if (self.plain & (weight > 0)).sum() < 200:
            return None
        # lips, brows and lids have no mask of their own: they count where the skin around them was found
        use = weight > 0
        colors = _bilinear(image.astype(np.float32) / 255.0, pixels[use], len(image) / CROP_SIZE).astype(np.float64)
        weight = np.sqrt(weight[use])
        viewer = torch.from_numpy((normals[use] * (1.0, -1.0, -1.0)).astype(np.float32))
        bands = harmonics(viewer[None])[0].double().numpy()
        mean, basis, plain = self.mean[use], self.basis[use], self.plain[use]
        light_prior = np.repeat([LIGHT_SIGMA**-2, TINT_SIGMA**-2], [9, 27])
        light_start = np.zeros(36)
        light_start[0] = AMBIENT
        light = np.zeros((3, 9))
        albedo = np.zeros(basis.shape[2])
        robust = np.ones_like(weight)
        for _ in range(COLOR_ROUNDS):
            reflect = mean + basis @ albedo
            system, right = np.diag(light_prior), light_prior * light_start
            for channel in range(3):
                rows = (weight * robust * reflect[:, channel])[:, None] * bands / COLOR_SIGMA
                target = weight * robust * colors[:, channel] / COLOR_SIGMA
                own = np.r_[0:9, 9 * (channel + 1) : 9 * (channel + 2)]  # the grey part and the channel's own
                system[np.ix_(own, own)] += np.tile(rows.T @ rows, (2, 2))
                right[own] += np.tile(rows.T @ target, 2)
            solved = np.linalg.solve(system, right).reshape(4, 9)
            light = solved[0] + solved[1:]
            shade = bands @ light.T  # (V, 3)
            rows = ((weight * robust)[:, None, None] * shade[..., None] * basis / COLOR_SIGMA).reshape(-1, len(albedo))
            target = ((weight * robust)[:, None] * (colors - shade * mean) / COLOR_SIGMA).ravel()
            albedo = np.linalg.solve(rows.T @ rows * 0.1 + np.eye(len(albedo)), rows.T @ target * 0.1)
            difference = np.abs(shade * (mean + basis @ albedo) - colors).mean(1)
            robust = np.where(difference < 2 * COLOR_SIGMA, 1.0, np.sqrt(2 * COLOR_SIGMA / difference.clip(1e-6)))
        return ColorFit(albedo, light, float(255 * difference[plain].mean()))


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
    model = FaceModel.load(face_model)
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
    count, layout, points, colors = len(rows), model.layout, point_model(model, correspondence), ColorFitter(model)
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
        coefficients = torch.from_numpy(fit.coefficients[None].astype(np.float32))
        shape = model.shapes(coefficients[:, : layout.identity], coefficients[:, layout.identity :])[0]
        vertices = shape.double().numpy() @ fit.rotation.T + fit.translation
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


def _bilinear(image: NDArray[np.float32], pixels: NDArray, scale: float) -> NDArray[np.float32]:
    """Values (P, C) of an image (S, S, C) at crop pixels (P, 2); scale = image pixels per crop pixel."""
    at = (pixels * scale - 0.5).clip(0, len(image) - 1.001)
    low = at.astype(np.int64)
    (x, y), (u, v) = low.T, (at - low).astype(np.float32).T[..., None]
    top = image[y, x] * (1 - u) + image[y, x + 1] * u
    bottom = image[y + 1, x] * (1 - u) + image[y + 1, x + 1] * u
    return top * (1 - v) + bottom * v
