"""The encoder: an ONNX network run by onnxruntime, and the contract that its file states.

The only importer of onnxruntime, and only when an encoder is opened.
"""

import base64
import binascii
import hashlib
import importlib.metadata
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _native
from ._native import ModelError
from .face_model import FaceModel
from .files import DEFAULT_ENCODER, require_file
from .image import MULTIPLE
from .threads import check_threads

FORMAT = "wm3dr-encoder"
MAPS = {"1": "coefficients", "2": "features", "3": "features"}
"""Contract version -> the map that the graph returns beside `heatmap`.

1. `image` (B, 3, H, W) float32 RGB 0-255 -> `coefficients` (B, C, h, w), a coefficient row per cell.
2. The same image -> `features` (B, F, h, w), of which the rows are made. The file carries the last layers as a graph of
   its own (metadata `head`, base64 of ONNX, `features` (M, F) -> `coefficients` (M, C)), evaluated at the peaks alone.
3. As 2, but without numbers that an 8-bit network does not need: `image` (B, H, W, 3) uint8 RGB -> `features`
   (B, h, w, F) uint8, which the head takes as they are.

`heatmap` is (B, 1, h, w) float32 in all. h = H/stride, w = W/stride."""
GROUPS = ("identity", "expression", "albedo", "rotation", "illumination", "translation")
"""Coefficient groups in the order of a row (CONVENTIONS.md §4)."""
BLOCKS = "blocks"
"""Metadata of an encoder whose blocks are functions of the model, for which this package may have kernels: JSON, how
many of each kind. It is no part of the contract: without kernels onnxruntime inlines the functions."""
FIXED_WIDTHS = {"rotation": 3, "illumination": 27, "translation": 3}
DEPTH_OFFSET = 10.0
KEPT_PIXELS = 640 * 640
"""Up to this input onnxruntime keeps its working memory between calls (about 150 MB); beyond, it returns it."""
UNIT_MM = 100.0

Providers: TypeAlias = Sequence[str | tuple[str, Mapping[str, Any]]]
"""Execution providers as onnxruntime takes them, best first."""

CUDA_COMMAND = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'onnxruntime-gpu[cuda,cudnn]'"
CPU_COMMAND = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime"
_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn")


@dataclass(frozen=True)
class EncoderContract:
    """What an encoder's file says about itself (ONNX metadata)."""

    version: str
    """Which map the graph returns, see `MAPS`."""
    face_model: str
    """Name of the face model that its coefficients belong to."""
    face_model_sha256: str
    """SHA-256 of that face model's file."""
    layout: tuple[tuple[str, int], ...]
    """(group, width) along a coefficient row, in the order of CONVENTIONS.md §4."""
    stride: int
    """Network pixels per cell."""
    focal: float
    """Focal length at network scale, pixels."""
    rotation_frame: str
    """"ray" (the rotation vector is relative to the face's viewing ray) or "camera" (CONVENTIONS.md §2)."""
    peak_window: int
    """Side of the neighbourhood whose maximum a peak is, cells."""
    peak_threshold: float
    """Least heatmap value of a face."""
    row_window: int
    """Side of the neighbourhood of a peak over which coefficient rows are averaged, cells; 1: the peak's row alone.
    Encoders that were trained to say the same of a face at the cells around its centre allow 3."""
    licence: str
    """Terms of the weights."""
    training: Mapping[str, Any]
    """Summary of the training."""

    @property
    def n_coefficients(self) -> int:
        """C, width of a coefficient row."""
        return sum(width for _, width in self.layout)

    def slices(self) -> dict[str, slice]:
        """Where each group lies in a row."""
        ends = accumulate(width for _, width in self.layout)
        return {name: slice(end - width, end) for (name, width), end in zip(self.layout, ends, strict=True)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "EncoderContract":
        """Read the metadata of an ONNX file; ModelError for what is missing, unknown or malformed."""
        if metadata.get("wm3dr_format") != FORMAT:
            raise ModelError(
                f"metadata 'wm3dr_format' is {metadata.get('wm3dr_format')!r}, not {FORMAT!r}: not a wm3dr encoder"
            )
        version = metadata.get("wm3dr_version", "")
        if version not in MAPS:
            raise ModelError(f"encoder contract version is {version!r}; this wm3dr runs versions {', '.join(MAPS)}")
        for key, known in (("depth_offset", DEPTH_OFFSET), ("unit_mm", UNIT_MM)):
            if _number(metadata, key) != known:
                raise ModelError(f"metadata {key!r} is {metadata[key]!r}; version {version} has {known}")
        contract = cls(
            version=version,
            face_model=_text(metadata, "face_model"),
            face_model_sha256=_text(metadata, "face_model_sha256"),
            layout=_layout(metadata),
            stride=int(_number(metadata, "stride")),
            focal=_number(metadata, "focal"),
            rotation_frame=_text(metadata, "rotation_frame"),
            peak_window=int(_number(metadata, "peak_window")),
            peak_threshold=_number(metadata, "peak_threshold"),
            row_window=int(_number({"row_window": "1", **metadata}, "row_window")),
            licence=_text(metadata, "licence"),
            training=_json(metadata, "training"),
        )
        if contract.rotation_frame not in ("ray", "camera"):
            raise ModelError(f"metadata 'rotation_frame' is {contract.rotation_frame!r}, not 'ray' or 'camera'")
        if contract.stride < 1 or MULTIPLE % contract.stride:
            raise ModelError(f"metadata 'stride' is {contract.stride}, which does not divide {MULTIPLE}")
        odd = contract.peak_window % 2 == 1 and contract.row_window % 2 == 1 and contract.row_window > 0
        if not (contract.focal > 0 and 0 < contract.peak_threshold < 1 and odd):
            raise ModelError(
                f"metadata out of range: focal {contract.focal} (> 0), peak_threshold {contract.peak_threshold} "
                f"(between 0 and 1), peak_window {contract.peak_window} and row_window {contract.row_window} (odd)"
            )
        return contract

    def check_face_model(self, face_model: FaceModel) -> None:
        """Raise ModelError unless the coefficients belong to this very face model."""
        expected = {**face_model.widths, **FIXED_WIDTHS}
        if dict(self.layout) != expected:
            raise ModelError(
                f"the encoder's coefficients {dict(self.layout)} do not fit face model {face_model.name!r}: {expected}"
            )
        if self.face_model_sha256 != face_model.sha256:
            raise ModelError(
                f"the encoder was trained with face model {self.face_model!r} (sha256 {self.face_model_sha256[:12]}…), "
                f"but got {face_model.name!r} (sha256 {face_model.sha256[:12]}…): its coefficients mean other shapes"
            )


def _text(metadata: Mapping[str, str], key: str) -> str:
    if key not in metadata:
        raise ModelError(f"metadata {key!r} is missing")
    return metadata[key]


def _number(metadata: Mapping[str, str], key: str) -> float:
    text = _text(metadata, key)
    try:
        return float(text)
    except ValueError:
        raise ModelError(f"metadata {key!r} is {text!r}, not a number") from None


def _json(metadata: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(_text(metadata, key))
    except json.JSONDecodeError as error:
        raise ModelError(f"metadata {key!r} is not JSON: {error}") from None


def _layout(metadata: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    value = _json(metadata, "layout")
    try:
        layout = tuple((str(name), int(width)) for name, width in value)
    except (TypeError, ValueError):
        raise ModelError(f"metadata 'layout' is {value!r}, not a list of (group, width)") from None
    if tuple(name for name, _ in layout) != GROUPS:
        raise ModelError(f"metadata 'layout' has groups {[name for name, _ in layout]}, not {list(GROUPS)}")
    return layout


class Encoder:
    """An encoder ready to run. One may be shared by threads.

    Parameters
    ----------
    path : path, optional
        ONNX file that keeps the contract; None opens the default encoder of the wheel.
    providers : list of str or (str, dict), optional
        Execution providers as onnxruntime takes them. None takes CUDA where the installed onnxruntime has it, else the
        CPU.
    threads : int, optional
        Threads of onnxruntime's pool; None takes what the process may use.
    allow_fallback : bool
        Accept the CPU, with a warning, where CUDA was asked for and cannot be had.
    own_kernels : bool
        On the CPU, compute the blocks of an 8-bit encoder by kernels of this package where the processor has AVX-512
        with VNNI: the same numbers, sooner. False leaves everything to onnxruntime. `kernels` says what is in use.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ModelError
        It is no ONNX file, or does not keep the contract; the message says where.
    RuntimeError
        A provider was asked for and is not in use (and `allow_fallback` is false).
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        providers: Providers | None = None,
        threads: int | None = None,
        allow_fallback: bool = False,
        own_kernels: bool = True,
    ) -> None:
        self.path: Path = require_file(DEFAULT_ENCODER if path is None else path, "encoder")
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = check_threads(threads)
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Its threads would go on spinning after the network and take the processors from the native code: with render
        # ten faces then take a third longer.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.enable_mem_pattern = False  # would keep a plan for every size: 290 MB more after two of 1280 x 928
        wanted = _wanted_providers(providers, ort.get_available_providers())
        _check_available(wanted, ort.get_available_providers(), allow_fallback)
        if _provider_name(wanted[0]) == "CUDAExecutionProvider" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # finds the CUDA and cuDNN libraries that pip installed
        usable = [entry for entry in wanted if _provider_name(entry) in ort.get_available_providers()]
        on_cpu = _provider_name((usable or ["CPUExecutionProvider"])[0]) == "CPUExecutionProvider"
        registered = own_kernels and on_cpu and _native.has_quantized_kernels() and _register_kernels(options)
        content = self.path.read_bytes()
        try:
            self._session = ort.InferenceSession(content, options, providers=usable or ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own types, which differ between versions
            raise ModelError(f"{self.path}: onnxruntime cannot open it: {error}") from error
        self._frugal = ort.RunOptions()
        self._frugal.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self.sha256: str = hashlib.sha256(content).hexdigest()
        self.provider: str = self._session.get_providers()[0]
        """The provider really in use."""
        if usable and usable[0] is wanted[0]:
            _check_in_use(wanted[0], self.provider, explicit=providers is not None, allow_fallback=allow_fallback)
        try:
            metadata = self._session.get_modelmeta().custom_metadata_map
            self.contract = EncoderContract.from_metadata(metadata)
            self.kernels: str = "wm3dr" if registered and BLOCKS in metadata else "onnxruntime"
            """Who computes the blocks of an 8-bit encoder on the CPU: "wm3dr" or "onnxruntime"."""
            self._map = MAPS[self.contract.version]
            stored = "uint8" if self.contract.version == "3" else "float"
            _check_signature(self._session, {"image": stored}, {"heatmap": "float", self._map: stored})
            self._head = self._open_head() if self._map == "features" else None
        except ModelError as error:
            raise ModelError(f"{self.path}: {error}") from error

    def _open_head(self) -> Any:
        """Open the graph in the metadata that makes rows of features."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a few thousand products per face
        options.log_severity_level = 3
        try:
            content = base64.b64decode(_text(self._session.get_modelmeta().custom_metadata_map, "head"), validate=True)
            head = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except ModelError:
            raise
        except binascii.Error as error:
            raise ModelError(f"metadata 'head' is not base64: {error}") from error
        except Exception as error:  # onnxruntime raises its own types, which differ between versions
            raise ModelError(f"metadata 'head': onnxruntime cannot open it: {error}") from error
        stored = "uint8" if self.contract.version == "3" else "float"
        _check_signature(head, {"features": stored}, {"coefficients": "float"})
        return head

    def predict(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Run the network; `rows` makes coefficients of its second map.

        Parameters
        ----------
        pixels : (B, H, W, 3) uint8
            RGB; H and W multiples of 32.

        Returns
        -------
        heatmap : (B, 1, H/stride, W/stride) float32
            Probability that a face has its centre in the cell.
        maps : array
            What the coefficient row of each cell is made of, as the graph returns it (`MAPS`): (B, C or F, H/stride,
            W/stride) float32, or (B, H/stride, W/stride, F) uint8.

        Raises
        ------
        TypeError, ValueError
            `pixels` are not uint8, or not (B, H, W, 3) with sides that are multiples of 32.
        ModelError
            The network returned other shapes than its contract says.
        """
        if pixels.dtype != np.uint8:
            raise TypeError(f"'pixels' has dtype {pixels.dtype}, not uint8")
        if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.shape[1] % MULTIPLE or pixels.shape[2] % MULTIPLE:
            raise ValueError(
                f"'pixels' has shape {pixels.shape}, not (B, H, W, 3) with H and W multiples of {MULTIPLE}"
            )
        batch, height, width, _ = pixels.shape
        image = np.ascontiguousarray(pixels) if self.contract.version == "3" else float_image(pixels)
        frugal = batch * height * width > KEPT_PIXELS and self.provider == "CPUExecutionProvider"
        options = self._frugal if frugal else None
        heatmap, maps = self._session.run(["heatmap", self._map], {"image": image}, options)
        cells = (height // self.contract.stride, width // self.contract.stride)
        if self.contract.version == "3":
            wanted: tuple[tuple[int, ...], ...] = ((batch, 1, *cells), (batch, *cells, maps.shape[-1]))
        else:
            channels = self.contract.n_coefficients if self._head is None else maps.shape[1]
            wanted = ((batch, 1, *cells), (batch, channels, *cells))
        if (heatmap.shape, maps.shape) != wanted:
            raise ModelError(f"{self.path}: 'heatmap' {heatmap.shape} and {self._map!r} {maps.shape} are not {wanted}")
        return heatmap, maps

    def rows(self, maps: NDArray[Any], cells: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the coefficient rows (M, C) of M cells (CONVENTIONS.md §4).

        Parameters
        ----------
        maps : array
            One image's second map of `predict`, without the axis of the batch.
        cells : (M, 2) int32
            Row and column.

        Raises
        ------
        ValueError
            A cell lies outside the map.
        ModelError
            The head returned another shape than the contract says.
        """
        if self._head is None:
            return _native.gather_coefficients(maps, cells)
        gather = _native.gather_features if self.contract.version == "3" else _native.gather_coefficients
        features: NDArray[Any] = gather(maps, cells)
        wanted = (len(cells), self.contract.n_coefficients)
        if not len(cells):
            return np.zeros(wanted, np.float32)
        rows: NDArray[np.float32] = self._head.run(["coefficients"], {"features": features})[0]
        if rows.shape != wanted:
            raise ModelError(f"{self.path}: the head returned 'coefficients' {rows.shape}, not {wanted}")
        return rows


def float_image(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return pixels (B, H, W, 3) as contract versions 1 and 2 take them: (B, 3, H, W) float32, RGB 0-255."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)


def _register_kernels(options: Any) -> bool:
    """Give onnxruntime the kernels of this package; False, with a warning, where it does not take them."""
    try:
        options.register_custom_ops_library(_native.__file__)
    except Exception as error:  # onnxruntime raises its own types, which differ between versions
        message = f"onnxruntime does not take the kernels of wm3dr and uses its own, which are slower: {error}"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
        return False
    return True


def _check_signature(session: Any, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Raise ModelError unless the graph takes and returns these tensors (name -> element type)."""
    has = [
        {value.name: value.type.removeprefix("tensor(").removesuffix(")") for value in values}
        for values in (session.get_inputs(), session.get_outputs())
    ]
    if has != [dict(inputs), dict(outputs)]:
        raise ModelError(f"inputs {has[0]} and outputs {has[1]} are not {dict(inputs)} and {dict(outputs)}")


def installed_runtimes() -> dict[str, str]:
    """Return the installed distributions that hold the package `onnxruntime`, name -> version."""
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def runtime_conflict() -> str | None:
    """Return what is wrong and how to repair it where several onnxruntime distributions are installed, else None.

    They unpack into the same folder, and the one installed last hides the others (microsoft/onnxruntime#26996).
    """
    found = installed_runtimes()
    if len(found) < 2:
        return None
    return (
        f"{' and '.join(found)} are installed together and overwrite each other; keep one. "
        f"For CUDA: {CUDA_COMMAND}    For the CPU: {CPU_COMMAND}"
    )


def _provider_name(entry: str | tuple[str, Mapping[str, Any]]) -> str:
    return entry if isinstance(entry, str) else entry[0]


def _wanted_providers(providers: Providers | None, available: Sequence[str]) -> Providers:
    if providers is None:
        cuda = ["CUDAExecutionProvider"] if "CUDAExecutionProvider" in available else []
        return [*cuda, "CPUExecutionProvider"]
    if isinstance(providers, str) or not isinstance(providers, Sequence):
        raise TypeError(f"'providers' must be a list of provider names as onnxruntime takes them, not {providers!r}")
    if not providers:
        raise ValueError("'providers' is empty; None takes the default")
    return providers


def _check_available(wanted: Providers, available: Sequence[str], allow_fallback: bool) -> None:
    """Raise RuntimeError where the first provider is not in the installed onnxruntime; warn of a mixed installation."""
    conflict = runtime_conflict()
    first = _provider_name(wanted[0])
    if first in available:
        if conflict:
            warnings.warn(conflict, RuntimeWarning, stacklevel=4)
        return
    if conflict is None and first == "CUDAExecutionProvider":
        repair = f"install the CUDA build: {CUDA_COMMAND}"
    else:
        repair = conflict or "the installed onnxruntime does not have it"
    message = f"'providers' asks for {first}, but onnxruntime offers {list(available)}: {repair}"
    if not allow_fallback:
        raise RuntimeError(f"{message} (or pass allow_fallback=True)")
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def _check_in_use(
    first: str | tuple[str, Mapping[str, Any]], provider: str, *, explicit: bool, allow_fallback: bool
) -> None:
    """Raise RuntimeError (warn, where that is allowed) unless the first provider asked for is really in use."""
    name = _provider_name(first)
    if provider == name:
        return
    message = (
        f"{name} could not start (driver, CUDA or cuDNN libraries missing or of another version), "
        f"{provider} is in use; see `wm3dr doctor`"
    )
    if explicit and not allow_fallback:
        raise RuntimeError(f"{message}; pass allow_fallback=True to accept that")
    warnings.warn(message, RuntimeWarning, stacklevel=4)
