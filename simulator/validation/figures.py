"""Two small pictures of a validation: predicted against published, and where the errors lie."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from simulator.validation.rows import RowRecord
from simulator.validation.summary import RELATIVE, points, quantile

__all__ = ["error_plot", "scatter_plot"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222", "#BDBDBD")
"""Okabe & Ito: apart for colour-blind readers."""

MARKS = (-0.75, -0.25, 0.0, 0.25, 1.0, 3.0)
"""Errors that are written below the error plot."""

UNITS = {
    "training_step_time": "s", "training_memory": "B", "serving_tpot": "s", "serving_ttft": "s",
    "serving_throughput": "tokens/s", "serving_latency": "s",
}  # fmt: skip


NAMED = 4
"""Sources of a kind that the scatter names, those with most rows."""


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def scatter_plot(rows: Sequence[RowRecord], path: Path) -> bool:
    """Predicted over published, one panel per kind, log axes, lines at ±20 %; false if there is nothing to draw."""
    joined = [r for r in points(rows) if r.kind in UNITS and r.answered and r.predicted > 0 and r.published > 0]
    kinds = [k for k in UNITS if any(r.kind == k for r in joined)]
    if not kinds:
        return False
    columns = min(3, len(kinds))
    lines = -(-len(kinds) // columns)
    figure = _figure(3.1 * columns, 3.1 * lines)
    flat = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in flat[len(kinds) :]:
        axis.set_visible(False)
    for axis, kind in zip(flat, kinds, strict=False):
        mine = [r for r in joined if r.kind == kind]
        sources = [source for source, _ in Counter(sorted(r.source for r in mine)).most_common()]
        # The many first: a source of few rows lies on top.
        for index, source in enumerate(sources):
            dots = [r for r in mine if r.source == source]
            label = fill(source, 30) if index < NAMED else f"{len(sources) - NAMED} more" if index == NAMED else None
            axis.plot(
                [r.published for r in dots], [r.predicted for r in dots], ".", ms=3, alpha=0.6,
                color=COLOURS[min(index, NAMED)], label=label,
            )  # fmt: skip
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
    lines: list[tuple[str, str]] = []
    for kind in (k for k in RELATIVE if any(k == group[0] for group in groups)):
        lines += [(kind, ""), *sorted(group for group in groups if group[0] == kind)]
    figure = _figure(9.0, 0.19 * len(lines) + 0.8)
    axis = figure.add_subplot()
    for place, line in enumerate(lines):
        if line not in groups:
            continue
        errors = [_place(e) for e in groups[line]]
        colour = COLOURS[RELATIVE.index(line[0]) % len(COLOURS)]
        axis.plot([quantile(errors, 0.1), quantile(errors, 0.9)], [place, place], "-", color=colour, lw=2)
        axis.plot([quantile(errors, 0.5)], [place], "o", color=colour, ms=4)
    axis.axvline(0, color="#222222", lw=0.8)
    axis.set_xticks([_place(m) for m in MARKS], [f"{m:+.0%}" if m else "0%" for m in MARKS], fontsize=7)
    names = [f"{source} ({len(groups[kind, source])})" if source else kind.replace("_", " ") for kind, source in lines]
    for (_, source), label in zip(lines, axis.set_yticks(range(len(lines)), names, fontsize=7), strict=True):
        label.label1.set_fontweight("normal" if source else "bold")
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="0.92", lw=0.6)
    axis.set_axisbelow(True)
    axis.set_xlabel("error: median, and range of the middle 80 %; in brackets: rows", fontsize=8)
    axis.set_xlim(-1.2, 2.2)
    axis.set_ylim(len(lines) - 0.4, -0.6)
    figure.savefig(path, metadata={"Software": None})
    return True


def _place(error: float) -> float:
    """Place of a signed error: twice as far off is as far either way."""
    return math.copysign(math.log2(1 + abs(error)), error) if error > -1 else -1.0
