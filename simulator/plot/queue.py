"""A queue of jobs over time: what is at work, what waits for it, and how many jobs that are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simulator.errors import ConfigError
from simulator.plot.panels import below
from simulator.plot.source import columns_of, definition, scale_of, workload_of
from simulator.plot.style import colour_of, drawing, finish, ink_of, legend, lighter, titles
from simulator.results.tables import Result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["queue_occupancy"]


def queue_occupancy(result: Result | pd.DataFrame, workload: str | None = None, ax: Axes | None = None) -> Axes:
    """Accelerators at work and asked for by waiting jobs over time, and below it the jobs that run and wait.

    Parameters
    ----------
    result
        A result, or a frame of its table ``resources``.
    ax
        Is divided in two: the upper part is returned, the lower one is its neighbour on the same time axis.

    Raises
    ------
    ConfigError
        If the result has no queue of jobs.
    """
    name = _queue_of(result, workload)
    columns = columns_of(result, "resources", name)
    columns = {key: values[columns["resource"] == "queue"] for key, values in columns.items()}
    time = columns["time"].astype(float)
    scale = scale_of("resources", "time", float(time.max()))
    x = time * scale.factor
    busy, there, asked = (columns[f"accelerators_{what}"].astype(float) for what in ("busy", "available", "asked"))
    with drawing(ax, 8.0, 4.6) as upper:
        lower = below(upper)
        running, waiting = colour_of("running"), colour_of("waiting")
        upper.fill_between(x, busy, step="post", color=lighter(running, 0.45), linewidth=0, label="at work")
        upper.fill_between(
            x, there, there + asked, step="post", color=lighter(waiting, 0.55), linewidth=0,
            label="asked for by\nwaiting jobs",
        )  # fmt: skip
        upper.step(x, there, where="post", color=ink_of(upper), linewidth=1.2, label="there")
        upper.set_ylabel("accelerators")
        upper.set_ylim(0, None)
        for key, colour in (("running", running), ("waiting", waiting)):
            lower.step(x, columns[key].astype(float), where="post", color=colour, linewidth=1.3, label=key)
        lower.set_ylim(0, None)
        lower.set_ylabel("jobs")
        lower.set_xlabel(scale.label)
        upper.tick_params(labelbottom=False)
        share = np.trapezoid(busy, time) / np.trapezoid(there, time) if len(time) > 1 else float("nan")
        titles(
            upper, f"{name}: {share:.0%} of the accelerators at work",
            f"at work: {definition('resources', 'accelerators_busy')}; above the line: "
            f"{definition('resources', 'accelerators_asked')}",
        )  # fmt: skip
        for axes in (upper, lower):
            axes.set_xlim(x.min(), x.max())
            legend(axes)
            finish(axes)
        return upper


def _queue_of(result: Result | pd.DataFrame, workload: str | None) -> str:
    """The workload asked for, or the first queue of jobs."""
    if workload is None and isinstance(result, Result):
        workload = next((str(row["workload"]) for row in result.rows("summary") if row["kind"] == "jobs"), None)
        if workload is None:
            raise ConfigError("the result has no queue of jobs: a scenario has one with '- jobs: NAME'")
    name = workload_of(result, "resources", workload)
    if not (columns_of(result, "resources", name)["resource"] == "queue").any():
        raise ConfigError(f"'{name}' is no queue of jobs")
    return name
