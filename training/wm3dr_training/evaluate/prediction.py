"""Photos through the public API, and the face of each that is meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import wm3dr
from wm3dr_training.data.landmarks import landmark_box
from wm3dr_training.data.records import CorruptImageError, Record
from wm3dr_training.evaluate.metrics import best_overlap


@dataclass(frozen=True, eq=False)
class Prediction:
    """One annotated photo and what was found in it."""

    name: str
    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    reference: NDArray[np.float32]
    """(68, 2) px, NaN where a point is not annotated."""
    result: wm3dr.Result
    index: int | None
    """Number of the face whose landmark box overlaps the annotation's best, by a fifth at least; None: missed."""

    @property
    def face(self) -> wm3dr.Face:
        """The face that is meant; ValueError when it was missed."""
        if self.index is None:
            raise ValueError(f"the face of {self.name} was not found")
        return self.result[self.index]


def landmark_boxes(result: wm3dr.Result) -> NDArray[np.float32]:
    """(F, 4) boxes of the 68 landmarks of all faces, px."""
    return np.array([landmark_box(face.landmarks) for face in result.faces], np.float32).reshape(-1, 4)


def predict(reconstructor: wm3dr.Reconstructor, name: str, image: NDArray[np.uint8], reference: NDArray) -> Prediction:
    """Reconstruct a photo at its own size and pick the annotated face."""
    result = reconstructor.reconstruct(image)
    reference = np.asarray(reference, np.float32)
    known = np.isfinite(reference).all(axis=-1)
    boxes = np.array([landmark_box(face.landmarks[known]) for face in result.faces], np.float32).reshape(-1, 4)
    return Prediction(name, image, reference, result, best_overlap(boxes, landmark_box(reference[known])))


def predict_records(reconstructor: wm3dr.Reconstructor, records: Iterable[Record]) -> Iterator[Prediction]:
    """Predictions of annotated records; photos that cannot be decoded are left out."""
    for record in records:
        try:
            image = record.image()
        except CorruptImageError:
            continue
        if record.landmarks68 is not None:
            yield predict(reconstructor, record.name, image, record.landmarks68)
