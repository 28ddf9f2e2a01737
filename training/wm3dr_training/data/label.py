"""`wm3dr-train label`: photos → landmarks, quality, and the arrays that training reads.

Two steps per source, each skipped when its result is there: (1) the detector finds the faces, MediaPipe labels the main
one in the photo and in its mirror image → `SOURCE.npz`; (2) crops, landmarks in crop pixels and skin masks →
`train_SOURCE.npy`, `train_SOURCE.npz`, `skin_SOURCE.npy`; (3) fits of the face model → `fit_SOURCE.npz`.
"""

import functools
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from wm3dr.files import DEFAULT_FACE_MODEL

from .arrays import save_npz, write_arrays, write_background, write_skin
from .contact_sheet import contact_sheet
from .correspondence import load_correspondence
from .detector import FaceDetector, annotated_face, main_face
from .external import READERS
from .landmarks import INNER_LANDMARKS, MEDIAPIPE_68, N_LANDMARKS, N_MEDIAPIPE, landmark_box, mirror_landmarks
from .mesh_client import MeshClient, MeshError
from .quality import judge
from .records import CorruptImageError, MissingDataError, Record
from .sources import BACKGROUND_PACK, FACE_PACKS, read_pack, read_photos

MARGINS = (1.6, 2.0, 1.3)
"""Sides of the crop for MediaPipe over the longer side of the box; the next is tried when it finds nothing."""
MARGINS_UNDETECTED = (1.3, 1.0, 1.8)
"""The same for the whole photo, when the detector found no face in it."""
LEAST_CROP = 256
"""Smaller crops are enlarged to this side, pixels."""
BLUR_SIDE = 112


def face_crop(image: NDArray[np.uint8], box: NDArray, margin: float) -> tuple[NDArray[np.uint8], NDArray, float]:
    """The square around a box as MediaPipe gets it.

    Parameters
    ----------
    image : (H, W, 3) uint8
    box : (4,) float
        (x0, y0, x1, y1), pixels.
    margin : float
        Side of the square over the longer side of the box.

    Returns
    -------
    crop : (S, S, 3) uint8
        Black outside of the photo.
    origin : (2,) int
        The crop's corner in the photo.
    scale : float
        Photo pixels per crop pixel.
    """
    side = max(8, round(margin * float(max(box[2] - box[0], box[3] - box[1]))))
    origin = np.round((box[:2] + box[2:]) / 2 - side / 2).astype(int)
    height, width = image.shape[:2]
    crop = np.zeros((side, side, 3), np.uint8)
    x0, y0 = np.maximum(origin, 0)
    x1, y1 = np.minimum(origin + side, (width, height))
    if x1 > x0 and y1 > y0:
        crop[y0 - origin[1] : y1 - origin[1], x0 - origin[0] : x1 - origin[0]] = image[y0:y1, x0:x1]
    if side < LEAST_CROP:
        return cv2.resize(crop, (LEAST_CROP, LEAST_CROP), interpolation=cv2.INTER_CUBIC), origin, side / LEAST_CROP
    return crop, origin, 1.0


def sharpness(crop: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of a face's grey crop at 112 px: small is blurred."""
    grey = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (BLUR_SIDE, BLUR_SIDE), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def known_box(record: Record) -> NDArray | None:
    """The box of the annotated face: the record's own or that of its landmarks; None without annotation."""
    if record.box is not None:
        return record.box
    return None if record.landmarks68 is None else landmark_box(record.landmarks68)


def label_photo(
    image: NDArray[np.uint8], detector: FaceDetector, mesh: MeshClient, box: NDArray | None = None
) -> dict[str, NDArray]:
    """Everything that is found in one photo.

    Parameters
    ----------
    image : (H, W, 3) uint8
        RGB.
    detector : FaceDetector
    mesh : MeshClient
    box : (4,) float, optional
        Where an annotation says that the face is; the detection there is taken, or the box itself when there is none.

    Returns
    -------
    row : dict
        `box` (4,), `score`, `faces`, `second`, `blur`, `size` (width, height), `direct` and `mirrored` (478, 3): the
        points in the photo and in its mirror image, the latter mapped back; pixels of the photo; NaN without a face.
    """
    height, width = image.shape[:2]
    found = detector.detect(image)
    score, second, margins = 0.0, 0.0, MARGINS
    if box is not None:
        index = annotated_face(found, box)
        if index is not None:
            box, score = found.boxes[index], found.scores[index]
    elif len(found.scores):
        index, second = main_face(found, width, height)
        box, score = found.boxes[index], found.scores[index]
    else:
        box, margins = np.array([0, 0, width, height], np.float32), MARGINS_UNDETECTED
    direct = mirrored = np.full((N_MEDIAPIPE, 3), np.nan, np.float32)
    for margin in margins:
        crop, origin, scale = face_crop(image, box, margin)
        points = mesh.landmarks(crop)
        if np.isfinite(points).all():
            shift = np.array([*origin, 0])
            direct = points * scale + shift
            turned = mesh.landmarks(np.ascontiguousarray(crop[:, ::-1]))
            mirrored = mirror_landmarks(turned, crop.shape[1], load_correspondence().mirror) * scale + shift
            break
    return {
        "box": np.asarray(box, np.float32),
        "score": np.float32(score),
        "faces": np.int32(len(found.scores)),
        "second": np.float32(second),
        "blur": np.float32(sharpness(face_crop(image, box, 1.0)[0])),
        "size": np.array([width, height], np.int32),
        "direct": direct.astype(np.float32),
        "mirrored": mirrored.astype(np.float32),
    }


def _missing_row() -> dict[str, NDArray]:
    """The row of a photo that cannot be decoded."""
    points = np.full((N_MEDIAPIPE, 3), np.nan, np.float32)
    zero = np.float32(0)
    return {
        "box": np.full(4, np.nan, np.float32),
        "score": zero,
        "faces": np.int32(0),
        "second": zero,
        "blur": zero,
        "size": np.zeros(2, np.int32),
        "direct": points,
        "mirrored": points,
    }


def label_records(
    records: list[Record],
    detector: FaceDetector,
    clients: list[MeshClient],
    progress: Callable[[Iterable], Iterable] = lambda x: x,
) -> dict[str, NDArray]:
    """Label all photos of a source, one thread per landmark process.

    Returns
    -------
    labels : dict
        `names` and the columns of `label_photo` and `quality.judge`; rows in the order of `records`. A photo that
        cannot be decoded has `size` 0 and is not valid.
    """
    idle: SimpleQueue[MeshClient] = SimpleQueue()
    for client in clients:
        idle.put(client)

    def label(record: Record) -> dict[str, NDArray]:
        try:
            image = record.image()
        except CorruptImageError:
            return _missing_row()
        mesh = idle.get()
        try:
            return label_photo(image, detector, mesh, known_box(record))
        finally:
            idle.put(mesh)

    with ThreadPoolExecutor(len(clients)) as pool:
        rows = list(progress(pool.map(label, records)))
    columns = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    names = np.array([record.name for record in records])
    nothing = np.full((N_LANDMARKS, 2), np.nan, np.float32)
    known = np.stack([nothing if record.landmarks68 is None else record.landmarks68 for record in records])
    direct, mirrored = columns.pop("direct"), columns.pop("mirrored")
    verdict = judge(names, direct, mirrored, columns["score"], columns["second"], known)
    return {"names": names, **columns, **verdict}


def summary(records: list[Record], labels: dict[str, NDArray]) -> str:
    """What was rejected and why, and the agreement with manual landmarks where the source has them."""
    reasons, counts = np.unique(labels["reason"], return_counts=True)
    lines = [f"{records[0].source}: {int(labels['valid'].sum())} of {len(records)} labels valid"]
    lines += [f"  {count:5d} {reason}" for reason, count in zip(reasons, counts, strict=True) if reason]
    corrupt = int((labels["size"][:, 0] == 0).sum())
    if corrupt:
        lines.append(f"  {corrupt:5d} photos cannot be decoded")
    known = [k for k, r in enumerate(records) if r.landmarks68 is not None and np.isfinite(r.landmarks68).all()]
    known = [k for k in known if labels["valid"][k]]
    if known:
        manual = np.stack([records[k].landmarks68 for k in known])
        mapped = labels["landmarks478"][known][:, MEDIAPIPE_68, :2]
        between_eyes = np.linalg.norm(manual[:, 36] - manual[:, 45], axis=1)
        distance = np.linalg.norm(mapped - manual, axis=2)[:, INNER_LANDMARKS].mean(axis=1)
        lines.append(f"  NME of the 51 inner points to the manual ones: {100 * np.mean(distance / between_eyes):.2f} %")
    elif np.isfinite(labels["error"]).any():
        median = 100 * np.nanmedian(labels["error"])
        lines.append(f"  median distance to the annotated points: {median:.2f} % of the box")
    return "\n".join(lines)


def build_source(
    records: list[Record],
    out: Path,
    labels: dict[str, NDArray],
    parsing: Path | None,
    fits: tuple[Path, Path | None] | None,
    workers: int,
) -> str:
    """Second step: arrays, skin masks, per-photo fits and contact sheet of one source; what is there already is
    kept.

    fits: face model to fit and the correspondence of MediaPipe's points with it (None: the package's), or None.
    """
    source = records[0].source
    lines = []
    if not (out / f"train_{source}.npz").exists():
        counts = write_arrays(records, labels, out, lambda x: tqdm(x, desc=f"{source} crops", leave=False))
        lines.append(f"  crops: {counts['kept']} kept, {counts['unlabelled']} unlabelled, {counts['corrupt']} corrupt")
    if not (out / f"skin_{source}.npy").exists():
        counts = write_skin(source, out, parsing, lambda x: tqdm(x, desc=f"{source} skin", leave=False))
        coverage = 100 * counts["coverage"]
        lines.append(f"  skin: {coverage:.1f} % of the crops on average, {counts['empty']} of {counts['masks']} empty")
    if fits and not (out / f"fit_{source}.npz").exists():
        from .fits import write_fits  # torch is imported for this step alone

        counts = write_fits(
            source, out, *fits, workers=workers, progress=lambda x: tqdm(x, desc=f"{source} fits", leave=False)
        )
        lines.append(
            f"  fits: {counts['shapes']} shapes and {counts['colors']} colours, the colours off by "
            f"{counts['color_error']:.1f} of 255 (median)"
        )
    contact_sheet(out, source).save(out / f"sheet_{source}.jpg", quality=85)
    return "\n".join(lines)


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="Folder of packs (NAME.zip, NAME.npz).",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the results.")
@click.option("--source", "sources", multiple=True, help="Pack to label; may be repeated. Default: all that are there.")
@click.option(
    "--photos",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="Folder or zip of photos without annotation; may be repeated.",
)
@click.option(
    "--set",
    "sets",
    type=(click.Choice(sorted(READERS)), click.Path(path_type=Path)),
    multiple=True,
    help="A public set and its folder as its authors ship it, e.g. --set 300w_lp /data/300W_LP; may be repeated.",
)
@click.option(
    "--models",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder with yunet/. Default: DATA/../models.",
)
@click.option("--python", default=sys.executable, help="Interpreter that has mediapipe 0.10.9. Default: this one.")
@click.option("--workers", default=os.cpu_count() or 1, type=click.IntRange(1), help="Landmark processes.")
@click.option(
    "--parsing",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder SOURCE/NAME.png with the 19 labels of a face-parsing network, used for skin where present.",
)
@click.option(
    "--fits/--no-fits",
    default=True,
    help="Fit the face model to each photo: the coefficient targets of the profile fast (40 ms a photo).",
)
@click.option("--face-model", type=click.Path(path_type=Path), default=DEFAULT_FACE_MODEL, help="Model of --fits.")
@click.option("--correspondence", type=click.Path(path_type=Path), help="MediaPipe's points on that model (.npz).")
def label(
    data: Path,
    out: Path,
    sources: tuple[str, ...],
    photos: tuple[Path, ...],
    sets: tuple[tuple[str, Path], ...],
    models: Path | None,
    python: str,
    workers: int,
    parsing: Path | None,
    fits: bool,
    face_model: Path,
    correspondence: Path | None,
) -> None:
    """Find faces and landmarks in photos and write the arrays training reads.

    Results of each source are kept: a second run goes on where the first one ended.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        wanted = sources or tuple(name for name in FACE_PACKS if (data / f"{name}.zip").exists())
        packs = [read_pack(data, name) for name in wanted if name != BACKGROUND_PACK]
        packs += [read_photos(path) for path in photos] + [READERS[name](folder) for name, folder in sets]
        backgrounds = BACKGROUND_PACK in sources or (not sources and (data / f"{BACKGROUND_PACK}.zip").exists())
        if not packs and not backgrounds:
            raise MissingDataError(f"{data} holds none of {', '.join(FACE_PACKS)}; pass --source, --photos or --set")
        yunet = (models or data.resolve().parent / "models") / "yunet" / "yunet_n_dynamic.onnx"
        _label_missing(packs, out, yunet, python, workers)
        for records in packs:
            with np.load(out / f"{records[0].source}.npz") as file:
                labels = {key: file[key] for key in file.files}
            click.echo(summary(records, labels))
            fitted = (face_model, correspondence) if fits else None
            click.echo(build_source(records, out, labels, parsing, fitted, workers))
        if backgrounds and not (out / "background.npz").exists():
            counts = write_background(read_pack(data, BACKGROUND_PACK), out, lambda x: tqdm(x, desc="background"))
            click.echo(f"background: {counts['kept']} photos, {counts['corrupt']} corrupt")
    except (MissingDataError, MeshError, ImportError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def _label_missing(packs: list[list[Record]], out: Path, yunet: Path, python: str, workers: int) -> None:
    """First step for the sources without `SOURCE.npz`."""
    todo = [records for records in packs if not (out / f"{records[0].source}.npz").exists()]
    if not todo:
        return
    detector = FaceDetector(yunet)
    with ExitStack() as stack:
        clients = [stack.enter_context(MeshClient(python)) for _ in range(workers)]
        for records in todo:
            source = records[0].source
            bar = functools.partial(tqdm, total=len(records), desc=f"{source} landmarks")
            save_npz(out / f"{source}.npz", **label_records(records, detector, clients, bar))
