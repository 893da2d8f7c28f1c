"""One training step: where its time goes, what its pipeline does, how many bytes it moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.errors import ConfigError
from simulator.plot.source import columns_of, definition, scale_of, summary_of, workload_of
from simulator.plot.style import OKABE_ITO, colour_of, drawing, finish, ink_of, ink_on, lighter, titles
from simulator.results.tables import Result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["step_waterfall", "traffic_bars"]


def step_waterfall(result: Result | pd.DataFrame, workload: str | None = None, ax: Axes | None = None) -> Axes:
    """Exposed seconds of a step, part by part up to the whole, with the roofline floor as a line.

    The whole is divided by where its constants come from: measured, fitted, borrowed, from a datasheet, assumed.

    The share in the label of the floor is the speed-of-light share: floor over step time. The whisker on the whole is
    the 80 % interval.

    Parameters
    ----------
    result
        A result, or a frame of its table ``time`` (then without floor and interval).

    Raises
    ------
    ConfigError
        If the workload has no times.
    """
    name = workload_of(result, "time", workload)
    columns, summary = columns_of(result, "time", name), summary_of(result, name)
    shown = columns["seconds"] > 0
    parts, seconds = [str(p) for p in columns["part"][shown]], columns["seconds"][shown].astype(float)
    total = float(seconds.sum())
    low, high = (_number(summary, f"seconds_{end}") for end in ("low", "high"))
    scale = scale_of("time", "seconds", total)
    with drawing(ax, 7.5, 1.9 + 0.34 * len(parts)) as axes:
        starts = np.concatenate(([0.0], np.cumsum(seconds)))[:-1]
        for place, (part, start, length) in enumerate(zip(parts, starts, seconds, strict=True)):
            colour = colour_of(part, place)
            axes.barh(
                place, length * scale.factor, 0.7, start * scale.factor, color=colour, edgecolor=colour, linewidth=0.8
            )
            _beside(axes, place, (start + length) * scale.factor, f"{length * scale.factor:.3g} ({length / total:.1%})")
            if place + 1 < len(parts):
                edge = (start + length) * scale.factor
                axes.plot([edge, edge], [place + 0.35, place + 0.65], color=ink_of(axes), linewidth=0.6)
        whole = len(parts)
        end = max(total, high or 0.0) * scale.factor
        axes.set_xlim(0, 1.17 * end)
        _rests_on(axes, whole, total * scale.factor, summary)
        if low is not None and high is not None:
            axes.errorbar(
                total * scale.factor, whole,
                xerr=[[max(0.0, total - low) * scale.factor], [max(0.0, high - total) * scale.factor]],
                color=ink_of(axes), capsize=3, linewidth=1,
            )  # fmt: skip
        _beside(axes, whole, end, f"{total * scale.factor:.4g} {scale.unit}")
        axes.set_yticks(range(whole + 1), [p.replace("_", " ") for p in parts] + ["whole"])
        axes.set_ylim(whole + 1.15, -0.6)
        axes.set_xlabel(f"time [{scale.unit}]")
        _floor(axes, summary, total, scale.factor, whole + 0.75)
        what = "a decode iteration" if summary.get("kind") == "serving" else "a training step"
        interval = ", whisker: 80 % interval" if high is not None else ""
        titles(axes, f"{name}: where the time of {what} goes", f"{definition('time', 'seconds')}{interval}")
        finish(axes, "x")
        return axes


_CHARACTER = 4.5
"""Width of a character of 7.5 points [pt]."""

_TRUSTS = ("measured", "fitted", "borrowed", "datasheet", "assumed")


def _rests_on(ax: Axes, place: float, total: float, summary: Any) -> None:
    """The whole, lighter the less its constants are to be trusted; one grey where that is not known."""
    shares = {trust: share for trust in _TRUSTS if (share := _number(summary, f"share_{trust}"))}
    width = ax.get_position().width * ax.figure.get_figwidth() * 72  # type: ignore[union-attr]
    left = 0.0
    for trust, share in (shares or {"": 1.0}).items():
        colour = lighter(OKABE_ITO["grey"], 0.17 * _TRUSTS.index(trust) if trust else 0.0)
        ax.barh(place, share * total, 0.7, left, color=colour, edgecolor="white", linewidth=0.8)
        text = f"{trust} {share:.0%}"
        if trust and share * total / ax.get_xlim()[1] * width > _CHARACTER * (len(text) + 1):
            ax.annotate(
                text, (left + share * total / 2, place + 0.2), ha="center", va="center",
                fontsize=7.5, color=ink_on(colour),
                bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8}, zorder=4,
            )  # fmt: skip
        left += share * total


def _number(summary: Any, column: str) -> float | None:
    value = summary.get(column)
    return None if value is None or value != value else float(value)


def _beside(ax: Axes, place: float, x: float, text: str) -> None:
    ground = {"facecolor": ax.get_facecolor(), "edgecolor": "none", "pad": 0.8}
    ax.annotate(
        text, (x, place), (6, 0), textcoords="offset points", va="center", ha="left", fontsize=8.5, color=ink_of(ax),
        bbox=ground, zorder=4,
    )  # fmt: skip


def _floor(ax: Axes, summary: Any, total: float, factor: float, place: float) -> None:
    """A line at the floor, with its label in the free row below the bars."""
    floor = _number(summary, "floor_seconds")
    if floor is None:
        return
    colour = OKABE_ITO["vermillion"]
    left = floor * factor > 0.5 * ax.get_xlim()[1]
    ax.axvline(floor * factor, color=colour, linestyle="--", linewidth=1.4, zorder=3)
    ax.annotate(
        f"roofline floor {floor * factor:.3g}: {floor / total:.0%} of the speed of light", (floor * factor, place),
        xytext=(-5 if left else 5, 0), textcoords="offset points", ha="right" if left else "left", va="center",
        fontsize=8.5, color=colour,
    )  # fmt: skip


def traffic_bars(result: Result | pd.DataFrame, workload: str | None = None, ax: Axes | None = None) -> Axes:
    """Bytes by link class, on a logarithmic axis when they differ more than hundredfold (then as points).

    Parameters
    ----------
    result
        A result, or a frame of its table ``traffic``.

    Raises
    ------
    ConfigError
        If the workload moved nothing.
    """
    name = workload_of(result, "traffic", workload)
    columns = columns_of(result, "traffic", name)
    moved = columns["bytes"] > 0
    links, sizes = [str(x) for x in columns["link"][moved]], columns["bytes"][moved].astype(float)
    if not len(sizes):
        raise ConfigError(f"'{name}' moved no bytes")
    wide = bool(sizes.max() > 100 * sizes.min())
    scale = scale_of("traffic", "bytes", float(sizes.min() if wide else sizes.max()))
    with drawing(ax, 7.5, 1.7 + 0.4 * len(links)) as axes:
        for place, (link, size) in enumerate(zip(links, sizes * scale.factor, strict=True)):
            colour = colour_of(link, place)
            if wide:  # the length of a bar means nothing on a logarithmic axis
                axes.plot([size], [place], "o", color=colour, markersize=9)
            else:
                axes.barh(place, size, 0.6, color=colour)
            own = scale_of("traffic", "bytes", size / scale.factor)
            _beside(axes, place, size, f"  {size / scale.factor * own.factor:.3g} {own.unit}")
        low, high = sizes.min() * scale.factor, sizes.max() * scale.factor
        if wide:
            axes.set_xscale("log")
            axes.set_xlim(low / 3, high * (high / low) ** 0.25 * 1.5)
            axes.xaxis.set_major_formatter("{x:,g}")
        else:
            axes.set_xlim(0, 1.18 * high)
        axes.set_yticks(range(len(links)), [link.replace("_", "-") for link in links])
        axes.set_ylim(len(links) - 0.4, -0.6)
        axes.set_xlabel(f"{scale.label}{', logarithmic' if wide else ''}")
        titles(axes, f"{name}: bytes by link class", definition("traffic", "bytes"))
        finish(axes, "x")
        return axes
