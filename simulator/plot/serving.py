"""A served deployment: latencies against their limits, queue and cache over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError
from simulator.plot.panels import below
from simulator.plot.source import columns_of, definition, document_of, scale_of, workload_of
from simulator.plot.style import colour_of, drawing, finish, ink_of, legend, titles
from simulator.results.tables import Result
from simulator.units import parse_quantity

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["latency_cdf", "queue_and_kv"]

METRICS = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}

_SHARES = np.concatenate((np.arange(990) / 1000, 0.99 + np.arange(101) / 10000))
"""Quantiles drawn: the tail ten times finer, where people look."""

_POINTS = 600


def latency_cdf(
    result: Result | pd.DataFrame,
    workload: str | None = None,
    ax: Axes | None = None,
    *,
    slo: Mapping[str, float] | None = None,
) -> Axes:
    """Share of the completed requests by time to first token, time per output token and end-to-end latency.

    Limits are drawn as dashed lines in the colour of their metric, the percentile they are meant for as a level.

    Parameters
    ----------
    result
        A result, or a frame of its table ``requests``. Under ``record: summary`` its sketches are drawn.
    slo
        ``ttft``, ``tpot``, ``e2e`` [s] and ``percentile``; those of the scenario by default.

    Raises
    ------
    ConfigError
        If no request was completed.
    """
    name, curves, count = _curves(result, workload)
    limits = _limits(document_of(result, name).get("slo") or {}) if slo is None else dict(slo)
    with drawing(ax, 7.5, 4.2) as axes:
        for metric, values in curves.items():
            curve = (values[values > 0], _SHARES[values > 0])
            axes.plot(*curve, color=colour_of(metric), linewidth=1.8, label=METRICS[metric])
            if metric in limits:
                within = int(np.searchsorted(values, limits[metric], side="right"))
                share = float(_SHARES[within - 1]) if within else 0.0
                text = f"{METRICS[metric]} limit {_seconds(limits[metric])}:\n{share:.1%} within"
                axes.axvline(limits[metric], color=colour_of(metric), linestyle="--", linewidth=1.2, label=text)
        if "percentile" in limits:
            level = limits["percentile"] / 100
            axes.axhline(level, color=ink_of(axes), linestyle=":", linewidth=1)
            axes.annotate(
                f"p{limits['percentile']:g}", (1, level), (-2, 2), xycoords="axes fraction", ha="right", va="bottom",
                textcoords="offset points", fontsize=8.5, color=ink_of(axes),
            )  # fmt: skip
        _time_axis(axes, curves, limits)
        axes.set_ylim(0, 1.005)
        axes.set_ylabel("share of the completed requests")
        titles(axes, f"{name}: latencies of {count:,} requests", _definitions(curves))
        legend(axes, labelspacing=0.9)
        finish(axes, "both")
        return axes


def _definitions(curves: Mapping[str, Any]) -> str:
    return "; ".join(f"{METRICS[m]} = {definition('requests', m).partition(';')[0]}" for m in curves)


def _curves(result: Result | pd.DataFrame, workload: str | None) -> tuple[str, dict[str, NDArray[np.float64]], int]:
    """Name, values at :data:`_SHARES` by metric, and number of requests; sketches stand in for a missing table."""
    if isinstance(result, Result) and not result.tables.get("requests"):
        names = [k.rpartition(".")[0] for k in result.sketches if k.endswith(".ttft")]
        name = workload if workload is not None else next(iter(names), None)
        if name in names:
            found = {m: result.sketches[f"{name}.{m}"] for m in METRICS if f"{name}.{m}" in result.sketches}
            drawn = {m: np.array([s.quantile(float(q)) for q in _SHARES]) for m, s in found.items() if s.count}
            return str(name), drawn, max(s.count for s in found.values())
    name = workload_of(result, "requests", workload)
    columns = columns_of(result, "requests", name)
    values = {m: columns[m].astype(float)[~np.isnan(columns["finish"].astype(float))] for m in METRICS}
    count = len(values["e2e"])
    if not count:
        raise ConfigError(f"no request of '{name}' was completed")
    values = {m: v[~np.isnan(v)] for m, v in values.items()}
    return name, {m: np.quantile(v, _SHARES) for m, v in values.items() if len(v)}, count


def _limits(document: Mapping[str, Any]) -> dict[str, float]:
    limits = {m: parse_quantity(document[m], "time") for m in METRICS if document.get(m) is not None}
    if limits and document.get("percentile") is not None:
        limits["percentile"] = float(document["percentile"])
    return limits


def _seconds(value: float) -> str:
    scale = scale_of("requests", "e2e", value)
    return f"{value * scale.factor:.3g} {scale.unit}"


def _time_axis(ax: Axes, curves: Mapping[str, NDArray[np.float64]], limits: Mapping[str, float]) -> None:
    """Milliseconds to minutes on one logarithmic axis, each tick with its own unit."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    everything = np.concatenate([*curves.values(), [v for k, v in limits.items() if k != "percentile"]])
    low, high = np.quantile(everything[everything > 0], 0.001), everything.max()
    ax.set_xscale("log")
    ax.set_xlim(low / 1.3, high * 1.3)
    decades = np.log10(high / low)
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if decades < 4 else (1.0,)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _seconds(value)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("latency, logarithmic")


def queue_and_kv(result: Result | pd.DataFrame, workload: str | None = None, ax: Axes | None = None) -> Axes:
    """Requests that wait and run in all replicas over time, and below it the occupancy of their KV caches.

    Parameters
    ----------
    result
        A result, or a frame of its table ``resources``.
    ax
        Is divided in two: the upper part is returned, the lower one is its neighbour on the same time axis.

    Raises
    ------
    ConfigError
        If nothing was sampled.
    """
    name = workload_of(result, "resources", workload)
    columns = columns_of(result, "resources", name)
    sampled = (columns["resource"] == "replica") & ~np.isnan(columns["time"].astype(float))
    if not sampled.any():
        raise ConfigError(f"no state of the replicas of '{name}' was sampled")
    columns = {key: values[sampled] for key, values in columns.items()}
    end = float(columns["time"].max())
    grid = np.linspace(0.0, end, _POINTS)
    state = {c: _on_grid(columns, c, grid) for c in ("running", "waiting", "kv_occupancy")}
    scale = scale_of("resources", "time", end)
    with drawing(ax, 8.0, 4.6) as upper:
        lower = below(upper)
        for column, style in (("running", "-"), ("waiting", "-")):
            total = state[column].sum(axis=0)
            upper.plot(grid * scale.factor, total, style, color=colour_of(column), linewidth=1.4, label=column)
        upper.set_ylim(0, None)
        upper.set_ylabel("requests in all replicas")
        used, colour = 100 * state["kv_occupancy"], colour_of("kv_occupancy")
        lower.plot(grid * scale.factor, used.mean(axis=0), color=colour, linewidth=1.4, label="mean of the replicas")
        if len(used) > 1:
            lower.fill_between(
                grid * scale.factor, used.min(axis=0), used.max(axis=0), color=colour, alpha=0.3, linewidth=0,
                label="lowest to highest",
            )  # fmt: skip
        lower.set_ylim(0, max(5.0, min(105.0, 1.15 * float(used.max()))))
        lower.set_ylabel("KV occupancy [%]")
        lower.set_xlabel(scale.label)
        upper.tick_params(labelbottom=False)
        replicas = len(used)
        titles(
            upper, f"{name}: queue and KV cache of {replicas} replica{'s' if replicas > 1 else ''}",
            f"running: {definition('resources', 'running')}; KV occupancy: "
            f"{definition('resources', 'kv_occupancy')}",
        )  # fmt: skip
        for axes in (upper, lower):
            axes.set_xlim(0, end * scale.factor)
            legend(axes)
            finish(axes)
        return upper


def _on_grid(columns: Mapping[str, NDArray[Any]], column: str, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """The last sample before each time [replica, time]; nothing before a replica's first."""
    found = []
    for replica in np.unique(columns["replica"]):
        mine = columns["replica"] == replica
        time, values = columns["time"][mine].astype(float), columns[column][mine].astype(float)
        order = np.argsort(time, kind="stable")
        last = np.searchsorted(time[order], grid, side="right")
        found.append(np.concatenate(([0.0], np.nan_to_num(values[order])))[last])
    return np.array(found)
