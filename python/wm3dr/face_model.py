"""Face-model files: reading, checking, writing, and the model that decodes coefficients.

The file format and its meaning are CONVENTIONS.md §5. Arithmetic lives in the native module.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as tensors_from_bytes
from safetensors.numpy import save as bytes_from_tensors

from . import _native
from ._native import ModelError
from .files import DEFAULT_FACE_MODEL, require_file, whole_file

FORMAT = "wm3dr-face-model"
VERSION = 1
ARRAYS: dict[str, type[np.generic]] = {
    "mean_shape": np.float32,
    "identity_basis": np.float16,
    "expression_basis": np.float16,
    "mean_albedo": np.float32,
    "albedo_basis": np.float16,
    "triangles": np.int32,
    "landmark_vertices": np.int32,
    "uv": np.float32,
    "regions": np.uint8,
    "mirror": np.int32,
}
"""Arrays of a face-model file and their types."""
COMPARED = {"skin": 1.0, "nose": 1.0, "brow": 0.5, "eyelids": 0.5, "upper_lip": 0.5, "lower_lip": 0.5}
"""What the colour of a face part, left or right, counts when albedo and light are fitted to a photo; others do not."""


@dataclass(frozen=True)
class FaceModelMetadata:
    """What a face-model file says about itself."""

    name: str
    """Short name; encoders name the face model that they were trained with."""
    licence: str
    """Terms of the file, in words or as an SPDX expression."""
    sources: tuple[str, ...]
    """Where geometry and appearance come from."""
    subdivisions: int
    """0, or 1 for a coarse file whose triangles are split at the edge midpoints on load."""
    expression_names: tuple[str, ...]
    """K_exp names, in the order of the expression coefficients."""
    expression_kind: str
    """"blendshape" (coefficients in [0, 1]) or "pca" (1 is one standard deviation)."""
    region_names: tuple[str, ...]
    """Name of each face-part label; left and right are the subject's."""
    units: str = "mm"
    """Unit of shapes; always mm."""
    albedo_space: str = "srgb"
    """Encoding of albedo; always sRGB values in [0, 1]."""

    def to_strings(self) -> dict[str, str]:
        """Return the metadata as the strings that the file holds."""
        return {
            "format": FORMAT,
            "version": str(VERSION),
            "name": self.name,
            "licence": self.licence,
            "sources": json.dumps(list(self.sources), ensure_ascii=False),
            "subdivisions": str(self.subdivisions),
            "expression_names": json.dumps(list(self.expression_names)),
            "expression_kind": self.expression_kind,
            "region_names": json.dumps(list(self.region_names)),
            "units": self.units,
            "albedo_space": self.albedo_space,
        }

    @classmethod
    def from_strings(cls, strings: Mapping[str, str]) -> "FaceModelMetadata":
        """Read the metadata strings of a file; ModelError for what is missing, unknown or malformed."""
        if strings.get("format") != FORMAT:
            raise ModelError(f"metadata 'format' is {strings.get('format')!r}, not {FORMAT!r}: not a face-model file")
        if strings.get("version") != str(VERSION):
            raise ModelError(f"face-model version is {strings.get('version')!r}; this wm3dr reads version {VERSION}")
        metadata = cls(
            name=_string(strings, "name"),
            licence=_string(strings, "licence"),
            sources=_names(strings, "sources"),
            subdivisions=_choice(strings, "subdivisions", {"0": 0, "1": 1}),
            expression_names=_names(strings, "expression_names"),
            expression_kind=_choice(strings, "expression_kind", {"blendshape": "blendshape", "pca": "pca"}),
            region_names=_names(strings, "region_names"),
        )
        _choice(strings, "units", {"mm": "mm"})
        _choice(strings, "albedo_space", {"srgb": "srgb"})
        return metadata


def _string(strings: Mapping[str, str], key: str) -> str:
    try:
        return strings[key]
    except KeyError:
        raise ModelError(f"metadata {key!r} is missing") from None


def _names(strings: Mapping[str, str], key: str) -> tuple[str, ...]:
    text = _string(strings, key)
    try:
        names = json.loads(text)
    except json.JSONDecodeError as error:
        raise ModelError(f"metadata {key!r} is not JSON: {error}") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"metadata {key!r} must be a JSON list of strings, not {text[:60]!r}")
    return tuple(names)


def _choice(strings: Mapping[str, str], key: str, choices: Mapping[str, Any]) -> Any:
    text = _string(strings, key)
    if text not in choices:
        raise ModelError(f"metadata {key!r} is {text!r}, not one of {sorted(choices)}")
    return choices[text]


@dataclass(frozen=True, eq=False)
class FaceModel:
    """A validated 3D morphable model: `vertices = mean + identity_basis · identity + expression_basis · expression`.

    Made by `FaceModel.load` (a file) or `FaceModel.from_arrays`. One model may be shared by threads.
    """

    metadata: FaceModelMetadata
    sha256: str
    """SHA-256 of the file's bytes, hexadecimal; encoders name it."""
    path: Path | None
    """The file that it was read from, if any."""
    native: _native.FaceModel = field(repr=False)
    """The native model that decodes."""

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None) -> "FaceModel":
        """Read and check a face-model file; None reads the default model of the wheel.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ModelError
            It is no face-model file or is inconsistent; the message says what is wrong.
        """
        path = require_file(DEFAULT_FACE_MODEL if path is None else path, "face_model")
        content = path.read_bytes()
        try:
            metadata, arrays = parse_face_model(content)
            return cls._checked(metadata, arrays, hashlib.sha256(content).hexdigest(), path)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error

    @classmethod
    def from_arrays(cls, metadata: FaceModelMetadata, arrays: Mapping[str, NDArray[Any]]) -> "FaceModel":
        """Make a model of the arrays of a file (`ARRAYS`, CONVENTIONS.md §5); ModelError if inconsistent."""
        content = serialize_face_model(metadata, arrays)
        return cls._checked(metadata, dict(arrays), hashlib.sha256(content).hexdigest(), None)

    @classmethod
    def _checked(
        cls, metadata: FaceModelMetadata, arrays: dict[str, NDArray[Any]], sha256: str, path: Path | None
    ) -> "FaceModel":
        try:
            contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
            native = _native.FaceModel(**contiguous, subdivisions=metadata.subdivisions)
        except (TypeError, ValueError) as error:
            raise ModelError(str(error)) from error
        if len(metadata.expression_names) != native.n_expression:
            raise ModelError(
                f"metadata 'expression_names' has {len(metadata.expression_names)} names, "
                f"but 'expression_basis' has {native.n_expression} modes"
            )
        if arrays["regions"].size and int(arrays["regions"].max()) >= len(metadata.region_names):
            raise ModelError(
                f"'regions' holds label {int(arrays['regions'].max())}, "
                f"but 'region_names' names only {len(metadata.region_names)}"
            )
        return cls(metadata=metadata, sha256=sha256, path=path, native=native)

    @property
    def name(self) -> str:
        """Short name of the model."""
        return self.metadata.name

    @property
    def n_vertices(self) -> int:
        """N, vertices after refinement."""
        return self.native.n_vertices

    @property
    def n_stored(self) -> int:
        """N0, vertices before refinement: the first of the refined mesh (CONVENTIONS.md §5)."""
        return self.native.n_stored

    @property
    def n_triangles(self) -> int:
        """T, triangles after refinement."""
        return self.native.n_triangles

    @property
    def widths(self) -> dict[str, int]:
        """Coefficients per group: identity, expression, albedo."""
        return {
            "identity": self.native.n_identity,
            "expression": self.native.n_expression,
            "albedo": self.native.n_albedo,
        }

    @property
    def expression_names(self) -> tuple[str, ...]:
        """K_exp names, in the order of the expression coefficients."""
        return self.metadata.expression_names

    @property
    def region_names(self) -> tuple[str, ...]:
        """Name of each face-part label; left and right are the subject's."""
        return self.metadata.region_names

    @property
    def mean_shape(self) -> NDArray[np.float32]:
        """(N, 3) mm, model frame: the shape of zero coefficients."""
        return self.native.mean_shape

    @property
    def mean_albedo(self) -> NDArray[np.float32]:
        """(N, 3) sRGB values in [0, 1]."""
        return self.native.mean_albedo

    @property
    def triangles(self) -> NDArray[np.int32]:
        """(T, 3) vertex numbers, counter-clockwise seen from outside."""
        return self.native.triangles

    @cached_property
    def stored_triangles(self) -> NDArray[np.int32]:
        """(T0, 3) vertex numbers of the mesh before refinement: its triangle k became 4k … 4k+3 (CONVENTIONS.md §5)."""
        if not self.metadata.subdivisions:
            return self.triangles
        stored = np.ascontiguousarray(self.triangles.reshape(-1, 4, 3)[:, :3, 0])
        stored.flags.writeable = False
        return stored

    @property
    def landmark_vertices(self) -> NDArray[np.int32]:
        """(68,) vertex numbers in the 300-W order."""
        return self.native.landmark_vertices

    @property
    def uv(self) -> NDArray[np.float32]:
        """(T, 3, 2) texture coordinates per corner, v up."""
        return self.native.uv

    @property
    def regions(self) -> NDArray[np.uint8]:
        """(N,) face-part label of each vertex; `region_names` names the labels."""
        return self.native.regions

    @property
    def mirror(self) -> NDArray[np.int32]:
        """(N,) the vertex on the other side; a vertex of the midline is its own."""
        return self.native.mirror

    @cached_property
    def color_fitter(self) -> _native.ColorFitter:
        """Fits albedo and light to photos; compares colours on `COMPARED` regions."""
        weights = np.array([COMPARED.get(_side_free(name), 0.0) for name in self.region_names], np.float32)
        return _native.ColorFitter(self.native, weights[self.regions[: self.n_stored]])

    def summary(self) -> dict[str, Any]:
        """Return what `wm3dr face-model info` prints, JSON-able."""
        low, high = self.mean_shape.min(axis=0), self.mean_shape.max(axis=0)
        labels = np.bincount(self.regions, minlength=len(self.region_names))
        return {
            "name": self.name,
            "path": None if self.path is None else str(self.path),
            "sha256": self.sha256,
            "licence": self.metadata.licence,
            "sources": list(self.metadata.sources),
            "units": self.metadata.units,
            "albedo_space": self.metadata.albedo_space,
            "vertices": self.n_vertices,
            "triangles": self.n_triangles,
            "subdivisions": self.metadata.subdivisions,
            "extent_mm": [round(float(extent), 1) for extent in high - low],
            **self.widths,
            "expression_kind": self.metadata.expression_kind,
            "expression_names": list(self.expression_names),
            "regions": {name: int(count) for name, count in zip(self.region_names, labels, strict=True)},
        }


def _side_free(region: str) -> str:
    """Return the name of a face part without its side."""
    return region.removeprefix("left_").removeprefix("right_")


def parse_face_model(content: bytes) -> tuple[FaceModelMetadata, dict[str, NDArray[Any]]]:
    """Split the bytes of a face-model file into metadata and arrays; ModelError if it is not one.

    Names and types are checked here, shapes and values by the native model.
    """
    try:
        arrays = tensors_from_bytes(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"not a safetensors file: {error}") from error
    metadata = FaceModelMetadata.from_strings(header.get("__metadata__", {}))
    _check_arrays(arrays)
    return metadata, arrays


def serialize_face_model(metadata: FaceModelMetadata, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the bytes of a face-model file; equal input gives equal bytes.

    Raises
    ------
    ModelError
        An array is missing, superfluous or has another type than `ARRAYS` says.
    """
    _check_arrays(arrays)
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content = bytes_from_tensors(contiguous, metadata=metadata.to_strings())
    # The library writes metadata in hash order: sort the header, so that the checksum speaks of the content alone.
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def write_face_model(
    path: str | os.PathLike[str], metadata: FaceModelMetadata, arrays: Mapping[str, NDArray[Any]]
) -> FaceModel:
    """Check a face model and write it, whole or not at all; return it as a reader would see it.

    Raises
    ------
    ModelError
        The model is inconsistent; nothing is written.
    OSError
        The file cannot be written.
    """
    content = serialize_face_model(metadata, arrays)
    model = FaceModel._checked(metadata, dict(arrays), hashlib.sha256(content).hexdigest(), Path(path))
    with whole_file(path) as file:
        file.write(content)
    return model


def _check_arrays(arrays: Mapping[str, NDArray[Any]]) -> None:
    missing, unknown = sorted(ARRAYS.keys() - arrays.keys()), sorted(arrays.keys() - ARRAYS.keys())
    if missing or unknown:
        raise ModelError(f"arrays missing: {missing or 'none'}; unknown: {unknown or 'none'}")
    for name, dtype in ARRAYS.items():
        if arrays[name].dtype != dtype:
            raise ModelError(f"{name!r} has dtype {arrays[name].dtype}, not {np.dtype(dtype)}")
