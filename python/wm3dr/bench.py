"""How fast wm3dr is here: milliseconds of a whole call against the number of faces (`wm3dr bench`).

The encoder runs in full on a photo of noise; then faces are planted into its heatmap, so that their number is known
without a photo of that many people. Everything after it (peaks, rows, decode, render) does the work of real faces.
"""

import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .api import Reconstructor
from .encoder import Encoder, Providers
from .face_model import FaceModel

if TYPE_CHECKING:
    from .result import Result

F32 = NDArray[np.float32]

COUNTS = (1, 2, 5, 10, 20, 50, 100)
"""Numbers of faces."""
STAGES = ("preprocess", "encode", "peaks", "decode", "render")
FILL = 0.8
"""Height of a planted face over the distance of two, up to `LARGEST`."""
LARGEST = 220.0
"""Greatest height of a planted face, network pixels: of the sizes that the network knows."""
CHART_COMMAND = "pip install 'wm3dr[bench]'"
_COLD_START = """
import sys, time
start = time.perf_counter()
import numpy, wm3dr
encoder, face_model, threads, size = sys.argv[1:]
model = wm3dr.Reconstructor(encoder, face_model, ["CPUExecutionProvider"], int(threads), int(size))
model.reconstruct(numpy.zeros((int(size), int(size), 3), numpy.uint8))
milliseconds = 1e3 * (time.perf_counter() - start)
try:  # not ru_maxrss, which on Linux begins with that of the parent
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) / 2**10 for line in status if line.startswith("VmHWM"))
except (OSError, StopIteration):
    try:
        import resource
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    except ImportError:
        peak = float("nan")
print(milliseconds, peak)
"""


class PlantedEncoder(Encoder):
    """An encoder whose network runs in full, and whose faces are then put where `plant` says.

    Parameters are those of `Encoder`.
    """

    def plant(self, face_model: FaceModel, faces: int, size: tuple[int, int]) -> None:
        """Put faces on a grid over network inputs of `size` (width, height), pixels.

        Raises
        ------
        ValueError
            So many faces would be less than three cells apart.
        """
        columns = math.ceil(math.sqrt(faces * size[0] / size[1])) if faces else 1
        rows = math.ceil(faces / columns) if faces else 1
        step = min(size[0] / columns, size[1] / rows)
        if step < 3 * self.contract.stride:
            raise ValueError(f"'faces' is {faces}: they would be {step:.0f} px apart in {size[0]} x {size[1]}")
        number = np.arange(faces)
        x, y = (number % columns + 0.5) * size[0] / columns, (number // columns + 0.5) * size[1] / rows
        self._cells = np.stack([y, x], 1).astype(np.int32) // self.contract.stride
        self._rows = planted_rows(self, face_model, faces, min(FILL * step, LARGEST))
        self._planted_size = size

    def predict(self, pixels: NDArray[np.uint8]) -> tuple[F32, NDArray[Any]]:
        """Run the network; the heatmap is 1 at the planted faces and 0 elsewhere, and in smaller inputs."""
        heatmap, maps = super().predict(pixels)
        heatmap = np.zeros_like(heatmap)
        width, height = self._planted_size
        if pixels.shape[1] >= height and pixels.shape[2] >= width:
            heatmap[0, 0, self._cells[:, 0], self._cells[:, 1]] = 1.0
        return heatmap, maps

    def rows(self, maps: NDArray[Any], cells: NDArray[np.int32]) -> F32:
        """Compute the network's rows at the cells, then return those of the planted faces nearest to them."""
        own = super().rows(maps, cells)
        if not len(cells):
            return own
        apart = cells[:, None] - self._cells  # (M, F, 2) rows and columns
        nearest = np.abs(apart).max(axis=2).argmin(axis=1)
        rows = self._rows[nearest]
        offsets = self.contract.slices()["translation"].start
        shifts = apart[np.arange(len(cells)), nearest, ::-1] * self.contract.stride
        rows[:, offsets : offsets + 2] -= shifts.astype(np.float32)
        return rows


def planted_rows(encoder: Encoder, face_model: FaceModel, faces: int, height_px: float) -> F32:
    """Return (F, C) coefficient rows of faces of some variety, each about `height_px` network pixels high."""
    rng = np.random.default_rng(0)
    rows = np.zeros((faces, encoder.contract.n_coefficients), np.float32)
    parts = encoder.contract.slices()
    for name, spread in (("identity", 0.7), ("albedo", 0.7), ("rotation", 0.2), ("illumination", 0.05)):
        rows[:, parts[name]] = rng.normal(0, spread, rows[:, parts[name]].shape)
    rows[:, parts["expression"]] = rng.uniform(0, 0.2, rows[:, parts["expression"]].shape)
    depth_mm = encoder.contract.focal * float(np.ptp(face_model.mean_shape[:, 1])) / height_px
    rows[:, parts["translation"]] = (0.0, 0.0, depth_mm / 100.0 - 10.0)
    return rows


@dataclass(frozen=True)
class Measurement:
    """Medians of a call for one number of faces, milliseconds."""

    faces: int
    plain: float
    """Whole call: landmarks, pose, boxes, coefficients."""
    rendered: float
    """Whole call with fitted colours and the raster."""
    stages: Mapping[str, float]
    """Parts of the call with render (`STAGES`)."""


def timed(call: Callable[[], "Result"], clock: Callable[[], float] = time.perf_counter) -> tuple[float, "Result"]:
    """Return the milliseconds of a call by a clock, and what it returned."""
    start = clock()
    result = call()
    return 1e3 * (clock() - start), result


def measure(
    encoder: str | os.PathLike[str] | None = None,
    face_model: FaceModel | str | os.PathLike[str] | None = None,
    *,
    counts: Sequence[int] = COUNTS,
    size: int = 512,
    repeats: int = 15,
    threads: int | None = None,
    providers: Providers | None = None,
    progress: Callable[[], None] = lambda: None,
) -> list[Measurement]:
    """Measure whole calls on a `size` x `size` photo, numbers of faces in turn so that a slow moment hits all.

    Parameters
    ----------
    encoder, face_model, threads, providers
        As for `Reconstructor`.
    counts : sequence of int
        Numbers of faces.
    repeats : int
        Calls per number of faces, with and without render; medians are returned.
    progress : callable
        Called after every round.

    Raises
    ------
    ValueError
        `size` or `repeats` is out of range, so many faces do not fit, or a face was lost.
    """
    if repeats < 1 or size < 32 or not counts:
        raise ValueError(f"'repeats' is {repeats} (>= 1), 'size' {size} (>= 32), 'counts' {list(counts)} (not empty)")
    face_model = face_model if isinstance(face_model, FaceModel) else FaceModel.load(face_model)
    planted = PlantedEncoder(encoder, providers=providers, threads=threads)
    model = Reconstructor(planted, face_model, threads=threads, max_side=size)
    photo = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    times: dict[tuple[int, bool], list[float]] = {(n, render): [] for n in counts for render in (False, True)}
    stages: dict[int, list[dict[str, float]]] = {n: [] for n in counts}
    for round_ in range(repeats + 1):
        for n in counts:
            planted.plant(face_model, n, (size, size))
            for render in (False, True):
                milliseconds, result = timed(lambda render=render: model.reconstruct(photo, render=render))  # type: ignore[misc]
                if len(result) != n:
                    raise ValueError(f"{len(result)} of {n} planted faces were found")
                if round_ == 0:
                    continue  # pools and pages warm up
                times[n, render].append(milliseconds)
                if render:
                    stages[n].append(dict(result.timings))
        progress()
    return [
        Measurement(
            n,
            float(np.median(times[n, False])),
            float(np.median(times[n, True])),
            {name: float(np.median([t[name] for t in stages[n]])) for name in STAGES},
        )
        for n in counts
    ]


def table(measurements: Sequence[Measurement]) -> str:
    """Return the measurements as a Markdown table."""
    lines = [
        "| faces | " + " | ".join(STAGES) + " | call | call with render |",
        "|---" * (len(STAGES) + 3) + "|",
    ]
    for m in measurements:
        cells = [f"{m.stages[name]:.2f}" for name in STAGES]
        lines.append(f"| {m.faces} | " + " | ".join(cells) + f" | {m.plain:.1f} | {m.rendered:.1f} |")
    return "\n".join(lines)


def cold_start(encoder: Path, face_model: Path, threads: int, size: int = 512) -> tuple[float, float]:
    """Return (milliseconds, MiB) of a new process on the CPU: from before the import to its first result, and the most
    memory it held.
    """
    arguments = [str(encoder), str(face_model), str(threads), str(size)]
    command = [sys.executable, "-c", _COLD_START, *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    milliseconds, peak = map(float, output.split())
    return milliseconds, peak


def machine() -> str:
    """Return processor, system and versions in one line."""
    import onnxruntime

    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, onnxruntime {onnxruntime.__version__}"
    return f"{processor}, {os.cpu_count()} CPUs, {platform.system()}; {versions}"


def draw_chart(curves: Mapping[str, Mapping[int, float]], path: Path, title: str) -> None:
    """Save milliseconds against the number of faces, both axes logarithmic.

    Parameters
    ----------
    curves : mapping
        Label -> {faces: milliseconds}.
    path : Path
        Picture; the suffix chooses the format (png, svg, pdf).

    Raises
    ------
    ImportError
        matplotlib is not installed; the message has the command that installs it.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(f"the chart needs matplotlib: {CHART_COMMAND}") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), dpi=150)
    for label, points in curves.items():
        counts = sorted(points)
        line = axes.plot(counts, [points[n] for n in counts], marker="o", markersize=4, linewidth=2, label=label)[0]
        last = counts[-1]
        offset: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
        axes.annotate(f"{points[last]:.0f}", (last, points[last]), color=line.get_color(), **offset)
    every = sorted({n for points in curves.values() for n in points})
    axes.set_xscale("log")
    axes.margins(x=0.08)
    axes.set_yscale("log")
    axes.set_xticks(every, [str(n) for n in every])
    axes.minorticks_off()
    low = min(min(points.values()) for points in curves.values())
    high = max(max(points.values()) for points in curves.values())
    steps = [s * 10.0**e for e in range(-1, 6) for s in (1, 2, 5)]
    ticks = [t for t in steps if low / 2 <= t <= 2 * high]
    axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_xlabel("faces in the photo")
    axes.set_ylabel("milliseconds per photo")
    axes.set_title(title, fontsize=10)
    axes.grid(True, alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
