"""What a result hangs on, and where two variants differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.errors import ConfigError
from simulator.plot.source import columns_of, scale_of, workload_of
from simulator.plot.style import OKABE_ITO, drawing, finish, ink_of, legend, titles
from simulator.results.tables import Result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from simulator.scenario.compare import Comparison

__all__ = ["compare_parts", "compare_tornado", "tornado"]

_MOST = 12


def tornado(result: Result | pd.DataFrame, workload: str | None = None, ax: Axes | None = None) -> Axes:
    """Change of the step or iteration time when one constant moves by one sigma, largest first.

    Parameters
    ----------
    result
        A result, or a frame of its table ``sources``.

    Raises
    ------
    ConfigError
        If no constant moves the time.
    """
    name = workload_of(result, "sources", workload)
    columns = columns_of(result, "sources", name)
    moved = columns["sensitivity"].astype(float)
    order = [int(i) for i in np.argsort(-np.abs(moved), kind="stable") if moved[i]][:_MOST]
    if not order:
        raise ConfigError(f"no constant moves the time of '{name}', or none has a known error")
    labels = [f"{columns['constant'][i]}  ±{100 * float(columns['sigma'][i]):.0f} %" for i in order]
    with drawing(ax, 8.0, 1.5 + 0.32 * len(order)) as axes:
        _bars(axes, labels, 100 * moved[order], OKABE_ITO["blue"])
        axes.set_xlabel("change of the time [%] when the constant is one standard deviation higher")
        titles(axes, f"{name}: what the time hangs on", "constants by influence, with their relative error")
        finish(axes, "x")
        return axes


def compare_tornado(comparison: Comparison, name: str | None = None, ax: Axes | None = None) -> Axes:
    """Change of the ratio of two times when one constant moves by one sigma; errors that both share cancel.

    Parameters
    ----------
    name
        The variant that is compared with the first; the second by default.

    Raises
    ------
    ConfigError
        If no constant moves the ratio.
    """
    other = name or comparison.names[1]
    rows = [r for r in comparison.tornado if r["name"] == other and abs(r["swing"]) > 1e-6][:_MOST]
    if not rows:
        raise ConfigError(f"no constant moves '{other}' against '{comparison.names[0]}'")
    with drawing(ax, 8.0, 1.5 + 0.32 * len(rows)) as axes:
        labels = [f"{r['constant']}{'  (shared)' if r['shared'] else ''}" for r in rows]
        _bars(axes, labels, np.array([100 * r["swing"] for r in rows]), OKABE_ITO["vermillion"])
        axes.set_xlabel("change of the ratio of the times [%] for one standard deviation")
        titles(axes, "what the difference hangs on", f"{other} against {comparison.names[0]}; shared errors cancel")
        finish(axes, "x")
        return axes


def compare_parts(comparison: Comparison, table: str = "time", ax: Axes | None = None) -> Axes:
    """Parts of the time (memory, traffic, costs) of all variants beside one another.

    Parameters
    ----------
    table
        ``time``, ``memory``, ``traffic`` or ``costs``.

    Raises
    ------
    ConfigError
        If the comparison has no such table.
    """
    rows = [r for r in comparison.tables.get(table, ()) if any(r[n] for n in comparison.names)][:_MOST]
    if not rows:
        raise ConfigError(f"the comparison has no parts of '{table}'")
    column = {"time": "seconds", "memory": "bytes", "traffic": "bytes", "costs": "usd"}[table]
    scale = scale_of(table, column, max(float(r[n] or 0.0) for r in rows for n in comparison.names))
    colours = [OKABE_ITO[c] for c in ("blue", "vermillion", "green", "orange", "purple", "sky", "grey")]
    height = 0.8 / len(comparison.names)
    with drawing(ax, 8.0, 1.4 + 0.42 * len(rows)) as axes:
        for i, name in enumerate(comparison.names):
            places = np.arange(len(rows)) - 0.4 + height * (i + 0.5)
            values = [float(r[name] or 0.0) * scale.factor for r in rows]
            axes.barh(places, values, height, color=colours[i % len(colours)], label=name)
        axes.set_yticks(range(len(rows)), [str(r["part"]).replace("_", " ") for r in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(f"time [{scale.unit}]" if table == "time" else scale.label)
        titles(axes, f"where the {table} goes", "largest difference first")
        legend(axes)
        finish(axes, "x")
        return axes


def _bars(axes: Axes, labels: list[str], values: Any, colour: str) -> None:
    """Horizontal bars to both sides of zero, each with its figure at its end."""
    axes.barh(range(len(labels)), values, 0.7, color=colour)
    axes.axvline(0, color=ink_of(axes), linewidth=0.8)
    reach = 1.25 * max(abs(float(v)) for v in values)
    low = -reach if min(values) < 0 else 0.0
    axes.set_xlim(low, reach if max(values) > 0 else 0.05 * reach)
    for place, value in enumerate(values):
        side = 1 if value >= 0 else -1
        axes.annotate(
            f"{value:+.2g}", (value, place), (3 * side, 0), textcoords="offset points", va="center",
            ha="left" if side > 0 else "right", fontsize=8.5, color=ink_of(axes),
        )  # fmt: skip
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
