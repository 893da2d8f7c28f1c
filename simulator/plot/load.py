"""How a deployment takes more load: goodput and attainment of its limits against the rate per GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from simulator.errors import ConfigError
from simulator.plot.panels import below
from simulator.plot.points import Points, Source, number, points_of
from simulator.plot.source import definition
from simulator.plot.style import MARKERS, OKABE_ITO, SERIES, drawing, finish, legend, titles
from simulator.units import UnitError, parse_quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["goodput_against_rate"]

_RATE = "requests.rate"


def goodput_against_rate(source: Source, workload: str | None = None, ax: Axes | None = None) -> Axes:
    """Requests that keep every limit, per second and GPU, against all that arrive; below it their share.

    On the dotted diagonal every request keeps its limits. The largest rate whose share still reaches the percentile of
    the scenario is what DistServe (arXiv 2401.09670) calls the goodput of a deployment; it is marked by a line.

    Parameters
    ----------
    source
        A sweep over ``requests.rate`` at depth ``run``, or its frame.
    ax
        Is divided in two: the upper part is returned, the lower one is its neighbour on the same axis.

    Raises
    ------
    ConfigError
        If fewer than two rates were run, or the workload has no limits.
    """
    points = points_of(source, workload)
    rows = points.with_figures("slo_goodput", "slo_attainment", "accelerators")
    along = [a for a in points.axes if a.endswith(_RATE)]
    if len({_rate(r, along) for r in rows}) < 2:
        raise ConfigError(f"'{points.workload}' was run at one rate: sweep requests.rate, e.g. -s '...rate=5 /s,10 /s'")
    level = float(points.of_document("slo").get("percentile", 90.0)) / 100
    with drawing(ax, 7.5, 5.2) as upper:
        lower = below(upper, "75%")
        most = 0.0
        for index, (label, mine) in enumerate(points.series(rows, along)):
            mine = sorted(mine, key=lambda r: _rate(r, along))
            style: dict[str, Any] = {
                "color": SERIES[index % len(SERIES)], "marker": MARKERS[index % len(MARKERS)], "markersize": 5,
                "linewidth": 1.6,
            }  # fmt: skip
            x = [_rate(r, along) for r in mine]
            most = max(most, *x)
            name = label or points.workload
            upper.plot(x, [number(r, "slo_goodput") / number(r, "accelerators") for r in mine], label=name, **style)
            lower.plot(x, [100 * number(r, "slo_attainment") for r in mine], **style)
            last = _last(mine, along, level)
            if 0 < last < max(x):
                lower.axvline(last, color=style["color"], linestyle="--", linewidth=1)
        upper.plot([0, most], [0, most], ":", color=OKABE_ITO["grey"], linewidth=1.4, label="all keep their limits")
        lower.axhline(100 * level, color=OKABE_ITO["vermillion"], linestyle=":", linewidth=1.2)
        _finish(upper, lower, points, level, most)
        return upper


def _rate(row: Mapping[str, Any], along: Sequence[str]) -> float:
    """What was asked for, per accelerator [1/s]; what arrived where the rate is not an axis."""
    size = number(row, "accelerators")
    for axis in along:
        try:
            return parse_quantity(row[axis], "rate") / size
        except UnitError:
            return math.nan
    return number(row, "arrival_rate") / size


def _last(rows: Sequence[Mapping[str, Any]], along: Sequence[str], level: float) -> float:
    """The rate per GPU at which the attainment falls through the level, between two points linearly; 0 if never met,
    the last one if it never falls."""
    before: tuple[float, float] | None = None
    for row in rows:
        x, share = _rate(row, along), number(row, "slo_attainment")
        if share < level:
            if before is None:
                return 0.0
            return before[0] + (x - before[0]) * (before[1] - level) / (before[1] - share)
        before = (x, share)
    return before[0] if before else 0.0


def _finish(upper: Axes, lower: Axes, points: Points, level: float, most: float) -> None:
    upper.set_ylabel("SLO goodput per GPU\n[requests/s]")
    lower.set_ylabel("SLO attainment [%]")
    lower.set_xlabel("request rate per GPU [requests/s]")
    lower.annotate(
        f"{100 * level:g} %", (1, 100 * level), (3, 0), xycoords=("axes fraction", "data"), va="center",
        textcoords="offset points", fontsize=8.5, color=OKABE_ITO["vermillion"],
    )  # fmt: skip
    upper.tick_params(labelbottom=False)
    upper.set_ylim(0, None)
    lower.set_ylim(0, 103)
    legend(upper)
    for axes in (upper, lower):
        axes.set_xlim(0, 1.02 * most)
        finish(axes, "both")
    titles(
        upper, f"{points.workload}: goodput under load",
        f"SLO attainment: {definition('summary', 'slo_attainment')}; dashed: the rate at which it falls through "
        f"{100 * level:g} %",
    )  # fmt: skip
