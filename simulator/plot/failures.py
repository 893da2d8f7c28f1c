"""A training job over days: the steps it keeps, what stops it, and where its wall time goes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError
from simulator.plot.panels import below
from simulator.plot.source import columns_of, definition, scale_of, summary_of, workload_of
from simulator.plot.style import OKABE_ITO, drawing, finish, ink_of, legend, titles
from simulator.results.tables import Result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["failures_and_goodput"]

_LOSSES = {
    "rework": "vermillion", "detection": "orange", "node": "purple", "restart": "sky", "reload": "green",
    "checkpoint": "yellow", "slow": "black", "power": "grey",
    "network": "blue",
}  # fmt: skip

_MOST_NAMES = 12


def failures_and_goodput(result: Result, workload: str | None = None, ax: Axes | None = None) -> Axes:
    """Steps done and kept over time, falling back to the last checkpoint at failures; below it the lost time by cause.

    Parameters
    ----------
    result
        A result with a training job that ran with ``failures`` under ``record: full``.
    ax
        Is divided in two: the upper part is returned.

    Raises
    ------
    ConfigError
        If nothing was recorded of the job.
    """
    name = _name(result, workload)
    events, summary = columns_of(result, "events", name), summary_of(result, name)
    if not summary:
        raise ConfigError("a frame does not say how long the job ran: give the result")
    if not float(summary.get("training_seconds", math.nan)) > 0:
        raise ConfigError(f"'{name}' is not a training job that ran: it has no steps to keep or to lose")
    time, steps, ratio = _progress(events, summary)
    scale = scale_of("events", "time", float(time[-1]))
    with drawing(ax, 8.0, 4.6) as upper:
        upper.plot(time * scale.factor, steps, color=OKABE_ITO["blue"], linewidth=1.6)
        upper.plot(
            [time[0] * scale.factor, time[0] * scale.factor + _undisturbed(summary) * scale.factor],
            [0, summary["steps"]], ":", color=OKABE_ITO["grey"], linewidth=1.4, label="undisturbed",
        )  # fmt: skip
        _failures(upper, events, scale.factor)
        upper.set_xlim(0, 1.02 * float(time[-1]) * scale.factor)
        upper.set_ylim(0, None)
        upper.set_ylabel("steps done and kept")
        upper.set_xlabel(scale.label)
        legend(upper)
        lower = below(upper, "16%", share=False)
        _losses(lower, summary, float(time[-1] - time[0]))
        count = int(summary["interruptions"])
        titles(
            upper, f"{name}: {count} interruption{'s' * (count != 1)}, effective time ratio {ratio:.1%}",
            f"effective time ratio: {definition('summary', 'effective_time_ratio')}",
        )  # fmt: skip
        finish(upper, "both")
        finish(lower, None)
        return upper


def _name(result: Result | pd.DataFrame, workload: str | None) -> str:
    """The job that was asked for, or the first that was ever stopped."""
    if workload is None and isinstance(result, Result):
        rows = (r for r in result.rows("summary") if r.get("kind") == "training")
        stopped = [str(r["workload"]) for r in rows if r.get("interruptions", 0) > 0]
        workload = next(iter(stopped), None)
    return workload_of(result, "events", workload)


def _undisturbed(summary: Mapping[str, Any]) -> float:
    return float(summary["steps"]) * float(summary["seconds"])


def _progress(
    events: Mapping[str, NDArray[Any]], summary: Mapping[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Corners of the line: time [s], steps kept; and the effective time ratio."""
    if "steps" not in events:
        raise ConfigError("this result was saved by an older version: its events do not say which steps were kept")
    time, steps = [0.0], [0.0]
    for when, kept, event in zip(events["time"], events["steps"], events["event"], strict=True):
        if event == "interrupted":
            time.append(float(when))
            steps.append(float(kept))
        elif event == "resumed":
            time += [time[-1], float(when)]
            steps += [float(kept)] * 2
    wall = float(summary["training_seconds"])
    time.append(wall)
    steps.append(float(summary["steps"]))
    return np.array(time), np.array(steps), float(summary["effective_time_ratio"])


def _failures(ax: Axes, events: Mapping[str, NDArray[Any]], factor: float) -> None:
    """A tick at the top per interruption, with its cause while there are few."""
    mine = [
        (float(t), str(d).partition(";")[0].replace("_", " "))
        for t, e, d in zip(events["time"], events["event"], events["detail"], strict=True)
        if e == "interrupted"
    ]
    if not mine:
        return
    ax.plot(
        [t * factor for t, _ in mine], [1.0] * len(mine), "v", color=OKABE_ITO["vermillion"], markersize=6,
        transform=ax.get_xaxis_transform(), clip_on=False, label="interruption",
    )  # fmt: skip
    for when, cause in mine if len(mine) <= _MOST_NAMES else ():
        ax.annotate(
            cause, (when * factor, 1.0), (-3, -6), xycoords=("data", "axes fraction"), textcoords="offset points",
            rotation=90, fontsize=8, ha="right", va="top", color=ink_of(ax), alpha=0.85,
        )  # fmt: skip


def _losses(ax: Axes, summary: Mapping[str, Any], wall: float) -> None:
    left = 0.0
    for cause, colour in _LOSSES.items():
        lost = float(summary.get(f"lost_{cause}", 0.0))
        if lost > 1e-4 * wall:
            scale = scale_of("summary", f"lost_{cause}", lost)
            ax.barh(
                0, 100 * lost / wall, 0.8, left, color=OKABE_ITO[colour],
                label=f"{cause} {lost * scale.factor:.3g} {scale.unit}",
            )  # fmt: skip
            left += 100 * lost / wall
    ax.set_xlim(0, max(1.02 * left, 0.1))
    ax.set_yticks([0], ["lost"])
    ax.set_xlabel("share of the wall time [%]")
    if left:
        legend(ax, bbox_to_anchor=(1.01, 1.6), ncols=1)
