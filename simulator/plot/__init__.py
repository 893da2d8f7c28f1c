"""Figures: one function each, takes a result or a sweep (or the frame of its table), returns the axes.

>>> from simulator.plot import FIGURES, SWEEP_FIGURES
>>> list(FIGURES)[:4]
['memory_bars', 'step_waterfall', 'pipeline_gantt', 'traffic_bars']
>>> list(SWEEP_FIGURES)
['variant_bars', 'pareto', 'goodput_against_rate', 'mfu_against_scale', 'cost_bars', 'tco_bars']
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.errors import ConfigError, unknown_name
from simulator.plot.compare import tornado
from simulator.plot.cost import cost_bars, tco_bars
from simulator.plot.failures import failures_and_goodput
from simulator.plot.gantt import pipeline_gantt
from simulator.plot.interactive import explore
from simulator.plot.load import goodput_against_rate
from simulator.plot.memory import memory_bars
from simulator.plot.pareto import pareto
from simulator.plot.power import feeder_power
from simulator.plot.queue import queue_occupancy
from simulator.plot.roofline import roofline
from simulator.plot.scale import mfu_against_scale
from simulator.plot.serving import latency_cdf, queue_and_kv
from simulator.plot.step import step_waterfall, traffic_bars
from simulator.plot.topology import link_heat_map
from simulator.plot.variants import variant_bars
from simulator.results.tables import Result
from simulator.scenario.sweep_table import Sweep

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = [
    "FIGURES", "SWEEP_FIGURES", "cost_bars", "explore", "failures_and_goodput", "feeder_power", "figures_of",
    "goodput_against_rate", "latency_cdf", "link_heat_map", "memory_bars", "mfu_against_scale", "pareto", "pictures",
    "pipeline_gantt", "queue_and_kv", "queue_occupancy", "roofline", "save", "step_waterfall", "tco_bars", "tornado",
    "traffic_bars", "variant_bars",
]  # fmt: skip

Figure = Callable[..., "Axes"]

FIGURES: dict[str, Figure] = {
    figure.__name__: figure
    for figure in (
        memory_bars, step_waterfall, pipeline_gantt, traffic_bars, roofline, link_heat_map, failures_and_goodput,
        queue_occupancy, feeder_power, latency_cdf, queue_and_kv, cost_bars, tco_bars, tornado,
    )
}  # fmt: skip
"""Of one result: name → function ``(result, workload=None, ax=None)``."""

SWEEP_FIGURES: dict[str, Figure] = {
    figure.__name__: figure
    for figure in (variant_bars, pareto, goodput_against_rate, mfu_against_scale, cost_bars, tco_bars)
}
"""Of many variants: name → function ``(sweep, workload=None, ax=None)``."""

OF_CLUSTER = ("feeder_power",)
"""Figures of what all workloads share: drawn once, or for the one that was asked for."""


def figures_of(source: Result | Sweep | pd.DataFrame) -> dict[str, Figure]:
    """The figures for this kind of source; of a frame it cannot be known, so all."""
    if isinstance(source, Sweep):
        return SWEEP_FIGURES
    return FIGURES if isinstance(source, Result) else FIGURES | SWEEP_FIGURES


def pictures(
    source: Result | Sweep, workloads: Sequence[str], *, asked: bool = False, only: str | None = None
) -> Iterator[tuple[str, str | None]]:
    """Every figure of this kind of source with the workload it is of; ``None`` where it is of the whole cluster.

    Parameters
    ----------
    workloads
        Those to draw.
    asked
        The user asked for them by name: then a figure of the cluster is drawn for each as well.
    only
        This figure alone.
    """
    for name in figures_of(source) if only is None else [only]:
        yield from ((name, each) for each in ([None] if name in OF_CLUSTER and not asked else workloads))


def save(
    result: Result | Sweep | pd.DataFrame, name: str, path: str | Path, workload: str | None = None, **options: Any
) -> Path:
    """Draw a figure into a file; its suffix (``.png``, ``.svg``, ``.pdf``) says in which format.

    Parameters
    ----------
    name
        A key of :data:`FIGURES`, or of :data:`SWEEP_FIGURES` for a sweep.
    path
        Folders that are missing are made.
    options
        Further arguments of the figure.

    Raises
    ------
    ConfigError
        If there is no such figure or format, or the result has no data for it.
    """
    known = figures_of(result)
    if name not in known:
        kind = "of a sweep" if isinstance(result, Sweep) else "of a result"
        if name in FIGURES | SWEEP_FIGURES:
            raise ConfigError(f"'{name}' is no figure {kind}: use {', '.join(known)}")
        raise ConfigError(unknown_name("figure", name, known))
    target = Path(path)
    if target.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"'{target}' has no image format: end it in .png, .svg or .pdf")
    import matplotlib.pyplot as plt

    axes = known[name](result, workload, **options)
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
