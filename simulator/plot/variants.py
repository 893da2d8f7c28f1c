"""The variants of a sweep beside one another: what each takes and needs, in the order they were asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from simulator.errors import ConfigError
from simulator.plot.panels import beside
from simulator.plot.points import Points, Source, keeps_limits, number, points_of, works
from simulator.plot.source import Scale, definition, scale_of
from simulator.plot.style import OKABE_ITO, drawing, finish, ink_of, titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["variant_bars"]

_MOST = 24

_FIRST = {
    "training": ("seconds", "memory_peak", "effective_time_ratio", "mfu"),
    "serving": ("ttft_p90", "tpot_p90", "slo_goodput", "output_tokens_per_s_per_gpu", "seconds"),
    "jobs": ("wait_mean", "completion_mean", "fragmentation"),
    "functions": ("e2e_p90", "cold_start_rate", "fairness"),
}
"""Figures of merit by kind of workload; the first three that tell those that fit apart, as written, are drawn."""

_CEILING = {"memory_peak": "memory_capacity"}
"""What a figure must stay below, where another column says so."""

_WORDS = {
    "seconds": "time of one iteration", "slo_goodput": "SLO goodput", "mfu": "MFU", "ttft_p90": "TTFT p90",
    "tpot_p90": "TPOT p90", "e2e_p90": "response p90",
}  # fmt: skip
_PLAIN = ("seconds", "mfu")
"""Figures that need no definition below the title."""


def variant_bars(
    source: Source, workload: str | None = None, ax: Axes | None = None, *, metrics: Sequence[str] = ()
) -> Axes:
    """Figures of merit of every variant as bars, one panel each; a variant that does not work keeps its place.

    Whiskers are the central 80 % where a figure has an interval. Fits axes of every kind, words above all, where the
    other figures of a sweep have nothing to go along.

    Parameters
    ----------
    source
        A sweep or its frame.
    ax
        Is divided into the panels: the first is returned.
    metrics
        Columns of the table ``summary``; by default what matters first to the kind of workload.

    Raises
    ------
    ConfigError
        If there are fewer than two variants, none has such a figure, or all have the same.
    """
    points = points_of(source, workload)
    if len(points.rows) < 2:
        raise ConfigError(f"'{points.workload}' has one variant: sweep over a key, e.g. -s '...recompute=none,full'")
    columns = _columns(points, metrics)
    shown = points.rows[:_MOST]
    labels = [points.label(row) or str(row.get("point", place)) for place, row in enumerate(shown)]
    width = min(13.0, 3.2 + 2.6 * len(columns) + 0.06 * max(map(len, labels)))
    with drawing(ax, width, 1.6 + 0.42 * len(shown)) as first:
        panels = [first, *beside(first, len(columns) - 1)]
        for axes, column in zip(panels, columns, strict=True):
            _panel(axes, shown, column)
            axes.set_ylim(len(shown) - 0.4, -0.6)
            axes.tick_params(labelleft=axes is first)
            finish(axes, "x")
        first.set_yticks(range(len(shown)), labels)
        titles(first, f"{points.workload}: the variants side by side", "; ".join(_notes(points, shown, columns)))
        return first


def _columns(points: Points, metrics: Sequence[str]) -> list[str]:
    kind = str(next((row["kind"] for row in points.rows if row.get("kind")), "training"))
    wanted = metrics or _FIRST.get(kind, _FIRST["training"])
    found = [c for c in wanted if any(math.isfinite(number(r, c)) for r in points.rows)]
    if not found:
        raise ConfigError(f"no variant of '{points.workload}' has {' or '.join(c.replace('_', ' ') for c in wanted)}")
    if metrics:
        return found
    telling = [c for c in found if len({f"{number(r, c):.3g}" for r in points.rows if works(r)}) > 1]
    telling = telling or [c for c in found if len({repr(number(r, c)) for r in points.rows}) > 1]
    if not telling:
        raise ConfigError(f"the variants of '{points.workload}' do not differ: the sweep changes nothing of it")
    return telling[:3]


def _notes(points: Points, shown: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    yield from (f"{_name(c, shown)}: {definition('summary', c)}" for c in columns if c not in _PLAIN)
    if any(math.isfinite(number(row, f"{c}_high")) for c in columns for row in shown):
        yield "whiskers: central 80 %"
    if any(math.isfinite(number(row, _CEILING.get(c, ""))) for c in columns for row in shown):
        yield "dashed: what the device has"
    if not all(map(_sound, shown)):
        yield "hatched: does not fit, breaks a limit or falls behind"
    if len(points.rows) > len(shown):
        yield f"{len(points.rows) - len(shown)} more are left out"


def _sound(row: Mapping[str, Any]) -> bool:
    return works(row) and keeps_limits(row)


def _name(column: str, rows: Sequence[Mapping[str, Any]]) -> str:
    if column == "seconds" and any(row.get("kind") == "training" for row in rows):
        return "time of one step"
    return _WORDS.get(column, column.replace("_", " "))


def _panel(axes: Axes, rows: Sequence[Mapping[str, Any]], column: str) -> None:
    """Bars of one figure, each with its number at its end."""
    known = [number(row, f"{column}{end}") for row in rows for end in ("", "_high")]
    limits = {number(row, _CEILING.get(column, "")) for row in rows}
    most = max(v for v in (*known, *limits) if math.isfinite(v))
    scale = scale_of("summary", column, most)
    for place, row in enumerate(rows):
        value, low, high = (number(row, f"{column}{end}") * scale.factor for end in ("", "_low", "_high"))
        if not math.isfinite(value):
            said = "not known" if works(row) else "not valid" if row.get("status") == "error" else "does not fit"
            _write(axes, said, 0.0, place)
            continue
        bar = axes.barh(place, value, 0.62, color=OKABE_ITO["blue"])[0]
        if not _sound(row):
            bar.set(hatch="////", edgecolor="white", linewidth=0)
        if math.isfinite(low) and math.isfinite(high):
            reach = [[max(0.0, value - low)], [max(0.0, high - value)]]
            axes.errorbar(value, place, xerr=reach, color=ink_of(axes), capsize=3, linewidth=1)
        end = max(v for v in (value, high) if math.isfinite(v))
        line = number(row, _CEILING.get(column, "")) * scale.factor
        crossed = end <= line < end + 0.2 * most * scale.factor
        _write(axes, f"{value:.3g}", max(end, line) if crossed else end, place)
    _ceiling(axes, limits, scale)
    axes.set_xlim(0, 1.25 * most * scale.factor or 1)
    name = _name(column, rows)
    axes.set_xlabel(f"{name} [{scale.unit}]" if scale.unit else name)


def _write(axes: Axes, text: str, end: float, place: int) -> None:
    """A word or number behind the end of a bar, on a ground of its own."""
    written = axes.annotate(
        text, (end, place), (5, 0), textcoords="offset points", va="center", fontsize=8.5, color=ink_of(axes), zorder=4
    )
    written.set_bbox({"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 1})


def _ceiling(axes: Axes, limits: set[float], scale: Scale) -> None:
    """A line at what all bars must stay below, where it is the same for all."""
    finite = {limit for limit in limits if math.isfinite(limit)}
    if len(finite) == 1:
        axes.axvline(finite.pop() * scale.factor, color=OKABE_ITO["vermillion"], linestyle="--", linewidth=1.4)
