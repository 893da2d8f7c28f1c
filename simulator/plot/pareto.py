"""Throughput of a GPU against the speed that one user sees: the trade-off every deployment makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from simulator.errors import ConfigError
from simulator.plot.points import Points, Source, keeps_limits, number, points_of
from simulator.plot.style import MARKERS, OKABE_ITO, SERIES, drawing, finish, ink_of, legend, titles
from simulator.units import parse_quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["frontier", "pareto"]

_MOST_LABELS = 10


def pareto(
    source: Source, workload: str | None = None, ax: Axes | None = None, *, slo: Mapping[str, float] | None = None
) -> Axes:
    """Output tokens per second and GPU against tokens per second and user, with frontier and latency limit.

    A user's speed is 1/TPOT at the percentile of the limit (the median where there is none), so that the limit is a
    line. Points that fall behind their arrivals or break a limit are hollow; the frontier is that of the others.

    Parameters
    ----------
    source
        A sweep at depth ``run``, its frame, or a result (one point).
    slo
        ``tpot`` [s] and ``percentile``; those of the scenario by default.

    Raises
    ------
    ConfigError
        If no variant served anything.

    References
    ----------
    NVIDIA and SemiAnalysis (InferenceX) plot the same two axes and call them throughput and interactivity.
    """
    points = points_of(source, workload)
    limits = _limits(points.of_document("slo")) if slo is None else dict(slo)
    column = _column(limits)
    rows = points.with_figures("output_tokens_per_s_per_gpu", column)
    with drawing(ax, 7.5, 4.8) as axes:
        _draw(axes, points, rows, column)
        best = frontier([(*_place(r, column), r) for r in rows if keeps_limits(r)])
        if len(best) > 1:
            axes.plot(
                [x for x, _, _ in best], [y for _, y, _ in best], color=ink_of(axes), linewidth=1.2, zorder=1,
                label="frontier",
            )  # fmt: skip
        if limits.get("tpot"):
            axes.axvline(
                1 / limits["tpot"], color=OKABE_ITO["vermillion"], linestyle="--", linewidth=1.4,
                label=f"limit: TPOT {1e3 * limits['tpot']:g} ms",
            )  # fmt: skip
        axes.set_xlim(0, None)
        axes.set_ylim(0, 1.1 * axes.dataLim.y1)
        which = {"tpot_median": "median"}.get(column, column.removeprefix("tpot_"))
        axes.set_xlabel(f"tokens per second and user, 1 / TPOT {which} [token/s]")
        axes.set_ylabel("output tokens per second and GPU [token/s]")
        hollow = "; hollow: breaks a limit or falls behind" if not all(map(keeps_limits, rows)) else ""
        titles(axes, f"{points.workload}: throughput against speed", f"each mark is one variant{hollow}")
        legend(axes)
        finish(axes, "both")
        return axes


def frontier(points: Sequence[tuple[float, float, Any]]) -> list[tuple[float, float, Any]]:
    """The points (x, y, anything) that no other beats in both, by falling y.

    >>> [p[2] for p in frontier([(1, 5, "a"), (2, 4, "b"), (1.5, 3, "c"), (3, 4, "d")])]
    ['a', 'd']
    """
    kept: list[tuple[float, float, Any]] = []
    for point in sorted(points, key=lambda p: (-p[1], -p[0])):
        if not kept or point[0] > kept[-1][0]:
            kept.append(point)
    return kept


def _limits(document: Mapping[str, Any]) -> dict[str, float]:
    found = {"tpot": parse_quantity(document["tpot"], "time")} if document.get("tpot") else {}
    return found | ({"percentile": float(document.get("percentile", 90))} if found else {})


def _column(limits: Mapping[str, float]) -> str:
    """The quantile of TPOT that the limit is about; the nearest higher one that summaries have."""
    if not limits.get("tpot"):
        return "tpot_median"
    level = limits.get("percentile", 90.0)
    return "tpot_median" if level <= 50 else "tpot_p90" if level <= 90 else "tpot_p99"


def _place(row: Mapping[str, Any], column: str) -> tuple[float, float]:
    return 1 / number(row, column), number(row, "output_tokens_per_s_per_gpu")


def _draw(ax: Axes, points: Points, rows: Sequence[Mapping[str, Any]], column: str) -> None:
    if any(number(r, column) <= 0 for r in rows):
        raise ConfigError(f"'{points.workload}' generates single tokens only: there is no time per further token")
    for index, (label, mine) in enumerate(points.series(rows)):
        colour = SERIES[index % len(SERIES)]
        for keeps in (True, False):
            some = [_place(r, column) for r in mine if keeps_limits(r) is keeps]
            if some:
                ax.scatter(
                    [x for x, _ in some], [y for _, y in some], s=42,
                    marker=MARKERS[index % len(MARKERS)], linewidth=1.4, zorder=3,
                    facecolor=colour if keeps else "none", edgecolor=colour,
                    label=(label or points.workload) if keeps or not any(map(keeps_limits, mine)) else None,
                )  # fmt: skip
    _annotate(ax, points, rows, column)


def _annotate(ax: Axes, points: Points, rows: Sequence[Mapping[str, Any]], column: str) -> None:
    """What the legend does not say, beside each mark, as long as there are few."""
    varied = points.varied(rows)
    legend_axis = min(varied, key=lambda a: len({str(r.get(a)) for r in rows}), default=None)
    rest = [a for a in varied if a != legend_axis]
    if not rest or len(rows) > _MOST_LABELS:
        return
    for row in rows:
        ax.annotate(
            points.label(row, rest), _place(row, column), (6, 4), textcoords="offset points", fontsize=8,
            color=ink_of(ax), alpha=0.85,
        )  # fmt: skip
