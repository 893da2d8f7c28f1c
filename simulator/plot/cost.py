"""What a token and what owning costs, with the range of the prices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simulator.errors import ConfigError
from simulator.plot.points import Source, keeps_limits, number, points_of
from simulator.plot.source import definition
from simulator.plot.style import SERIES, drawing, finish, ink_of, legend, titles
from simulator.results.tables import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["cost_bars", "tco_bars"]

_MOST = 24


@dataclass(frozen=True)
class _Money:
    """What a bar is long: a column of the summary, with ``_low`` and ``_high`` beside it."""

    column: str
    title: str
    axis: str
    unit: float = 1.0


_TOKEN = _Money("usd_per_million_tokens", "what a token costs", "USD per million tokens [USD]")
_OWNING = _Money("tco_36_months", "what 36 months cost", "total cost of ownership over 36 months [million USD]", 1e6)


def cost_bars(source: Source, workload: str | None = None, ax: Axes | None = None) -> Axes:
    """Dollars per million tokens: what is bought in one result, or the variants of a sweep, cheapest first.

    Whiskers are the low and high end of the published prices.

    Parameters
    ----------
    source
        A result, a sweep or its frame.

    Raises
    ------
    ConfigError
        If nothing has a price.
    """
    return _bars(source, workload, ax, _TOKEN)


def tco_bars(source: Source, workload: str | None = None, ax: Axes | None = None) -> Axes:
    """Total cost of ownership [million USD] of 36 months at the rate of the run, by item or by variant.

    Rent, or depreciation of machines and network, maintenance, hosting and electricity. Arguments and errors are those
    of :func:`cost_bars`.
    """
    return _bars(source, workload, ax, _OWNING)


def _bars(source: Source, workload: str | None, ax: Axes | None, money: _Money) -> Axes:
    """Bars of one kind of money."""
    points = points_of(source, workload)
    rows = points.with_figures(money.column)
    rows = sorted(rows, key=lambda r: number(r, money.column))
    shown = rows[:_MOST]
    parts = _items(source, points.workload) if isinstance(source, Result) else {}
    kept = set(map(id, shown))  # in the order of the sweep, so that its other figures have the same colours
    series = points.series([r for r in points.rows if id(r) in kept])
    colours = {id(r): (i, label) for i, (label, mine) in enumerate(series) for r in mine}
    labels = [points.label(r) or points.workload for r in shown]
    width = min(11.0, 6.5 + 0.06 * max(map(len, labels)))
    with drawing(ax, width, 1.5 + 0.42 * max(2, len(shown))) as axes:
        most = max(max(number(r, f"{money.column}{e}") for e in ("", "_high")) for r in shown) / money.unit
        drawn: dict[str, Any] = {}
        for place, row in enumerate(shown):
            index, label = colours[id(row)]
            for item, bar in _bar(axes, place, row, parts or {label: 1.0}, index, money).items():
                drawn.setdefault(item, bar)
        axes.set_yticks(range(len(shown)), labels)
        axes.set_ylim(max(len(shown), 2) - 0.4, -0.6)
        axes.set_xlim(0, 1.12 * most)
        axes.set_xlabel(money.axis)
        rest = f"; {len(rows) - len(shown)} dearer ones are left out" if len(rows) > len(shown) else ""
        what = definition("summary", money.column)
        broken = "; hatched: breaks a limit or falls behind" if not all(map(keeps_limits, shown)) else ""
        titles(axes, f"{points.workload}: {money.title}", f"{what}; whiskers: range of the prices{broken}{rest}")
        if list(drawn) != [""]:
            legend(axes, handles=list(drawn.values()), labels=list(drawn))
        finish(axes, "x")
        return axes


def _bar(
    axes: Axes, place: int, row: Mapping[str, Any], parts: Mapping[str, float], colour: int, money: _Money
) -> dict[str, Any]:
    """One bar of its parts with the range of its prices; what was drawn, by part."""
    value, low, high = (number(row, f"{money.column}{end}") / money.unit for end in ("", "_low", "_high"))
    left, drawn = 0.0, {}
    for shade, (item, share) in enumerate(parts.items(), start=colour):
        bar = axes.barh(place, share * value, 0.62, left, color=SERIES[shade % len(SERIES)])
        if not keeps_limits(row):
            bar[0].set(hatch="////", edgecolor="white", linewidth=0)
        drawn[item] = bar[0]
        left += share * value
    if math.isfinite(low) and math.isfinite(high):
        axes.errorbar(
            value, place, xerr=[[max(0.0, value - low)], [max(0.0, high - value)]], color=ink_of(axes), capsize=3,
            linewidth=1,
        )  # fmt: skip
    end = max(v for v in (value, high) if math.isfinite(v))
    axes.annotate(
        f"{value:.3g}", (end, place), (6, 0), textcoords="offset points", va="center", fontsize=8.5,
        color=ink_of(axes),
    )  # fmt: skip
    return drawn


def _items(result: Result, workload: str) -> Mapping[str, Any]:
    """Share of the cost by item."""
    rows = [r for r in result.rows("costs") if r["workload"] == workload and r["usd"] > 0]
    total = sum(r["usd"] for r in rows)
    if not total:
        raise ConfigError(f"nothing that '{workload}' uses has a price")
    shares: dict[str, float] = {}
    for row in rows:  # engines of one deployment have the same items each
        shares[str(row["item"])] = shares.get(str(row["item"]), 0.0) + row["usd"] / total
    return shares
