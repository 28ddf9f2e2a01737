"""Table in Markdown, curves as PNG, predictions as npz, figures as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wm3dr_training.evaluate.data import Outcome, Row
from wm3dr_training.evaluate.metrics import cumulative_errors

LARGEST_ERROR = 10.0  # %: right end of the curves


def markdown_table(rows: list[Row]) -> str:
    """The rows as a Markdown table; a broken bound is in bold."""
    lines = ["| measure | value | must | aim | remarks |", "|---|---|---|---|---|"]
    for row in rows:
        unit = f" {row.unit}" if row.unit in ("%",) else row.unit
        value = f"{row.value:.3f}" if row.unit == "" and abs(row.value) < 1.5 else f"{row.value:.2f}"
        shown = f"{value}{unit}" if row.kept is not False else f"**{value}{unit}**"
        sign = "≥" if row.higher_is_better else "≤"
        bounds = ["" if bound is None else f"{sign} {bound:g}{unit}" for bound in (row.must, row.aim)]
        lines.append(f"| {row.measure} | {shown} | {bounds[0]} | {bounds[1]} | {row.note} |")
    return "\n".join(lines) + "\n"


def draw_curves(curves: dict[str, tuple[NDArray, int]], path: Path) -> None:
    """Cumulative error curves; missed photos count as errors beyond the right end."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), dpi=120)
    for name, (errors, count) in curves.items():
        bounds, share = cumulative_errors(errors, count, LARGEST_ERROR)
        mean = f"mean {np.mean(errors):.2f} %" if len(errors) else "none found"
        axes.plot(bounds, 100 * share, label=f"{name} ({mean}, {count} photos)")
    axes.set(xlabel="normalised mean error, %", ylabel="photos, %", xlim=(0, LARGEST_ERROR), ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def write_report(out: Path, title: str, outcomes: dict[str, Outcome], skipped: dict[str, str]) -> str:
    """Write `evaluation.md`, `evaluation.json`, `curves.png`, `predictions.npz` into a folder; returns the Markdown."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [row for outcome in outcomes.values() for row in outcome.rows]
    text = f"# {title}\n\n{markdown_table(rows)}"
    if skipped:
        text += "\nNot measured:\n" + "".join(f"- {name}: {reason}\n" for name, reason in skipped.items())
    (out / "evaluation.md").write_text(text)
    figures = [row.__dict__ | {"value": float(row.value)} for row in rows]
    (out / "evaluation.json").write_text(json.dumps({"title": title, "rows": figures, "skipped": skipped}, indent=1))
    arrays = {name: array for outcome in outcomes.values() for name, array in outcome.arrays.items()}
    np.savez_compressed(out / "predictions.npz", **arrays)
    curves = {name: curve for outcome in outcomes.values() for name, curve in outcome.curves.items()}
    if curves:
        draw_curves(curves, out / "curves.png")
    return text
