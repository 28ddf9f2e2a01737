"""The public benchmarks, read where a user has them; the photos are evaluated whole, at their own size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from wm3dr_training.data.external import read_300w, read_aflw2000, read_aflw2000_pose
from wm3dr_training.data.landmarks import landmark_box
from wm3dr_training.data.records import IMAGE_SUFFIXES, MissingDataError, require
from wm3dr_training.evaluate.data import Outcome, Row, Setting
from wm3dr_training.evaluate.metrics import best_overlap, box_nme, box_size, interocular_nme
from wm3dr_training.evaluate.prediction import landmark_boxes, predict_records

YAW_GROUPS = ((0, 30), (30, 60), (60, 90))  # degrees, |yaw|
DENSE_LAYOUT = (
    "  FOLDER/NAME.jpg|png|webp with FOLDER/NAME.npz: vertices_px (N, 2), the face model's vertices in pixels"
)


def balanced_mean(errors: np.ndarray, yaw_deg: np.ndarray) -> tuple[list[float], float]:
    """Mean error of each group of |yaw| and the mean of these means, in which each group counts alike."""
    angle = np.abs(yaw_deg)
    means = []
    for low, high in YAW_GROUPS:
        inside = (angle > low if low else angle >= 0) & (angle <= high)
        means.append(float(errors[inside].mean()) if inside.any() else float("nan"))
    return means, float(np.mean(means))


def aflw2000(setting: Setting, folder: Path, reannotated: Path | None) -> Outcome:
    """AFLW2000-3D: NME of 68 points / √(w·h) of their box, by |yaw|, groups counted alike (METHOD.md, results)."""
    records = setting.subset(read_aflw2000(folder, reannotated), 1_000_000, 60)
    predictions = list(predict_records(setting.reconstructor, records))
    found = [p for p in predictions if p.index is not None]
    if not found:
        return Outcome([Row("AFLW2000-3D faces found", 0.0)])
    errors = np.array([box_nme(p.face.landmarks, p.reference) for p in found])
    yaw = np.array([read_aflw2000_pose(folder, p.name)[1] for p in found])
    groups, mean = balanced_mean(errors, yaw)
    by_yaw = ", ".join(f"{low}–{high}° {value:.2f} %" for (low, high), value in zip(YAW_GROUPS, groups, strict=True))
    name = "AFLW2000-3D" if reannotated is None else "AFLW2000-3D reannotated"
    note = (
        f"{by_yaw}; all photos alike {errors.mean():.2f} %; {len(found)} of {len(predictions)} found, missed left out"
    )
    return Outcome(
        [Row(f"{name}: 68 points / √(w·h), mean over |yaw|", mean, note=note)],
        {f"{name}, 68 points, box": (errors, len(predictions))},
        {"aflw2000_names": np.array([p.name for p in found]), "aflw2000_nme": errors, "aflw2000_yaw": yaw},
    )


def w300(setting: Setting, folder: Path) -> Outcome:
    """300-W's test parts: common (HELEN and LFPW test), challenging (IBUG), full; inter-ocular, 51 and 68 points."""
    records = [r for r in read_300w(folder, include_tests=True) if r.split == "validation"]
    parts = {
        "common": [r for r in records if "helen" in r.name.lower() or "lfpw" in r.name.lower()],
        "challenging": [r for r in records if "ibug" in r.name.lower()],
    }
    if not any(parts.values()):
        raise MissingDataError(f"300w: {folder} has none of helen/testset, lfpw/testset and ibug")
    outcome, full = Outcome(), []
    for part, members in parts.items():
        predictions = list(predict_records(setting.reconstructor, setting.subset(members, 1_000_000, 40)))
        found = [p for p in predictions if p.index is not None]
        pairs = [
            (
                interocular_nme(p.face.landmarks, p.reference),
                interocular_nme(p.face.landmarks, p.reference, np.arange(68)),
            )
            for p in found
        ]
        full += pairs
        _add_300w_rows(outcome, part, pairs, len(predictions))
    _add_300w_rows(outcome, "full", full, sum(count for _, count in outcome.curves.values()))
    return outcome


def _add_300w_rows(outcome: Outcome, part: str, pairs: list[tuple[float, float]], count: int) -> None:
    if not pairs:
        return
    inner, whole = np.array(pairs).T
    note = f"{len(pairs)} of {count} found, missed left out"
    outcome.rows.append(Row(f"300-W {part}: 51 points, inter-ocular", inner.mean(), note=note))
    outcome.rows.append(Row(f"300-W {part}: 68 points, inter-ocular", whole.mean(), note=note))
    if part != "full":
        outcome.curves[f"300-W {part}, 68 points, inter-ocular"] = (whole, count)


def dense(setting: Setting, folder: Path) -> Outcome:
    """NME of all projected vertices / √(w·h) of their box, where ground-truth meshes of the same face model exist."""
    folder = require(folder, "dense", DENSE_LAYOUT)
    photos = sorted(
        p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.with_suffix(".npz").exists()
    )
    if not photos:
        raise MissingDataError(f"dense: {folder} has no photo with a mesh. Expected layout:\n{DENSE_LAYOUT}")
    n_vertices, errors = setting.reconstructor.face_model.n_vertices, []
    for path in photos:
        with np.load(path.with_suffix(".npz")) as table:
            truth = table["vertices_px"]
        if truth.shape != (n_vertices, 2):
            raise ValueError(
                f"'vertices_px' of {path.with_suffix('.npz')} has shape {truth.shape}, expected ({n_vertices}, 2)"
            )
        result = setting.reconstructor.reconstruct(np.asarray(Image.open(path).convert("RGB")))
        landmarks = truth[setting.reconstructor.face_model.landmark_vertices]
        index = best_overlap(landmark_boxes(result), landmark_box(landmarks))
        if index is not None:
            distance = np.linalg.norm(result[index].vertices_px - truth, axis=-1).mean()
            errors.append(float(100 * distance / box_size(landmark_box(truth))))
    value = float(np.mean(errors)) if errors else float("nan")
    note = f"{len(errors)} of {len(photos)} found, missed left out"
    return Outcome(
        [Row("dense NME of all vertices / √(w·h)", value, note=note)],
        {"all projected vertices, box": (np.array(errors), len(photos))},
        {"dense_nme": np.array(errors)},
    )


def external_protocols(
    aflw2000_folder: Path | None, reannotated: Path | None, w300_folder: Path | None, dense_folder: Path | None
) -> dict[str, Callable[[Setting], Outcome]]:
    """The benchmarks whose folder was given, by name."""
    protocols: dict[str, Callable[[Setting], Outcome]] = {}
    if aflw2000_folder is not None:
        protocols["aflw2000"] = partial(aflw2000, folder=aflw2000_folder, reannotated=None)
        if reannotated is not None:
            protocols["aflw2000_reannotated"] = partial(aflw2000, folder=aflw2000_folder, reannotated=reannotated)
    if w300_folder is not None:
        protocols["300w"] = partial(w300, folder=w300_folder)
    if dense_folder is not None:
        protocols["dense"] = partial(dense, folder=dense_folder)
    return protocols
