"""Readers for public face sets that each user has to obtain under the set's own licence.

Every reader takes the set's folder as its authors ship it and returns records sorted by name. All landmarks come out in
pixels with (0, 0) at the outer corner of the top-left pixel: files that count pixel centres from 1 (MATLAB, `.pts`) are
shifted by half a pixel, those that count centres from 0 are shifted the other way.
"""

import importlib.util
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from .landmarks import N_LANDMARKS, landmarks68_from_fiducials
from .records import IMAGE_SUFFIXES, CorruptImageError, MissingDataError, Record, require

FROM_ONE_BASED = -0.5
"""Adds to coordinates whose first pixel centre is 1."""
FROM_ZERO_BASED = 0.5
"""Adds to coordinates whose first pixel centre is 0."""

LAYOUTS = {
    "300w": """  300W/{afw,helen/trainset,helen/testset,lfpw/trainset,lfpw/testset,ibug}/NAME.jpg|png
  300W/…/NAME.pts          version: 1, n_points: 68, { x y … }  (ibug.doc.ic.ac.uk/resources/300-W)""",
    "300w_lp": """  300W_LP/{AFW,HELEN,IBUG,LFPW}[_Flip]/NAME.jpg
  300W_LP/…/NAME.mat       pt2d (2, 68), Pose_Para (1, 7)
  300W_LP/landmarks/SET/NAME_pts.mat   pts_2d (68, 2), used where present""",
    "aflw2000": """  AFLW2000/imageNNNNN.jpg
  AFLW2000/imageNNNNN.mat  pt3d_68 (3, 68), Pose_Para (1, 7)
  reannotated (optional): a .npy (2000, 68, 2), photos in the order of their names""",
    "celeba": """  CelebA/Img/img_celeba/NNNNNN.jpg  (or img_align_celeba)
  CelebA/Eval/list_eval_partition.txt
  CelebA/Anno/identity_CelebA.txt   optional
  CelebA/Anno/list_bbox_celeba.txt  optional, for img_celeba""",
    "300vw": """  300VW/NNN/vid.avi         (needs PyAV: pip install av)  or  300VW/NNN/frames/FFFFFF.jpg
  300VW/NNN/annot/FFFFFF.pts   frame numbers start at 1""",
    "cfp": """  CFP/Data/Images/PPP/{frontal,profile}/VV.jpg
  CFP/Data/Fiducials/PPP/{frontal,profile}/VV.txt   30 lines x,y""",
}
"""Expected folders; shown when something is missing."""

TEST_PARTS = ("afw", "ibug", "testset")
"""Folders of 300-W that are benchmarks: never trained on."""


def read_pts(path: Path) -> NDArray[np.float32]:
    """Points of a `.pts` file, (P, 2) float32; pixel centres counted from 1 are shifted to corners counted from 0.

    Raises
    ------
    ValueError
        The file has no braces, or another number of points than it says, or something that is no number.
    """
    text = path.read_text(errors="replace")
    if "{" not in text or "}" not in text:
        raise ValueError(f"{path} is not a .pts file: it has no {{ … }}")
    head, body = text.split("{", 1)
    try:
        values = np.array(body.split("}", 1)[0].split(), np.float32)
    except ValueError as error:
        raise ValueError(f"{path} has a coordinate that is not a number: {error}") from error
    said = [line.split(":")[1] for line in head.lower().splitlines() if line.startswith("n_points:")]
    if values.size % 2 or (said and values.size != 2 * int(said[0])):
        raise ValueError(f"{path} has {values.size / 2:g} points, its head says {said[0].strip() if said else None}")
    return values.reshape(-1, 2) + FROM_ONE_BASED


def read_300w(folder: Path, include_tests: bool = False) -> list[Record]:
    """300-W: photos with a `.pts` beside them.

    Parameters
    ----------
    folder : Path
    include_tests : bool
        Also the benchmark parts (AFW, IBUG, the test sets of HELEN and LFPW), with split `validation`.

    Raises
    ------
    MissingDataError
        The folder or any annotated photo in it is missing.
    ValueError
        A `.pts` file is malformed or has not 68 points.
    """
    folder = require(Path(folder), "300w", LAYOUTS["300w"])
    records = []
    for pts in sorted(folder.rglob("*.pts")):
        image = _image_beside(pts)
        inside = pts.relative_to(folder).with_suffix("")
        test = any(part.lower() in TEST_PARTS for part in inside.parts[:-1])
        if image is None or (test and not include_tests):
            continue
        points = _expect68(read_pts(pts), pts)
        split = "validation" if test else "train"
        records.append(Record("300w", inside.as_posix(), image.read_bytes, points, _box(points), split))
    return _some(records, folder, "300w")


def read_300w_lp(folder: Path) -> list[Record]:
    """300W-LP: the profile syntheses of 300-W, with 68 points.

    The 2D points of `landmarks/` are preferred to `pt2d` of the fitted model. Photos of one original share the group.

    Raises
    ------
    MissingDataError
        The folder or any annotated photo in it is missing.
    ValueError
        A `.mat` file is malformed.
    """
    folder = require(Path(folder), "300w_lp", LAYOUTS["300w_lp"])
    records = []
    for image in sorted(folder.rglob("*.jpg")):
        mat = image.with_suffix(".mat")
        if not mat.exists():
            continue
        part = image.parent.name
        better = folder / "landmarks" / part / f"{image.stem}_pts.mat"
        if better.exists():
            points = _expect68(_mat(better, "pts_2d"), better)
        else:
            points = _expect68(_mat(mat, "pt2d").T, mat)
        points = points + FROM_ONE_BASED
        name = image.relative_to(folder).with_suffix("").as_posix()
        group = f"{part.removesuffix('_Flip')}/{image.stem.rsplit('_', 1)[0]}"
        records.append(Record("300w_lp", name, image.read_bytes, points, _box(points), group=group))
    return _some(records, folder, "300w_lp")


def read_aflw2000(folder: Path, reannotated: Path | None = None) -> list[Record]:
    """AFLW2000-3D, a benchmark: all records have split `validation`.

    Parameters
    ----------
    folder : Path
    reannotated : Path, optional
        `.npy` (n, 68, 2) with the corrected points, in the order of the photos' names, instead of `pt3d_68`.

    Raises
    ------
    MissingDataError
        The folder, its photos or the reannotation is missing.
    ValueError
        A `.mat` file is malformed, or the reannotation does not fit the photos.
    """
    folder = require(Path(folder), "aflw2000", LAYOUTS["aflw2000"])
    images = [image for image in sorted(folder.glob("*.jpg")) if image.with_suffix(".mat").exists()]
    other = None
    if reannotated is not None:
        other = np.load(require(Path(reannotated), "aflw2000", LAYOUTS["aflw2000"]))
        if other.shape != (len(images), N_LANDMARKS, 2):
            raise ValueError(f"{reannotated} has shape {other.shape}, wanted ({len(images)}, {N_LANDMARKS}, 2)")
    records = []
    for index, image in enumerate(images):
        mat = image.with_suffix(".mat")
        points = _mat(mat, "pt3d_68")[:2].T if other is None else other[index]
        points = _expect68(points, mat) + FROM_ONE_BASED
        records.append(Record("aflw2000", image.stem, image.read_bytes, points, _box(points), "validation"))
    return _some(records, folder, "aflw2000")


def read_aflw2000_pose(folder: Path, name: str) -> NDArray[np.float32]:
    """(3,) pitch, yaw, roll of an AFLW2000-3D or 300W-LP photo: its `Pose_Para` in degrees, with that set's signs."""
    return np.degrees(_mat(Path(folder) / f"{name}.mat", "Pose_Para").reshape(-1)[:3]).astype(np.float32)


def read_celeba(folder: Path) -> list[Record]:
    """CelebA: photos without dense landmarks; box and person where the annotation files are there.

    Raises
    ------
    MissingDataError
        The folder, the photos or the partition file is missing.
    ValueError
        A line of an annotation file is malformed.
    """
    folder = require(Path(folder), "celeba", LAYOUTS["celeba"])
    wild, aligned = folder / "Img" / "img_celeba", folder / "Img" / "img_align_celeba"
    images = require(wild if wild.exists() else aligned, "celeba", LAYOUTS["celeba"])
    partition = require(folder / "Eval" / "list_eval_partition.txt", "celeba", LAYOUTS["celeba"])
    people = _table(folder / "Anno" / "identity_CelebA.txt", 0)
    boxes = _table(folder / "Anno" / "list_bbox_celeba.txt", 2) if images == wild else {}
    records = []
    for name, values in sorted(_table(partition, 0).items()):
        image = images / name
        if not image.exists():
            continue
        box = None
        if name in boxes:
            x, y, width, height = np.array(boxes[name], np.float32)
            box = np.array([x, y, x + width, y + height], np.float32)
        split = "train" if values[0] == "0" else "validation"
        group = people[name][0] if name in people else ""
        records.append(Record("celeba", image.stem, image.read_bytes, None, box, split, group))
    return _some(records, folder, "celeba")


def read_300vw(folder: Path, every: int = 10) -> list[Record]:
    """300VW: every `every`-th annotated frame, from extracted frames or, with PyAV, from `vid.avi`.

    Photos of one video share the group.

    Raises
    ------
    MissingDataError
        The folder or any annotated frame is missing.
    ImportError
        There are only videos, and PyAV is not installed.
    ValueError
        `every` < 1, or a `.pts` file is malformed.
    """
    if every < 1:
        raise ValueError(f"every is {every}, wanted at least 1")
    folder = require(Path(folder), "300vw", LAYOUTS["300vw"])
    records = []
    for annotations in sorted(folder.glob("*/annot")):
        video = annotations.parent
        files = sorted(annotations.glob("*.pts"))[::every]
        if (video / "frames").is_dir():
            images = [_image_beside(video / "frames" / pts.name) for pts in files]
            frames = [None if image is None else image.read_bytes for image in images]
        elif (video / "vid.avi").exists():
            if importlib.util.find_spec("av") is None:
                raise ImportError(f"{video / 'vid.avi'} needs PyAV: pip install 'wm3dr-training[video]'")
            frames = [_video_opener(video / "vid.avi", int(pts.stem)) for pts in files]
        else:
            continue
        for pts, opener in zip(files, frames, strict=True):
            if opener is not None:
                points = _expect68(read_pts(pts), pts)
                name = f"{video.name}/{pts.stem}"
                records.append(Record("300vw", name, opener, points, _box(points), group=video.name))
    return _some(records, folder, "300vw")


def read_cfp(folder: Path) -> list[Record]:
    """CFP as its authors ship it: 30 fiducials as 68 landmarks, NaN where CFP marks nothing; the person as group.

    Raises
    ------
    MissingDataError
        The folder or any annotated photo in it is missing.
    ValueError
        A fiducial file has not 30 points.
    """
    folder = require(Path(folder), "cfp", LAYOUTS["cfp"])
    images, fiducials = folder / "Data" / "Images", folder / "Data" / "Fiducials"
    records = []
    for image in sorted(images.glob("*/*/*.jpg")):
        file = (fiducials / image.relative_to(images)).with_suffix(".txt")
        if not file.exists():
            continue
        try:
            points = np.loadtxt(file, delimiter=",", dtype=np.float32).reshape(1, 30, 2)
        except ValueError as error:
            raise ValueError(f"{file} is not 30 lines of x,y: {error}") from error
        landmarks = landmarks68_from_fiducials(points + FROM_ONE_BASED)[0]
        person, view = image.parts[-3:-1]
        name = f"{person}_{view}_{image.stem}"
        records.append(Record("cfp", name, image.read_bytes, landmarks, _box(landmarks), group=person))
    return _some(records, folder, "cfp")


READERS = {
    "300w": read_300w,
    "300w_lp": read_300w_lp,
    "aflw2000": read_aflw2000,
    "celeba": read_celeba,
    "300vw": read_300vw,
    "cfp": read_cfp,
}
"""Reader of each set by name; the first argument is the set's folder."""


def _image_beside(file: Path) -> Path | None:
    """The image with the stem of `file` in its folder."""
    found = (file.with_suffix(suffix) for suffix in IMAGE_SUFFIXES)
    return next((image for image in found if image.exists()), None)


def _mat(path: Path, key: str) -> NDArray:
    """One array of a `.mat` file."""
    try:
        content = loadmat(path)
    except Exception as error:  # scipy raises a dozen types for broken files
        raise ValueError(f"{path} cannot be read as a .mat file: {error}") from error
    if key not in content:
        raise ValueError(f"{path} has no array {key!r}; it has {sorted(k for k in content if not k.startswith('_'))}")
    return np.asarray(content[key], np.float32)


def _expect68(points: NDArray, path: Path) -> NDArray[np.float32]:
    if points.shape != (N_LANDMARKS, 2):
        raise ValueError(f"{path} has points of shape {points.shape}, wanted ({N_LANDMARKS}, 2)")
    return np.asarray(points, np.float32)


def _box(points: NDArray) -> NDArray[np.float32]:
    return np.concatenate([np.nanmin(points, axis=0), np.nanmax(points, axis=0)]).astype(np.float32)


def _table(path: Path, skip: int) -> dict[str, list[str]]:
    """First column → the others, of a text table; {} when there is no file."""
    if not path.exists():
        return {}
    rows = [line.split() for line in path.read_text().splitlines()[skip:] if line.strip()]
    if any(len(row) < 2 for row in rows):
        raise ValueError(f"{path} has a line with a single column")
    return {row[0]: row[1:] for row in rows}


def _some(records: list[Record], folder: Path, source: str) -> list[Record]:
    if not records:
        raise MissingDataError(f"{source}: no annotated photo under {folder}. Expected layout:\n{LAYOUTS[source]}")
    return records


class _Video:
    """Frames of a video by number, from 1. Rising numbers are cheap; a step back beyond the kept ones starts anew."""

    KEPT = 64

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._restart()

    def _restart(self) -> None:
        import av

        self._container = av.open(str(self._path))
        self._frames = self._container.decode(video=0)
        self._position = 0
        self._kept: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()

    def frame(self, number: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB; CorruptImageError beyond the video's end."""
        with self._lock:
            if number <= self._position and number not in self._kept:
                self._container.close()
                self._restart()
            while self._position < number:
                frame = next(self._frames, None)
                if frame is None:
                    raise CorruptImageError(f"{self._path} has {self._position} frames, wanted number {number}")
                self._position += 1
                self._kept[self._position] = frame.to_ndarray(format="rgb24")
                if len(self._kept) > self.KEPT:
                    self._kept.popitem(last=False)
            return self._kept[number]


@lru_cache(maxsize=2)
def _open_video(path: Path, process: int) -> _Video:
    """An open video; one per process, because forked workers would share its file position."""
    return _Video(path)


def _video_opener(path: Path, number: int) -> Callable[[], NDArray[np.uint8]]:
    return lambda: _open_video(path, os.getpid()).frame(number)
