"""Figures: one function each, takes a result (or the frame of one table) and optional axes, returns the axes.

>>> from simulator.plot import FIGURES
>>> list(FIGURES)
['memory_bars', 'step_waterfall', 'pipeline_gantt', 'traffic_bars', 'latency_cdf', 'queue_and_kv', 'tornado']
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.errors import ConfigError, unknown_name
from simulator.plot.compare import tornado
from simulator.plot.gantt import pipeline_gantt
from simulator.plot.memory import memory_bars
from simulator.plot.serving import latency_cdf, queue_and_kv
from simulator.plot.step import step_waterfall, traffic_bars

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from simulator.results.tables import Result

__all__ = [
    "FIGURES", "latency_cdf", "memory_bars", "pipeline_gantt", "queue_and_kv", "save", "step_waterfall", "tornado",
    "traffic_bars",
]  # fmt: skip

FIGURES: dict[str, Callable[..., Axes]] = {
    figure.__name__: figure
    for figure in (memory_bars, step_waterfall, pipeline_gantt, traffic_bars, latency_cdf, queue_and_kv, tornado)
}
"""Name → function ``(result, workload=None, ax=None)``."""


def save(
    result: Result | pd.DataFrame, name: str, path: str | Path, workload: str | None = None, **options: Any
) -> Path:
    """Draw a figure into a file; its suffix (``.png``, ``.svg``, ``.pdf``) says in which format.

    Parameters
    ----------
    name
        A key of :data:`FIGURES`.
    path
        Folders that are missing are made.
    options
        Further arguments of the figure.

    Raises
    ------
    ConfigError
        If there is no such figure or format, or the result has no data for it.
    """
    if name not in FIGURES:
        raise ConfigError(unknown_name("figure", name, FIGURES))
    target = Path(path)
    if target.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"'{target}' has no image format: end it in .png, .svg or .pdf")
    import matplotlib.pyplot as plt

    axes = FIGURES[name](result, workload, **options)
    figure = axes.get_figure(root=True)
    assert figure is not None
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(target, bbox_inches="tight", dpi=150)
    except OSError as error:
        raise ConfigError(f"'{target}' cannot be written: {error.strerror or error}") from None
    finally:
        plt.close(figure)
    return target
