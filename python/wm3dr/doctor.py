"""What is installed, which model files are there, and what is wrong with them."""

import hashlib
import importlib.metadata
import platform
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from ._native import ModelError
from .encoder import CUDA_COMMAND, Encoder, installed_runtimes, runtime_conflict
from .face_model import FaceModel
from .files import CHECKSUMS, DEFAULT_ENCODER, DEFAULT_FACE_MODEL
from .threads import usable_threads

CUDA = "CUDAExecutionProvider"
PACKAGES = ("wm3dr", "numpy", "pillow", "safetensors", "trimesh")
REINSTALL = "git checkout models && pip install --force-reinstall --no-deps .  (in a clone of the repository)"


@dataclass(frozen=True)
class Problem:
    """Something wrong."""

    what: str
    """In words."""
    repair: str
    """The command, or what to do."""


@dataclass(frozen=True)
class Report:
    """What `wm3dr doctor` prints."""

    sections: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Title -> (name, value) rows."""
    problems: list[Problem] = field(default_factory=list)
    """Empty where nothing is wrong."""


def examine() -> Report:
    """Look at versions, execution providers, model files and their checksums, and open the default models."""
    report = Report()
    report.sections["versions"] = [
        ("python", f"{platform.python_version()} ({sys.executable})"),
        ("platform", platform.platform()),
        *((name, importlib.metadata.version(name)) for name in PACKAGES),
        *installed_runtimes().items(),
    ]
    report.sections["threads"] = [("usable", str(usable_threads()))]
    _examine_runtime(report)
    _examine_models(report)
    return report


def _examine_runtime(report: Report) -> None:
    rows = report.sections["onnxruntime"] = []
    conflict = runtime_conflict()
    if conflict:
        what, _, repair = conflict.partition("; keep one. ")
        report.problems.append(Problem(what, repair))
    try:
        import onnxruntime as ort

        rows.append(("providers", ", ".join(ort.get_available_providers())))
    except (ImportError, AttributeError) as error:
        report.problems.append(Problem(f"onnxruntime cannot be imported: {error}", "pip install onnxruntime"))
        return
    if conflict is None and "onnxruntime-gpu" in installed_runtimes() and CUDA not in ort.get_available_providers():
        report.problems.append(Problem("onnxruntime-gpu is installed, but does not offer CUDA", CUDA_COMMAND))


def _examine_models(report: Report) -> None:
    rows = report.sections["models"] = [("folder", str(DEFAULT_ENCODER.parent))]
    expected = read_checksums(CHECKSUMS)
    if not expected:
        report.problems.append(Problem(f"{CHECKSUMS} is missing or empty", REINSTALL))
    for path in (DEFAULT_FACE_MODEL, DEFAULT_ENCODER):
        if not path.is_file():
            report.problems.append(Problem(f"{path} is missing", REINSTALL))
            continue
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        good = expected.get(path.name) == sha256
        size = f"{path.stat().st_size / 1e6:.1f} MB"
        rows.append((path.name, f"{size}, sha256 {sha256[:16]}… {'as released' if good else 'NOT as released'}"))
        if expected and not good:
            report.problems.append(Problem(f"{path} is not the released file (checksum differs)", REINSTALL))
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            face_model, encoder = FaceModel.load(), Encoder(threads=1)
        encoder.contract.check_face_model(face_model)
    except FileNotFoundError:
        return  # said above
    except (ModelError, RuntimeError, ImportError) as error:
        report.problems.append(Problem(str(error), REINSTALL))
        return
    if any(CUDA in str(warning.message) for warning in caught):
        report.problems.append(
            Problem(f"{CUDA} is installed but does not start", f"an NVIDIA driver (see nvidia-smi), and {CUDA_COMMAND}")
        )
    rows.append(("provider in use", encoder.provider))
    rows.append(("kernels of the encoder", encoder.kernels))
    rows.append(("face model", f"{face_model.name}: {face_model.n_vertices} vertices, {face_model.widths}"))
    rows.append(("encoder", f"{encoder.contract.licence}; threshold {encoder.contract.peak_threshold:g}"))


def read_checksums(path: Path) -> dict[str, str]:
    """Read a `sha256sum` list: file name -> SHA-256; empty where there is no such file."""
    if not path.is_file():
        return {}
    rows = (line.split(maxsplit=1) for line in path.read_text().splitlines() if line.strip())
    return {name.strip().lstrip("*"): sha256 for sha256, name in rows}
