"""The tasks of a pipeline over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError
from simulator.plot.source import Scale, columns_of, scale_of, workload_of
from simulator.plot.style import FAINT, colour_of, drawing, finish, ink_on, legend, lighter, titles
from simulator.results.tables import Result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["pipeline_gantt"]

Arrays = dict[str, NDArray[Any]]

MOST_TASKS_PER_STAGE = 96
"""More are too narrow to be seen at the width of a page."""

_MOST_TEXTS, _MOST_EDGES = 700, 1500


def pipeline_gantt(
    result: Result | pd.DataFrame,
    workload: str | None = None,
    ax: Axes | None = None,
    *,
    window: tuple[float, float] | None = None,
) -> Axes:
    """Forward, backward and weight-gradient tasks of every stage; later chunks of a stage are lighter.

    Tasks that a schedule overlaps (a forward and a backward of DualPipe) are boxes of half the height.

    A long step is cut to its begin, and the title says to which micro-batches.

    Parameters
    ----------
    result
        A result, or a frame of its table ``ops``.
    window
        Begin and end of the time to show [s]; the begin of the step, or all of it if it is short, by default.

    Raises
    ------
    ConfigError
        If no pipeline tasks were recorded, or none lies in the window.
    """
    name = workload_of(result, "ops", workload)
    rows = columns_of(result, "ops", name)
    timed = ~np.isnan(rows["start"].astype(float))
    rows = {key: values[timed] for key, values in rows.items()}
    tasks = rows["kind"] == "pipeline"
    if not tasks.any():
        raise ConfigError(f"'{name}' has no pipeline tasks")
    start, end = rows["start"].astype(float), (rows["start"] + rows["duration"]).astype(float)
    low, high = window or _window(rows, tasks, start, end)
    inside = (end > low) & (start < high)
    if not (inside & tasks).any():
        raise ConfigError(
            f"no task of '{name}' lies between {low:.4g} s and {high:.4g} s, the step ends at {end.max():.4g} s"
        )
    drawn = {key: values[inside] for key, values in rows.items()}
    scale = scale_of("ops", "start", high)
    stages = len(set(drawn["stage"].tolist()))
    with drawing(ax, 10.0, 1.7 + max(0.6, stages * 0.34 if stages <= 16 else min(9.0, 4.0 + stages * 0.04))) as axes:
        axes.set_xlim(low * scale.factor, high * scale.factor)
        _draw(axes, drawn, scale)
        axes.set_xlabel(f"time since the begin of the step [{scale.unit}]")
        axes.set_ylabel("stage (pipeline rank)")
        titles(axes, f"{name}: pipeline of one step", _note(rows, drawn, (low, high), float(end.max()), scale))
        legend(axes)
        finish(axes, None)
        return axes


def _window(
    rows: Arrays, tasks: NDArray[np.bool_], start: NDArray[np.float64], end: NDArray[np.float64]
) -> tuple[float, float]:
    """All of a short step; of a long one as much of its begin as can be seen, and a whole round trip at least."""
    stages = rows["stage"][tasks]
    fullest = int(np.bincount(stages.astype(int)).max())
    if fullest <= MOST_TASKS_PER_STAGE:
        return 0.0, float(end.max())
    first = np.sort(start[tasks & (rows["stage"] == stages.min())])
    backward = tasks & np.isin(rows["phase"], ("backward", "input_gradient")) & (rows["stage"] == stages.min())
    trip = 2.0 * float(start[backward].min()) if backward.any() else 0.0
    gaps = start[rows["kind"] == "omitted"]
    limit = float(gaps.min()) if gaps.size else float(end.max())
    return 0.0, min(limit, max(float(first[min(len(first) - 1, MOST_TASKS_PER_STAGE)]), trip))


def _note(rows: Arrays, drawn: Arrays, window: tuple[float, float], whole: float, scale: Scale) -> str:
    numbers = drawn["microbatch"][drawn["kind"] == "pipeline"]
    shown = f"micro-batches {numbers.min()} to {numbers.max()}"
    everything = rows["microbatch"].max() + 1
    if window[0] <= 0 and window[1] >= whole:
        gaps = (drawn["kind"] == "omitted").any()
        return f"all {everything} micro-batches{', hatched: tasks that were not recorded' if gaps else ''}"
    where = "the begin" if window[0] <= 0 else f"from {window[0] * scale.factor:.4g} {scale.unit}"
    length = (window[1] - window[0]) * scale.factor
    return f"{where} of the step: {length:.4g} of {whole * scale.factor:.4g} {scale.unit}, {shown} of {everything}"


def _draw(ax: Axes, rows: Arrays, scale: Scale) -> None:
    starts, lengths = rows["start"] * scale.factor, rows["duration"] * scale.factor
    rows = rows | _lanes(rows)
    chunks = int(rows["chunk"].max()) + 1
    known: list[str] = list(dict.fromkeys(rows["phase"][rows["kind"] == "pipeline"].tolist()))
    for index, phase in enumerate(known):
        for chunk in range(chunks):
            mine = (rows["phase"] == phase) & (rows["chunk"] == chunk) & (rows["kind"] == "pipeline")
            colour = (
                lighter(colour_of(phase, index), 0.6 * chunk / max(1, chunks - 1)) if chunks > 1 else colour_of(phase)
            )
            label = phase.replace("_", " ") + (f", chunk {chunk}" if chunks > 1 else "")
            _bars(ax, rows, starts, lengths, mine, color=colour, label=label)
            if len(starts) <= _MOST_TEXTS:
                _numbers(ax, rows, starts, lengths, mine, ink_on(colour))
    for kind, style in (("omitted", {"hatch": "///", "color": "none", "edgecolor": FAINT}), ("end", {"color": FAINT})):
        mine = rows["kind"] == "omitted" if kind == "omitted" else ~np.isin(rows["kind"], ("pipeline", "omitted"))
        label = "not recorded" if kind == "omitted" else "gradients, optimizer, host"
        _bars(ax, rows, starts, lengths, mine, label=label, **style)
    stages = sorted({int(s) for s in rows["stage"]})
    every = max(1, -(-len(stages) // 16))
    ax.set_yticks(stages[::every], [str(s) for s in stages[::every]])
    ax.set_ylim(stages[-1] + 0.5, stages[0] - 0.5)


def _lanes(rows: Arrays) -> Arrays:
    """Lower and upper edge of every box: two tasks that run at once on a stage share its height."""
    stage = rows["stage"].astype(float)
    order = np.lexsort((rows["duration"], rows["start"], stage))
    keys = np.stack([stage, rows["start"], rows["duration"]], axis=1).astype(float)[order]
    same = (keys[1:] == keys[:-1]).all(axis=1) & (rows["kind"][order][1:] == "pipeline") & (keys[1:, 2] > 0)
    first, second = np.zeros(len(stage), dtype=bool), np.zeros(len(stage), dtype=bool)
    first[order[:-1][same]] = True
    second[order[1:][same]] = True
    return {"low": np.where(second, stage, stage - 0.42), "high": np.where(first, stage, stage + 0.42)}


def _bars(
    ax: Axes,
    rows: Arrays,
    starts: NDArray[Any],
    lengths: NDArray[Any],
    mine: NDArray[np.bool_],
    label: str,
    **style: Any,
) -> None:
    """One collection per kind of task: thousands of single rectangles would take seconds."""
    if not mine.any():
        return
    from matplotlib.collections import PolyCollection

    left, right = starts[mine], (starts + lengths)[mine]
    low, high = rows["low"][mine], rows["high"][mine]
    corners = np.stack([[left, low], [left, high], [right, high], [right, low]]).transpose(2, 0, 1)
    colour = style.pop("color")
    settings = {"facecolor": colour, "edgecolor": "white", "linewidth": 0.3} | style
    if len(starts) > _MOST_EDGES:  # thinner than a pixel: edges would hide the tasks
        settings |= {"linewidth": 0.0, "antialiased": False}
    ax.add_collection(PolyCollection(list(corners.astype(float)), label=label, **settings))


def _numbers(
    ax: Axes, rows: Arrays, starts: NDArray[Any], lengths: NDArray[Any], mine: NDArray[np.bool_], colour: str
) -> None:
    """Micro-batch numbers in the boxes that are wide enough for the longest of them."""
    left, right = ax.get_xlim()
    digits = len(str(rows["microbatch"].max()))
    for task in np.flatnonzero(mine):
        if lengths[task] / (right - left) > 0.008 * digits:
            text = str(rows["microbatch"][task])
            middle = (rows["low"][task] + rows["high"][task]) / 2
            ax.text(
                starts[task] + lengths[task] / 2, middle, text, ha="center", va="center", fontsize=7, color=colour,
                clip_on=True,
            )  # fmt: skip
