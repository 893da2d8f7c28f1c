"""Where in the network the bytes of a training step go: utilisation of every link, tier by tier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError
from simulator.network.links import KINDS
from simulator.plot.source import workload_of
from simulator.plot.style import FAINT, drawing, finish, ink_of, ink_on, titles
from simulator.results.tables import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from simulator.network.topology import Topology

__all__ = ["Tier", "link_heat_map", "tiers_of"]

_TIERS = {
    "wan": ("sites", "link between sites"), "spine_core": ("spine to core", "switch"),
    "leaf_spine": ("leaf to spine", "switch"), "nic": ("network ports", "node"), "scale_up": ("scale-up", "node"),
}  # fmt: skip
"""Kinds of links that are shown, from the core down, with what a cell of the row stands for."""

_MOST_CELLS = 128
_FEW = 12


class Tier(NamedTuple):
    """Links of one kind by place, 0..1: the busiest link of every place and direction, and all of them."""

    kind: str
    busiest: NDArray[np.float64]
    mean: float
    places: int


def link_heat_map(result: Result, workload: str | None = None, ax: Axes | None = None) -> Axes:
    """Mean utilisation of the links over one training step: a row per tier, a cell per node or switch.

    A cell is the busiest of its links. The collectives are sprayed over all equal ways; hashing unevenly (ECMP) makes
    single links busier than that.

    Parameters
    ----------
    result
        A result with a training job; its step is lowered again from the scenario that is saved with it.

    Raises
    ------
    ConfigError
        If the workload is no training job, or the scenario can no longer be read.
    """
    name = _job(result, workload)
    tiers, fabric = _tiers_of_result(result, name)
    most = max(float(t.busiest.max()) for t in tiers)
    with drawing(ax, 8.0, 1.7 + 0.62 * len(tiers)) as axes:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        range_of_all = Normalize(0, 100 * (most or 1.0))
        colours = ScalarMappable(range_of_all, "Blues")
        for place, tier in enumerate(tiers):
            cells = _pooled(100 * tier.busiest)
            edges = np.linspace(0, 1, len(cells) + 1)
            axes.pcolormesh(
                edges, [place - 0.4, place + 0.4], cells[None], norm=range_of_all, cmap=colours.cmap,
                edgecolors=FAINT if len(cells) <= 64 else "none", linewidth=0.8,
            )  # fmt: skip
            axes.plot([0, 1, 1, 0, 0], place + 0.4 * np.array([-1, -1, 1, 1, -1]), color=FAINT, linewidth=0.8)
            _figures(axes, place, tier, cells, colours)
        bar = axes.get_figure(root=True).colorbar(colours, ax=axes, pad=0.22, fraction=0.04)  # type: ignore[union-attr]
        bar.set_label("link utilisation [%]", color=ink_of(axes))
        bar.ax.tick_params(color=ink_of(axes), labelcolor=ink_of(axes), labelsize=9)
        axes.set_ylim(len(tiers) - 0.5, -0.5)
        axes.set_yticks(range(len(tiers)), [_label(t) for t in tiers])
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(left=False)
        note = "bytes of one step over capacity and step time; a cell is the busiest link of its node or switch"
        titles(axes, f"{name}: the network during a step ({fabric})", note)
        finish(axes, None)
        return axes


def tiers_of(topology: Topology, utilisation: NDArray[np.float64]) -> list[Tier]:
    """Tiers with links, from the core down; ``utilisation`` is that of every directed link."""
    found = []
    for kind in _TIERS:
        mine = np.flatnonzero(topology.links.kind == KINDS.index(kind))
        if len(mine):
            places = _places(topology, mine, kind)
            busiest = np.zeros(int(places.max()) + 1)
            np.maximum.at(busiest, places, utilisation[mine])
            found.append(Tier(kind, busiest, float(utilisation[mine].mean()), len(busiest)))
    return found


def _job(result: Result, workload: str | None) -> str:
    if not isinstance(result, Result):
        raise ConfigError("a frame does not say how the cluster is wired: give the result")
    name = workload_of(result, "summary", workload)
    trained = [str(r["workload"]) for r in result.rows("summary") if r["kind"] == "training" and r["feasible"]]
    if workload is None and trained:
        name = trained[0]
    if name not in trained:
        raise ConfigError(f"'{name}' is no training job that works: only their collectives are laid on links")
    return name


def _tiers_of_result(result: Result, name: str) -> tuple[list[Tier], str]:
    """The step once more, on the links of the cluster."""
    from simulator.network.topology import build
    from simulator.scenario.parts import scenario_of
    from simulator.training.link_phases import link_loads
    from simulator.training.step import estimate_step

    scenario = scenario_of(result.document)
    job = next(j for j in scenario.training if j.name == name)
    answer = estimate_step(job, scenario.cluster_of(name), "step", with_interval=False)
    topology = build(scenario.cluster)
    loads = link_loads(answer.details["pipeline"], topology, scenario.placement(name).first)
    fabric = scenario.cluster.fabric
    said = f", oversubscribed {fabric.oversubscription:g}:1" if fabric.oversubscription > 1 else ""
    with np.errstate(divide="ignore", invalid="ignore"):
        use = np.nan_to_num(loads / topology.links.capacity / answer.seconds)
    return tiers_of(topology, use), f"{topology.name}{said}"


def _places(topology: Topology, links: NDArray[np.int64], kind: str) -> NDArray[np.int64]:
    """Number of the node or switch every link belongs to: of the lower end, where it joins switches."""
    if kind in ("nic", "scale_up"):
        names = [topology.links.name(int(i)).partition("/")[0] for i in links]
    else:
        names = [str(min(topology.links.source[i], topology.links.target[i])) for i in links]
    order = dict.fromkeys(names)
    number = {name: i for i, name in enumerate(order)}
    return np.array([number[n] for n in names])


def _pooled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most 128 cells: neighbours by the busiest of them."""
    if len(values) <= _MOST_CELLS:
        return values
    return np.array([part.max() for part in np.array_split(values, _MOST_CELLS)])


def _label(tier: Tier) -> str:
    label, unit = _TIERS[tier.kind]
    several = {"switch": "switches"}.get(unit, f"{unit}s") if tier.places > 1 else unit
    return f"{label}\n{tier.places:,} {several}"


def _figures(ax: Axes, place: int, tier: Tier, cells: Sequence[float] | NDArray[np.float64], colours: Any) -> None:
    ax.annotate(
        f"busiest {100 * float(tier.busiest.max()):.3g} %\nmean {100 * tier.mean:.3g} %", (1, place), (8, 0),
        textcoords="offset points", va="center", fontsize=8.5, color=ink_of(ax), annotation_clip=False,
    )  # fmt: skip
    if len(cells) > _FEW:
        return
    for i, value in enumerate(cells):
        if math.isfinite(value):
            ink = ink_on(colours.to_rgba(value)[:3])
            middle = (i + 0.5) / len(cells)
            ax.text(middle, place, f"{value:.2g}", ha="center", va="center", fontsize=8, color=ink)
