"""What the measures of one evaluation share: the encoder, the held-out photos and the labels of the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import wm3dr
from wm3dr_training.data.records import MissingDataError, Record, require
from wm3dr_training.data.sources import BACKGROUND_PACK, MANUAL_PACKS, read_pack
from wm3dr_training.evaluate.composites import AnnotatedFace
from wm3dr_training.evaluate.prediction import Prediction, predict_records

LABEL_LAYOUT = "  LABELS/SOURCE.npz   as `wm3dr-train label --out LABELS` writes it"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    measure: str
    value: float
    unit: str = "%"
    must: float | None = None
    """Bound that has to be kept; None: none is set."""
    aim: float | None = None
    higher_is_better: bool = False
    note: str = ""

    @property
    def kept(self) -> bool | None:
        """Whether the bound is kept; None where there is none."""
        if self.must is None:
            return None
        return bool(self.value >= self.must if self.higher_is_better else self.value <= self.must)


@dataclass
class Outcome:
    """What a measure yields: rows of the table, error curves (name -> errors, photos), arrays to save."""

    rows: list[Row] = field(default_factory=list)
    curves: dict[str, tuple[NDArray, int]] = field(default_factory=dict)
    arrays: dict[str, NDArray] = field(default_factory=dict)


@dataclass
class Setting:
    """An encoder and where the photos are; `quick` takes a part of them."""

    reconstructor: wm3dr.Reconstructor
    data: Path
    models: Path
    labels: Path | None = None
    quick: bool = False

    def subset(self, records: list, full: int, quick: int) -> list:
        """Evenly spread part of a list: at most `full` entries, or `quick` where `self.quick`."""
        wanted = min(len(records), quick if self.quick else full)
        return [records[k] for k in np.linspace(0, len(records) - 1, wanted).round().astype(int)] if wanted else []

    @cached_property
    def validation(self) -> list[Record]:
        """Held-out photos of helen_train and lfpw_train, all of them or 48."""
        records = [r for name in MANUAL_PACKS for r in read_pack(self.data, name) if r.split == "validation"]
        return self.subset(records, len(records), 48)

    @cached_property
    def validation_predictions(self) -> list[Prediction]:
        """What the encoder says about them, at the photos' own size."""
        return list(predict_records(self.reconstructor, self.validation))

    @cached_property
    def validation_faces(self) -> list[AnnotatedFace]:
        """The held-out faces as material for composites."""
        return [AnnotatedFace(p.image, p.reference) for p in self.validation_predictions]

    @cached_property
    def backgrounds(self) -> list[NDArray[np.uint8]]:
        """Held-out photos without faces, all of them or 40."""
        records = [r for r in read_pack(self.data, BACKGROUND_PACK) if r.split == "validation"]
        return [record.image() for record in self.subset(records, len(records), 40)]

    def labels478(self, source: str) -> dict[str, NDArray[np.float32]]:
        """Name -> (478, ≥2) MediaPipe points in pixels of the photo, for the photos that `label` accepted.

        Raises
        ------
        MissingDataError
            No label folder was given or it has no such source.
        """
        if self.labels is None:
            raise MissingDataError(f"labels of {source} are needed: pass the folder that `wm3dr-train label` wrote")
        with np.load(require(self.labels / f"{source}.npz", source, LABEL_LAYOUT)) as table:
            names, points, valid = table["names"], table["landmarks478"], table["valid"]
        return {str(name): row for name, row, ok in zip(names, points, valid, strict=True) if ok}
