"""YuNet face detection through onnxruntime, and the choice of a photo's main face."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .records import require

STRIDES = (8, 16, 32)
INPUT_SIDE = 480
"""Longer side of the detector's input; larger photos are reduced."""
BORDER = 0.25
"""Black border around the photo over its longer side: tight crops hide the face's outline from the detector."""
MIN_SCORE = 0.5
MAX_OVERLAP = 0.3
MIN_ANNOTATED_OVERLAP = 0.2
YUNET_LAYOUT = """  MODELS/yunet/yunet_n_dynamic.onnx   YuNet with dynamic input size
                                      (github.com/ShiqiYu/libfacedetection.train)"""


@dataclass(frozen=True)
class Detections:
    """Faces of one photo, best score first; pixels of the photo."""

    boxes: NDArray[np.float32]
    """(F, 4) (x0, y0, x1, y1); may reach outside of the photo."""
    scores: NDArray[np.float32]
    """(F,) 0 … 1."""

    def sizes(self) -> NDArray[np.float32]:
        """(F,) √(w·h) of the boxes, pixels."""
        return np.sqrt(np.prod(np.maximum(self.boxes[:, 2:] - self.boxes[:, :2], 0), axis=1))


class FaceDetector:
    """YuNet on RGB photos.

    Parameters
    ----------
    path : Path
        The ONNX file.

    Raises
    ------
    MissingDataError
        The file is missing.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # photos are the unit of parallelism
        file = require(Path(path), "yunet", YUNET_LAYOUT)
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]

    def detect(self, image: NDArray[np.uint8]) -> Detections:
        """Faces of an (H, W, 3) uint8 RGB photo with scores of at least 0.5."""
        height, width = image.shape[:2]
        border = int(BORDER * max(height, width))
        padded = cv2.copyMakeBorder(image, border, border, border, border, cv2.BORDER_CONSTANT)
        scale = min(1.0, INPUT_SIDE / max(padded.shape[:2]))
        if scale < 1:
            padded = cv2.resize(padded, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        used = padded.shape[:2]
        padded = cv2.copyMakeBorder(padded, 0, -used[0] % 32, 0, -used[1] % 32, cv2.BORDER_CONSTANT)
        blob = np.ascontiguousarray(padded[:, :, ::-1].transpose(2, 0, 1)[None], np.float32)  # BGR, 0–255
        found = dict(zip(self._outputs, self._session.run(None, {"input": blob}), strict=True))
        rows = np.concatenate([_decoded(found, stride, padded.shape[1]) for stride in STRIDES])
        rows = rows[_suppressed(rows)]
        unscale = np.array([(width + 2 * border) / used[1], (height + 2 * border) / used[0]] * 2, np.float32)
        return Detections(boxes=(rows[:, :4] * unscale - border).astype(np.float32), scores=rows[:, 4])


def _decoded(found: dict[str, NDArray], stride: int, width: int) -> NDArray[np.float32]:
    """(F, 5) boxes and scores of one level, in pixels of the padded input."""
    score = np.sqrt(np.clip(found[f"cls_{stride}"], 0, 1) * np.clip(found[f"obj_{stride}"], 0, 1))[0, :, 0]
    cells = np.flatnonzero(score >= MIN_SCORE)
    columns = width // stride
    place = np.stack([cells % columns, cells // columns], axis=1)
    box = found[f"bbox_{stride}"][0, cells]
    center, size = (box[:, :2] + place) * stride, np.exp(box[:, 2:]) * stride
    return np.column_stack([center - size / 2, center + size / 2, score[cells]]).astype(np.float32)


def _suppressed(rows: NDArray) -> list[int]:
    """Rows kept by greedy non-maximum suppression, best first."""
    kept: list[int] = []
    for candidate in np.argsort(-rows[:, 4], kind="stable"):
        if all(_overlap(rows[candidate], rows[other]) <= MAX_OVERLAP for other in kept):
            kept.append(int(candidate))
    return kept


def _overlap(a: NDArray, b: NDArray) -> float:
    """Intersection over union."""
    shared = np.prod(np.maximum(np.minimum(a[2:4], b[2:4]) - np.maximum(a[:2], b[:2]), 0))
    return float(shared / (np.prod(a[2:4] - a[:2]) + np.prod(b[2:4] - b[:2]) - shared))


def annotated_face(detections: Detections, box: NDArray) -> int | None:
    """The detection that overlaps a known box most; None when none does by at least `MIN_ANNOTATED_OVERLAP`."""
    overlaps = [_overlap(found, box) for found in detections.boxes]
    best = int(np.argmax(overlaps)) if overlaps else 0
    return best if overlaps and overlaps[best] >= MIN_ANNOTATED_OVERLAP else None


def main_face(detections: Detections, width: int, height: int) -> tuple[int, float]:
    """The face that a photo of one person shows: large, sure and near the centre.

    Returns
    -------
    index : int
        Into `detections`.
    second : float
        Size of the next face over its size; 0 when it is alone.

    Raises
    ------
    ValueError
        There are no detections.
    """
    if not len(detections.scores):
        raise ValueError("detections are empty: there is no main face")
    sizes = np.maximum(detections.sizes(), 1)
    center = (detections.boxes[:, :2] + detections.boxes[:, 2:]) / 2 - (width / 2, height / 2)
    away = np.linalg.norm(center, axis=1) / (0.5 * min(width, height))
    index = int(np.argmax(sizes * detections.scores * np.exp(-(away**2))))
    others = np.delete(sizes, index)
    return index, float(others.max() / sizes[index]) if len(others) else 0.0
