"""Power behind feeders over time: how full each is, and how far clocks had to fall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.errors import ConfigError
from simulator.plot.panels import below
from simulator.plot.source import definition, scale_of
from simulator.plot.style import SERIES, drawing, finish, ink_of, legend, titles
from simulator.results.tables import Result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["feeder_power"]

_MOST = 6
"""Feeders that are drawn, the fullest: more lines cannot be told apart."""


def feeder_power(result: Result | pd.DataFrame, workload: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw behind each feeder as share of its limit over time, and below it the lowest clock there.

    Parameters
    ----------
    result
        A result, or a frame of its table ``power``.
    workload
        Feeders that lowered clocks of this workload; by default the fullest ones.
    ax
        Is divided in two: the upper part is returned.

    Raises
    ------
    ConfigError
        If there are no feeders.
    """
    columns = _columns(result)
    if not len(columns.get("feeder", ())):
        raise ConfigError("the result has no feeders: a scenario has them with 'cluster.power.feeders'")
    names = _chosen(result, columns, workload)
    end = float(columns["until"].max())
    scale = scale_of("power", "time", end)
    with drawing(ax, 8.0, 4.6) as upper:
        lower = below(upper, "60%")
        lines = _lines(columns, names)
        for number, (label, x, share, clock) in enumerate(lines):
            colour = SERIES[number % len(SERIES)]
            wide = 1.3 + 0.8 * (len(lines) - 1 - number)  # so that a line below another one is still seen
            for axes, values in ((upper, share), (lower, clock)):
                axes.stairs(values, x * scale.factor, baseline=None, color=colour, linewidth=wide, label=label)
        upper.axhline(100.0, color=ink_of(upper), linewidth=1.0, linestyle=":")
        upper.set_ylabel("draw, % of limit")
        upper.set_ylim(max(0.0, min(90.0, upper.get_ylim()[0] - 5)), None)
        lower.set_ylabel("lowest clock, %")
        lower.set_ylim(min(95.0, *lower.get_ylim()) - 3, 102)
        lower.set_xlabel(scale.label)
        upper.tick_params(labelbottom=False)
        shown = np.isin(columns["feeder"], names)
        span = (columns["until"] - columns["time"])[shown]
        above, lowered = (
            float(span[found[shown]].sum() / span.sum())
            for found in (columns["power"] > columns["limit"] * (1 + 1e-9), columns["clock"] < 1)
        )
        titles(
            upper, f"clocks lowered {lowered:.0%} of the time, above the limit {above:.0%}",
            f"of the feeders shown; power: {definition('power', 'power')}; clock: {definition('power', 'clock')}",
        )  # fmt: skip
        for axes in (upper, lower):
            axes.set_xlim(0, end * scale.factor)
            finish(axes)
        legend(upper)
        return upper


def _lines(columns: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, Any, Any, Any]]:
    """Label, edges in time [s], draw and clock [%] of each line; feeders that never differ are one."""
    found: dict[bytes, tuple[str, Any, Any, Any]] = {}
    for name in names:
        mine = columns["feeder"] == name
        x = np.append(columns["time"][mine], columns["until"][mine][-1:])
        share, clock = 100 * columns["power"][mine] / columns["limit"][mine], 100 * columns["clock"][mine]
        key = np.concatenate([x, np.round(share, 9), clock]).astype(float).tobytes()
        label = f"{found[key][0]}, {name}" if key in found else name
        found[key] = (label, x, share, clock)
    return list(found.values())


def _columns(result: Result | pd.DataFrame) -> Mapping[str, Any]:
    if isinstance(result, Result):
        return {name: np.asarray(values) for name, values in result.tables.get("power", {}).items()}
    return {str(name): result[name].to_numpy() for name in result.columns}


def _chosen(result: Result | pd.DataFrame, columns: Mapping[str, Any], workload: str | None) -> list[str]:
    """The feeders to draw, in the order of the cluster."""
    names = list(dict.fromkeys(columns["feeder"].tolist()))
    wanted = names
    if workload is not None and isinstance(result, Result):
        wanted = [str(row["feeder"]) for row in result.rows("power_caps") if row["workload"] == workload]
        if not wanted:
            raise ConfigError(f"no feeder lowered the clocks of '{workload}'")
    full = {n: float((columns["power"] / columns["limit"])[columns["feeder"] == n].mean()) for n in wanted}
    first = sorted(full, key=lambda name: -full[name])[:_MOST]
    return [name for name in names if name in first]
