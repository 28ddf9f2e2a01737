"""The measures on this project's own photos: `Setting` -> `Outcome`; the bounds are the project's goals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

import wm3dr
from wm3dr import _native
from wm3dr.decode import Peaks, decode
from wm3dr.image import network_input
from wm3dr_training.data.landmarks import MEDIAPIPE_68, landmark_box
from wm3dr_training.data.records import require
from wm3dr_training.data.skin import skin_mask
from wm3dr_training.data.sources import read_pack
from wm3dr_training.evaluate.composites import Composite, at_scale, make_composites
from wm3dr_training.evaluate.data import Outcome, Row, Setting
from wm3dr_training.evaluate.metrics import (
    PNP_LANDMARKS,
    area_under_roc,
    best_overlap,
    box_nme,
    box_size,
    interocular_nme,
    match_faces,
    pnp_rotation,
    skin_tone_angle,
)
from wm3dr_training.evaluate.prediction import Prediction, landmark_boxes, predict, predict_records

MISSED_PROFILE_ERROR = 20.0  # %: what a profile photo without a found face counts
SMALLEST_FACE = 32.0  # px
YUNET_SCORE = 0.8  # of the reference detector on group photos
YUNET_LARGEST_SIDE = 1600
YUNET_FACE_ASPECT = 0.75  # side of the landmark box over that of the detector's box, about
SCALES = (40.0, 64.0, 100.0, 160.0, 250.0, 400.0)  # px
TONES = (("light", 41.0), ("intermediate", 28.0), ("tan", 10.0), ("brown", -30.0), ("dark", -90.0))
"""Groups by individual typology angle, with the least angle of each, degrees (Chardon)."""
LEAST_GROUP = 8  # photos: smaller groups are shown but not compared


def landmarks(setting: Setting) -> Outcome:
    """NME of the held-out 300-W photos, inter-ocular (51 points) and by the box (68 points)."""
    predictions = setting.validation_predictions
    found = [p for p in predictions if p.index is not None]
    if not found:
        return Outcome([Row("validation faces found", 0.0, must=97.0, higher_is_better=True)])
    inner = np.array([interocular_nme(p.face.landmarks, p.reference) for p in found])
    whole = np.array([box_nme(p.face.landmarks, p.reference) for p in found])
    n = len(predictions)
    counted = f"{len(found)} of {n} photos, {n - len(found)} missed faces left out"
    return Outcome(
        [
            Row("NME of the 51 inner points, inter-ocular", inner.mean(), must=4.0, aim=3.2, note=counted),
            Row("NME of 68 points / √(w·h)", whole.mean(), must=3.4, aim=2.8, note=counted),
            Row("validation faces found", 100 * len(found) / n, higher_is_better=True, note=f"{n} photos"),
        ],
        {"300-W validation, 51 points, inter-ocular": (inner, n), "300-W validation, 68 points, box": (whole, n)},
        {
            "validation_names": np.array([p.name for p in found]),
            "validation_landmarks": np.stack([p.face.landmarks for p in found]),
            "validation_reference": np.stack([p.reference for p in found]),
            "validation_nme51": inner,
            "validation_nme68": whole,
        },
    )


def profile(setting: Setting) -> Outcome:
    """NME of the visible fiducials of CFP's profile photos; a missed face counts `MISSED_PROFILE_ERROR`."""
    records = [r for r in read_pack(setting.data, "cfp") if r.landmarks68 is not None]
    sides = [r for r in records if _is_profile(r.landmarks68)]
    predictions = list(predict_records(setting.reconstructor, setting.subset(sides, 250, 50)))
    errors = np.array([box_nme(p.face.landmarks, p.reference) for p in predictions if p.index is not None])
    n, found = len(predictions), len(errors)
    penalised = np.concatenate([errors, np.full(n - found, MISSED_PROFILE_ERROR)])
    alone = errors.mean() if found else np.nan
    note = f"{found} of {n} found, a missed face counts {MISSED_PROFILE_ERROR:g} %, the found alone have {alone:.2f} %"
    return Outcome(
        [Row("CFP profiles: visible fiducials / √(w·h)", penalised.mean(), must=7.0, aim=5.0, note=note)],
        {"CFP profiles, fiducials, box": (errors, n)},
        {
            "profile_names": np.array([p.name for p in predictions]),
            "profile_found": np.array([p.index is not None for p in predictions]),
            "profile_nme": errors,
        },
    )


def _is_profile(points: NDArray | None) -> bool:
    """CFP marks one side only: some of the 68 are NaN."""
    return points is not None and bool(np.isnan(points).any())


def composites(setting: Setting) -> Outcome:
    """Recall and surplus faces on composites of held-out faces on held-out backgrounds."""
    made = make_composites(setting.validation_faces, setting.backgrounds, 16 if setting.quick else 60)
    recalled, sizes, surplus, errors = [], [], 0, []
    for composite in made:
        result = setting.reconstructor.reconstruct(composite.image)
        hit, right = match_faces(landmark_boxes(result), np.stack([landmark_box(f) for f in composite.landmarks]))
        recalled.append(hit)
        sizes.append(composite.sizes)
        surplus += int((~right).sum())
        errors += [
            box_nme(p.face.landmarks, p.reference) for p in _as_predictions(result, composite) if p.index is not None
        ]
    hit, size = np.concatenate(recalled), np.concatenate(sizes)
    small = 100 * hit[size < 64].mean() if (size < 64).any() else np.nan
    note = f"{len(hit)} faces of {size.min():.0f}–{size.max():.0f} px in {len(made)}; below 64 px: {small:.1f} %"
    return Outcome(
        [
            Row("recall on composites", 100 * hit.mean(), must=97.0, aim=99.5, higher_is_better=True, note=note),
            Row("surplus faces per composite", surplus / len(made), unit=""),
            Row("NME of 68 points / √(w·h) on composites", float(np.mean(errors)) if errors else np.nan),
        ],
        arrays={"composite_sizes": size, "composite_recalled": hit},
    )


def _as_predictions(result: wm3dr.Result, composite: Composite) -> list[Prediction]:
    boxes = landmark_boxes(result)
    return [
        Prediction("composite", composite.image, points, result, best_overlap(boxes, landmark_box(points)))
        for points in composite.landmarks
    ]


def groups(setting: Setting) -> Outcome:
    """Recall on group photos against the YuNet detector at high confidence; no annotation exists."""
    folder = require(setting.data / "groups", "groups", "  DATA/groups/*.jpg")
    model = require(setting.models / "yunet" / "yunet_n_dynamic.onnx", "yunet", "  MODELS/yunet/yunet_n_dynamic.onnx")
    detector = cv2.FaceDetectorYN.create(str(model), "", (320, 320), YUNET_SCORE, 0.3, 5000)
    hits, sizes, scales, names, surplus = [], [], [], [], 0
    paths = setting.subset(sorted(folder.glob("*.jpg")), 1000, 8)
    for path in paths:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        reference = _yunet_boxes(detector, image)
        result = setting.reconstructor.reconstruct(image)
        hit, right = match_faces(landmark_boxes(result), reference)
        hits.append(hit)
        surplus += int((~right).sum())
        sizes.append((reference[:, 2:] - reference[:, :2]).max(axis=1, initial=0))
        scales.append(np.full(len(hit), min(1.0, setting.reconstructor.max_side / max(image.shape[:2]))))
        names += [path.stem] * len(hit)
    hit, size, scale = np.concatenate(hits), np.concatenate(sizes), np.concatenate(scales)
    large = size >= SMALLEST_FACE
    seen = size * scale >= SMALLEST_FACE
    note = (
        f"{large.sum()} faces YuNet is at least {YUNET_SCORE:g} sure of in {len(paths)} photos; "
        f"at least {SMALLEST_FACE:g} px at network scale: {100 * hit[seen].mean() if seen.any() else np.nan:.1f} % "
        f"of {seen.sum()}; {surplus} found faces have no partner there"
    )
    return Outcome(
        [Row("recall on group photos", 100 * hit[large].mean(), must=97.0, aim=99.5, higher_is_better=True, note=note)],
        arrays={"group_names": np.array(names), "group_sizes": size, "group_recalled": hit},
    )


def _yunet_boxes(detector: cv2.FaceDetectorYN, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(R, 4) boxes of the landmarks that go with YuNet's detections: narrower, lower parts of its boxes, px."""
    scale = min(1.0, YUNET_LARGEST_SIDE / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
    detector.setInputSize((small.shape[1], small.shape[0]))
    _, found = detector.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
    if found is None:
        return np.zeros((0, 4), np.float32)
    x, y, width, height = (found[:, :4] / scale).T
    top = y + (1 - YUNET_FACE_ASPECT) * height
    return np.stack([x, top, x + width, y + height], axis=1).astype(np.float32)


def false_positives(setting: Setting) -> Outcome:
    """Faces found in photos without faces."""
    counts = np.array([len(setting.reconstructor.reconstruct(image)) for image in setting.backgrounds])
    note = f"{counts.sum()} in {len(counts)} held-out photos"
    row = Row("false positives per face-free photo", counts.mean(), unit="", must=0.05, aim=0.005, note=note)
    return Outcome([row], arrays={"background_faces": counts})


def pose(setting: Setting) -> Outcome:
    """Head pose against the mean face fitted to the annotated inner points by PnP under the result's camera."""
    model = setting.reconstructor.face_model
    points = model.mean_shape[model.landmark_vertices][PNP_LANDMARKS]
    differences = []
    for p in setting.validation_predictions:
        if p.index is None:
            continue
        camera = p.result.camera
        rotation = pnp_rotation(points, p.reference[PNP_LANDMARKS], camera.focal, camera.principal_point)
        fitted = _native.pose_from_rotations(rotation.astype(np.float32)[None])[0]
        difference = np.array(p.face.pose) - fitted
        differences.append((difference + 180) % 360 - 180)
    if not differences:
        return Outcome()
    error = np.abs(differences).mean(axis=0)
    parts = f"yaw {error[0]:.2f}, pitch {error[1]:.2f}, roll {error[2]:.2f}"
    note = f"{parts}; mean shape, 51 points, {len(differences)} photos"
    row = Row("head pose against PnP, MAE", float(error.mean()), unit="°", must=5.0, aim=3.5, note=note)
    return Outcome([row], arrays={"pose_differences": np.array(differences)})


def scales(setting: Setting) -> Outcome:
    """The same held-out faces at sizes from 40 to 400 px: largest over smallest mean NME."""
    faces = setting.subset(setting.validation_faces, 24, 6)
    means, found = [], []
    for size in SCALES:
        errors = []
        for number, face in enumerate(faces):
            made = at_scale(face, setting.backgrounds[number % len(setting.backgrounds)], size)
            p = predict(setting.reconstructor, "", made.image, made.landmarks[0])
            if p.index is not None:
                errors.append(box_nme(p.face.landmarks, p.reference))
        means.append(float(np.mean(errors)) if errors else np.nan)
        found.append(len(errors))
    note = ", ".join(f"{s:g} px {m:.2f} % ({n}/{len(faces)})" for s, m, n in zip(SCALES, means, found, strict=True))
    spread = np.nanmax(means) / np.nanmin(means) if np.isfinite(means).any() else np.nan
    return Outcome(
        [Row("same face at 40–400 px: spread of NME", float(spread), unit="×", must=1.5, aim=1.2, note=note)],
        arrays={"scale_px": np.array(SCALES), "scale_nme": np.array(means), "scale_found": np.array(found)},
    )


def neighbours(setting: Setting) -> Outcome:
    """The nine cells around a peak (the paper's figure 10): distance of their landmarks from the mean, / √(w·h)."""
    spreads = []
    for p in setting.validation_predictions:
        if p.index is None:
            continue
        points = nine_cells(setting.reconstructor, p)
        distance = np.linalg.norm(points - points.mean(axis=0), axis=-1).mean()
        spreads.append(100 * distance / box_size(landmark_box(p.reference)))
    if not spreads:
        return Outcome()
    row = Row("nine cells around a peak: spread / √(w·h)", float(np.mean(spreads)), must=3.0, aim=1.5)
    return Outcome([row], arrays={"neighbour_spread": np.array(spreads)})


def nine_cells(reconstructor: wm3dr.Reconstructor, prediction: Prediction) -> NDArray[np.float32]:
    """Landmarks (n, 68, 2) px decoded at the cells around the face's peak; n is 9, less at the border of the map."""
    photo = network_input(prediction.image, reconstructor.max_side)
    contract = reconstructor.encoder.contract
    heatmap, maps = reconstructor.encoder.predict(photo.pixels)
    column, row = np.floor(prediction.face.center * photo.scale / contract.stride).astype(int)
    steps = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), axis=-1).reshape(-1, 2)
    cells = np.array([row, column]) + steps
    inside = (cells >= 0).all(axis=1) & (cells < heatmap.shape[2:]).all(axis=1)
    cells = np.ascontiguousarray(cells[inside], np.int32)
    centers = (cells[:, ::-1].astype(np.float32) + np.float32(0.5)) * np.float32(contract.stride)
    rows = reconstructor.encoder.rows(maps[0], cells)
    _, faces = decode(
        [Peaks(rows, np.ones(len(cells), np.float32), centers, photo.scale)],
        size=photo.size,
        contract=contract,
        face_model=reconstructor.face_model,
        camera=None,
        threads=reconstructor.threads,
    )
    return np.stack([face.landmarks for face in faces])


def photometric(setting: Setting) -> Outcome:
    """Mean absolute difference of render and photo over the skin of held-out faces, 0–255."""
    known = {source: setting.labels478(source) for source in ("helen_train", "lfpw_train")}
    errors, ratios = [], []
    for record, p in zip(setting.validation, setting.validation_predictions, strict=True):
        points = known[record.source].get(record.name)
        if p.index is None or points is None:
            continue
        raster = p.result.render()
        skin = skin_mask(p.image, points)
        mask = skin & (raster.face_id == p.face.index)
        if mask.sum() < 50:
            continue
        errors.append(float(np.abs(raster.color[mask].astype(float) - p.image[mask]).mean()))
        ratios.append(mask.sum() / skin.sum())
    if not errors:
        return Outcome()
    note = f"{len(errors)} photos, {100 * np.mean(ratios):.0f} % of the skin is covered; median {np.median(errors):.1f}"
    row = Row("render against photo over skin, 0–255", float(np.mean(errors)), unit="", must=14.0, aim=8.0, note=note)
    return Outcome([row], arrays={"photometric_error": np.array(errors)})


def identity(setting: Setting) -> Outcome:
    """Whether MobileFace knows a person by his render: AUC of (render, photo) pairs against pairs of strangers.

    The render is shown on the mean of all aligned photos, so that eyes and mouth, which the mesh leaves open, are there
    but tell nothing of the person.
    """
    found = [p for p in setting.validation_predictions if p.index is not None]
    if len(found) < 2:
        return Outcome()
    embed = embedder(setting.models / "mobileface")
    photos, renders, masks = [], [], []
    for p in found:
        raster = p.result.render()
        photos.append(aligned_face(p.image, p.reference))
        renders.append(aligned_face(raster.color, p.reference))
        own = (raster.face_id == p.face.index).astype(np.uint8)
        masks.append(aligned_face(np.repeat(255 * own[..., None], 3, axis=2), p.reference) / 255.0)
    mean = np.mean(photos, axis=0)
    known = np.stack([embed(photo) for photo in photos])
    shown = {
        "on the mean face": [m * r + (1 - m) * mean for r, m in zip(renders, masks, strict=True)],
        "alone on grey": [m * r + (1 - m) * 127.0 for r, m in zip(renders, masks, strict=True)],
        "pasted into its own photo": [m * r + (1 - m) * i for r, m, i in zip(renders, masks, photos, strict=True)],
    }
    scores = {how: _pair_scores(np.stack([embed(x) for x in images]), known) for how, images in shown.items()}
    same, strangers = scores["on the mean face"]
    others = ", ".join(f"{how} {area_under_roc(*pair):.3f}" for how, pair in list(scores.items())[1:])
    note = (
        f"render on the mean face: cosine {same.mean():.2f}, strangers {strangers.mean():.2f}; AUC {others}; "
        f"{len(found)} people"
    )
    value = area_under_roc(same, strangers)
    row = Row("identity: AUC of MobileFace", value, unit="", must=0.85, aim=0.95, higher_is_better=True, note=note)
    return Outcome([row], arrays={"identity_same": same, "identity_strangers": strangers})


def aligned_face(image: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
    """The face in MobileFace's 112×112 frame: image (H, W, 3), landmarks (68, 2) px -> (112, 112, 3) float32, 0–255."""
    import torch

    from wm3dr_training.perceptual import EMBEDDING_SIZE, similarity_to_aligned
    from wm3dr_training.sampling import sample_window

    side = max(image.shape[:2])
    square = np.zeros((side, side, 3), np.float32)
    square[: image.shape[0], : image.shape[1]] = image
    affine = similarity_to_aligned(torch.from_numpy(np.asarray(landmarks, np.float32))[None])
    window = sample_window(torch.from_numpy(square).permute(2, 0, 1)[None], affine, EMBEDDING_SIZE, side)
    return window[0].permute(1, 2, 0).numpy()


def embedder(folder: Path) -> Callable[[NDArray], NDArray[np.float32]]:
    """A function from an aligned face (112, 112, 3), 0–255, to its MobileFace embedding (256,) of length 1."""
    import torch
    from torch.nn import functional

    from wm3dr_training.perceptual import MobileFace

    network = MobileFace(folder).eval()

    def embed(face: NDArray) -> NDArray[np.float32]:
        tensor = torch.from_numpy(np.ascontiguousarray(face, np.float32)).permute(2, 0, 1)[None]
        with torch.no_grad():
            return functional.normalize(network(tensor), dim=1)[0].numpy()

    return embed


def _pair_scores(renders: NDArray, photos: NDArray) -> tuple[NDArray, NDArray]:
    """Cosines of the pairs of one person, and of all pairs of two."""
    cosines = renders @ photos.T
    same = np.eye(len(cosines), dtype=bool)
    return cosines[same], cosines[~same]


def skin_tones(setting: Setting) -> Outcome:
    """NME of the inner points on UTKFace by skin tone, against MediaPipe's points; worst group over the best."""
    known = setting.labels478("utkface")
    records = [r for r in read_pack(setting.data, "utkface") if r.name in known]
    rows: list[tuple[float, float]] = []  # tone angle, NME (NaN: missed)
    for record in setting.subset(records, 500, 90):
        image, points = record.image(), known[record.name]
        skin = skin_mask(image, points)
        angle = skin_tone_angle(image, skin) if skin.sum() >= 200 else np.nan
        if np.isnan(angle):
            continue
        p = predict(setting.reconstructor, record.name, image, points[MEDIAPIPE_68, :2])
        rows.append((angle, np.nan if p.index is None else interocular_nme(p.face.landmarks, p.reference)))
    table = np.array(rows).reshape(-1, 2)
    means, notes = [], []
    group = np.array([next((k for k, (_, least) in enumerate(TONES) if angle >= least), 0) for angle in table[:, 0]])
    for number, (name, _) in enumerate(TONES):
        errors = table[group == number, 1] if len(table) else np.zeros(0)
        found = errors[np.isfinite(errors)]
        notes.append(f"{name} {found.mean() if len(found) else np.nan:.2f} % ({len(found)}/{len(errors)})")
        if len(found) >= LEAST_GROUP:
            means.append(found.mean())
    if not means:
        return Outcome()
    note = ", ".join(notes) + "; against MediaPipe's points, photos of the training set"
    row = Row("UTKFace: worst skin-tone group over the best", max(means) / min(means), unit="×", must=1.25, note=note)
    return Outcome([row], arrays={"tone_angle": table[:, 0], "tone_nme51": table[:, 1]})


OWN_PROTOCOLS: dict[str, Callable[[Setting], Outcome]] = {
    "landmarks": landmarks,
    "profile": profile,
    "composites": composites,
    "groups": groups,
    "false_positives": false_positives,
    "pose": pose,
    "scales": scales,
    "neighbours": neighbours,
    "photometric": photometric,
    "identity": identity,
    "skin_tones": skin_tones,
}
"""Name on the command line -> measure, in the order of the table."""
