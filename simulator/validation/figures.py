"""Two small pictures of a validation: predicted against published, and where the errors lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simulator.validation.rows import RowRecord
from simulator.validation.summary import RELATIVE, points, quantile

__all__ = ["error_plot", "scatter_plot"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222", "#BDBDBD")
"""Okabe & Ito: apart for colour-blind readers."""

UNITS = {
    "training_step_time": "s", "training_memory": "B", "serving_tpot": "s", "serving_ttft": "s",
    "serving_throughput": "tokens/s", "serving_latency": "s",
}  # fmt: skip


def _figure(columns: int, rows: int, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.7 * columns, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def scatter_plot(rows: Sequence[RowRecord], path: Path) -> bool:
    """Predicted over published, one panel per kind, log axes, lines at ±20 %; false if there is nothing to draw."""
    joined = [r for r in points(rows) if r.kind in UNITS and r.answered and r.predicted > 0 and r.published > 0]
    kinds = [k for k in UNITS if any(r.kind == k for r in joined)]
    if not kinds:
        return False
    columns = min(3, len(kinds))
    figure, axes = _figure(columns, -(-len(kinds) // columns), 2.8 * -(-len(kinds) // columns))
    flat = [a for line in axes for a in line]
    for axis in flat[len(kinds) :]:
        axis.set_visible(False)
    for axis, kind in zip(flat, kinds, strict=False):
        mine = [r for r in joined if r.kind == kind]
        sources = sorted({r.source for r in mine}, key=lambda s: -sum(r.source == s for r in mine))
        for index, source in enumerate(sources):
            dots = [r for r in mine if r.source == source]
            label = source[:24] if index < 4 else None
            colour = COLOURS[min(index, len(COLOURS) - 1)]
            axis.plot(
                [r.published for r in dots],
                [r.predicted for r in dots],
                ".",
                ms=3,
                alpha=0.6,
                color=colour,
                label=label,
            )
        ends = [min(min(r.published, r.predicted) for r in mine), max(max(r.published, r.predicted) for r in mine)]
        for factor, style in ((1.0, "-"), (0.8, ":"), (1.25, ":")):
            axis.plot(ends, [e * factor for e in ends], style, color="#222222", lw=0.8)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(kind.replace("_", " "), fontsize=9)
        axis.set_xlabel(f"published [{UNITS[kind]}]", fontsize=8)
        axis.set_ylabel(f"predicted [{UNITS[kind]}]", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=6, frameon=False, markerscale=2)
    figure.savefig(path, metadata={"Software": None})
    return True


def error_plot(rows: Sequence[RowRecord], path: Path) -> bool:
    """Median (dot) and 10-90 % range (bar) of the signed error by kind and source; false if there is nothing to
    draw."""
    groups: dict[tuple[str, str], list[float]] = {}
    for row in points(rows):
        if row.kind in RELATIVE and row.answered:
            groups.setdefault((row.kind, row.source), []).append(row.error)
    if not groups:
        return False
    order = sorted(groups, key=lambda g: (RELATIVE.index(g[0]), g[1]))
    figure, axes = _figure(3, 1, 0.19 * len(order) + 0.8)
    axes[0][0].set_visible(False)
    figure.clear()
    axis = figure.add_subplot()
    for place, group in enumerate(reversed(order)):
        errors = [math.copysign(math.log2(1 + abs(e)), e) if e > -1 else -1.0 for e in groups[group]]
        colour = COLOURS[RELATIVE.index(group[0]) % len(COLOURS)]
        axis.plot([quantile(errors, 0.1), quantile(errors, 0.9)], [place, place], "-", color=colour, lw=2)
        axis.plot([quantile(errors, 0.5)], [place], "o", color=colour, ms=4)
    axis.axvline(0, color="#222222", lw=0.8)
    marks = (-0.75, -0.25, 0, 0.25, 1.0, 3.0)
    axis.set_xticks([math.copysign(math.log2(1 + abs(m)), m) for m in marks], [f"{m:+.0%}" for m in marks], fontsize=7)
    axis.set_yticks(
        range(len(order)),
        [f"{k.replace('_', ' ')} · {s[:34]} ({len(groups[k, s])})" for k, s in reversed(order)],
        fontsize=7,
    )
    axis.set_xlabel("error: median, and range of the middle 80 %", fontsize=8)
    axis.set_xlim(-1.2, 2.2)
    figure.savefig(path, metadata={"Software": None})
    return True
