"""How well a job uses more accelerators."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from simulator.errors import ConfigError
from simulator.plot.points import Points, Source, number, points_of, works
from simulator.plot.source import definition
from simulator.plot.style import MARKERS, SERIES, drawing, finish, ink_of, legend, titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["mfu_against_scale"]


def mfu_against_scale(
    source: Source, workload: str | None = None, ax: Axes | None = None, *, metric: str = "mfu"
) -> Axes:
    """Model FLOPs utilisation against the number of accelerators; crosses at the foot are plans that do not work.

    Parameters
    ----------
    source
        A sweep over sizes or its frame.
    metric
        ``mfu``, ``mfu_causal`` or ``hfu``.

    Raises
    ------
    ConfigError
        If no variant has such a figure, or all have one size.
    """
    points = points_of(source, workload)
    if metric not in ("mfu", "mfu_causal", "hfu"):
        raise ConfigError(f"'{metric}' is no utilisation: use mfu, mfu_causal or hfu")
    rows = points.with_figures(metric, "accelerators")
    along = [a for a in points.axes if _moves_size(points, a)]
    sizes = {number(r, "accelerators") for r in rows}
    if len(sizes) < 2:
        only = f"{sizes.pop():,.0f} accelerators"
        raise ConfigError(f"'{points.workload}' was run on {only} alone: there is no scale; use variant_bars")
    with drawing(ax, 7.5, 4.4) as axes:
        for index, (label, mine) in enumerate(points.series(rows, along or points.axes[:1])):
            best: dict[float, float] = {}
            for row in mine:
                size = number(row, "accelerators")
                best[size] = max(best.get(size, 0.0), 100 * number(row, metric))
            axes.plot(
                *zip(*sorted(best.items()), strict=True), color=SERIES[index % len(SERIES)], linewidth=1.6,
                marker=MARKERS[index % len(MARKERS)], markersize=6, label=label or points.workload,
            )  # fmt: skip
        failed = {number(r, "accelerators") for r in points.rows if not works(r)}
        failed = {size for size in failed if math.isfinite(size) and size > 0}
        if failed:
            axes.plot(
                sorted(failed), [0.02] * len(failed), "x", color=ink_of(axes), markersize=7, label="does not fit",
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
        _sizes(axes, sorted({number(r, "accelerators") for r in rows} | failed))
        axes.set_ylim(0, None)
        axes.set_ylabel(f"{metric.replace('_', ' ').upper() if metric != 'mfu_causal' else 'causal MFU'} [%]")
        titles(axes, f"{points.workload}: utilisation against scale", definition("summary", metric))
        legend(axes)
        finish(axes, "both")
        return axes


def _moves_size(points: Points, axis: str) -> bool:
    """Whether some variants that differ in this axis alone differ in size."""
    others = [a for a in points.axes if a != axis]
    sizes: dict[str, set[Any]] = {}
    for row in points.rows:
        sizes.setdefault(str([row.get(a) for a in others]), set()).add(_size(row))
    return any(len(found - {None}) > 1 for found in sizes.values())


def _size(row: Mapping[str, Any]) -> float | None:
    size = number(row, "accelerators")
    return size if math.isfinite(size) else None


def _sizes(ax: Axes, sizes: list[float]) -> None:
    """The sizes themselves as ticks, on a logarithmic axis when they span more than a factor of four."""
    ax.set_xlabel("accelerators")
    if sizes[-1] > 4 * sizes[0]:
        ax.set_xscale("log", base=2)
    if len(sizes) <= 12:
        ax.set_xticks(sizes, [f"{s:,.0f}" for s in sizes])
    ax.minorticks_off()
