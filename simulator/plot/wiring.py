"""A cluster's network as a picture: switches in tiers, or a graph where they stand side by side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from simulator.network.links import KINDS, class_of
from simulator.plot.style import FAINT, OKABE_ITO, drawing, finish, ink_of, titles
from simulator.units import format_quantity

if TYPE_CHECKING:
    import networkx as nx
    from matplotlib.axes import Axes
    from matplotlib.patches import FancyBboxPatch

    from simulator.network.topology import Topology

__all__ = ["topology_diagram"]

_MOST_BOXES = 12
"""Boxes of one tier that are drawn; of more, so many at equal distances."""
_MOST_NAMED = 12
"""Vertices or lines of a graph up to which each is told what it is: nodes below it, bandwidth and latency."""
_MOST_VERTICES = 64
"""Vertices of a graph that are drawn one by one; more are joined by the first part of their names."""

_FAR = 100e-6
"""[s] from which on the latency of a line is told: between sites, not between racks."""

Point = tuple[float, float]


class _Tier(NamedTuple):
    name: str
    members: list[str]


def topology_diagram(topology: Topology, ax: Axes | None = None) -> Axes:
    """Nodes, switches and the cables between them, with numbers and bandwidths; readable at any size.

    Fabrics of tiers are drawn from the nodes at the bottom to the core at the top; where a tier has more than 12
    members, some stand for all. Flat fabrics (torus, dragonfly, any graph) are drawn as a graph, by groups where
    there are many switches. Links inside nodes and to storage are left out.
    """
    graph, nodes = _between_switches(topology)
    tiers = _tiers(graph, nodes)
    width, height = (9.0, 1.6 + 1.15 * len(tiers)) if tiers else (8.0, 7.0)
    with drawing(ax, width, height) as axes:
        if tiers:
            _draw_tiers(axes, graph, tiers)
            note = (
                "a line is the cables between two boxes, wider with more bandwidth; of large tiers some stand for all"
            )
        else:
            note = _draw_graph(axes, topology, graph)
        axes.set_axis_off()
        count = f"{_counted(topology.node_count, 'node')}, {_counted(topology.accelerator_count, 'accelerator')}"
        titles(axes, f"{topology.cluster.name}: {topology.name}, {count}", note)
        finish(axes, None)
        return axes


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _between_switches(topology: Topology) -> tuple[nx.Graph[str], list[str]]:
    """Graph of nodes and switches with bandwidth of one direction and number of cables; the nodes among them."""
    import networkx as nx

    links = topology.links
    kinds = {
        kind: i for i, kind in enumerate(("scale_up", "host", "nic", "leaf_spine", "spine_core", "wan", "storage"))
    }
    wanted = np.isin(links.kind, [kinds[k] for k in ("nic", "leaf_spine", "spine_core", "wan")])
    graph: nx.Graph[str] = nx.Graph()
    for i in np.flatnonzero(wanted).tolist():
        ends = [links.vertex_names[int(v)] for v in (links.source[i], links.target[i])]
        a, b = (name.partition("/")[0] if name.startswith("node") else name for name in ends)
        if "gateway" in ends[0] + ends[1] and "site" not in ends[0] + ends[1]:
            continue
        known = graph.get_edge_data(a, b, {"bandwidth": 0.0, "cables": 0, "latency": 0.0})
        graph.add_edge(
            a, b, bandwidth=known["bandwidth"] + links.capacity[i] / 2, cables=known["cables"] + 0.5,
            latency=max(known["latency"], float(links.latency[i])),
        )  # fmt: skip
    return graph, [n for n in graph if n.startswith("node")]


def _tiers(graph: nx.Graph[str], nodes: list[str]) -> list[_Tier]:
    """Tiers from the nodes up; none when links join members of one tier."""
    level = dict.fromkeys(nodes, 0)
    frontier, height = list(nodes), 0
    while frontier:
        height += 1
        frontier = [n for n in dict.fromkeys(m for f in frontier for m in graph[f]) if n not in level]
        level |= dict.fromkeys(frontier, height)
    if any(level[a] == level[b] for a, b in graph.edges):
        return []
    found = []
    for number in range(max(level.values(), default=0) + 1):
        members = [n for n in graph if level[n] == number]
        names = dict.fromkeys(class_of(n).rpartition("/")[2] for n in members)
        found.append(_Tier(" and ".join(name.strip(".") for name in names), members))
    return found


def _draw_tiers(ax: Axes, graph: nx.Graph[str], tiers: list[_Tier]) -> None:
    at: dict[str, Point] = {}
    colours = [OKABE_ITO[c] for c in ("blue", "green", "orange", "vermillion", "purple")]
    for height, tier in enumerate(tiers):
        shown = _some(tier.members)
        places = np.linspace(0, 1, len(shown) + 2)[1:-1]
        at |= {name: (float(x), float(height)) for name, x in zip(shown, places, strict=True) if name}
    drawn = [(a, b, data) for a, b, data in graph.edges(data=True) if a in at and b in at]
    widest = max((data["bandwidth"] for _, _, data in drawn), default=1.0)
    thick = min(3.0, 240 / (len(drawn) + 1))
    for a, b, data in drawn:
        (x, y), (u, v) = at[a], at[b]
        ax.plot([x, u], [y, v], color="#9A9A9A", linewidth=0.3 + thick * data["bandwidth"] / widest, zorder=1)
    for height, tier in enumerate(tiers):
        shown = _some(tier.members)
        size = min(0.03, 0.7 / (len(shown) + 1))
        for name, x in zip(shown, np.linspace(0, 1, len(shown) + 2)[1:-1].tolist(), strict=True):
            if name:
                ax.add_patch(_box(x, height, size, colours[height % len(colours)]))
            else:
                ax.annotate("…", (x, height), ha="center", va="center", color=ink_of(ax), zorder=3)
        ax.annotate(
            _tier_text(graph, tiers, height), (1.01, height), ha="left", va="center", fontsize=8.5, color=ink_of(ax)
        )
    ax.set_xlim(0, 1.36)
    ax.set_ylim(-0.4, len(tiers) - 0.6)


def _box(x: float, y: float, size: float, colour: str) -> FancyBboxPatch:
    from matplotlib.patches import FancyBboxPatch

    return FancyBboxPatch(
        (x - size / 2, y - 0.1), size, 0.2, boxstyle="round,pad=0,rounding_size=0.006", facecolor=colour,
        edgecolor="white", linewidth=0.6, zorder=2, mutation_aspect=8,
    )  # fmt: skip


def _some(members: list[str]) -> list[str]:
    """Members that are drawn, with an empty name where others are left out."""
    if len(members) <= _MOST_BOXES:
        return members
    chosen = [members[i] for i in np.linspace(0, len(members) - 1, _MOST_BOXES).round().astype(int).tolist()]
    return [name for each in chosen for name in (each, "")][:-1]


def _tier_text(graph: nx.Graph[str], tiers: list[_Tier], height: int) -> str:
    """What a tier is and how much bandwidth leads up from it; the ratio of what comes from below to that."""
    tier = tiers[height]
    lines = [f"{len(tier.members):,} × {tier.name}"]
    above = set(tiers[height + 1].members) if height + 1 < len(tiers) else set()
    below = set(tiers[height - 1].members) if height else set()
    up = [graph[a][b] for a in tier.members for b in graph[a] if b in above]
    if up:
        total, cables = sum(e["bandwidth"] for e in up), sum(e["cables"] for e in up)
        lines.append(f"{cables:,.0f} links up, {format_quantity(total / cables, 'bandwidth')} each")
        worst = max(
            sum(graph[a][b]["bandwidth"] for b in graph[a] if b in below)
            / (sum(graph[a][b]["bandwidth"] for b in graph[a] if b in above) or math.inf)
            for a in tier.members
        )
        if worst > 0:
            lines.append(f"oversubscribed {worst:.3g} : 1" if worst > 1.001 else "non-blocking")
    return "\n".join(lines)


# -- flat fabrics ------------------------------------------------------------------------------------------------------


def _draw_graph(ax: Axes, topology: Topology, graph: nx.Graph[str]) -> str:
    """Switches as a graph; returns what the picture shows."""
    import networkx as nx

    below = {s: [n for n in graph[s] if n.startswith("node")] for s in graph if not s.startswith("node")}
    switches = graph.subgraph(below).copy()
    sites = bool((topology.links.kind == KINDS.index("wan")).any())
    grid = getattr(topology.wiring, "shape", None)  # a torus has its own picture, however large
    joined = sites or (grid is None and len(switches) > _MOST_VERTICES)
    shown = _joined(switches) if joined else switches
    held: dict[str, set[str]] = {name: set() for name in shown}
    for name, nodes in below.items():
        held[name.partition("/")[0] if joined else name] |= set(nodes)
    at = _on_grid(list(shown), grid) if grid else {}
    if not at:
        ring = len(shown) > 2 and nx.density(shown) > 0.6
        found = nx.circular_layout(shown) if ring else nx.kamada_kawai_layout(shown)
        at = {name: (float(x), float(y)) for name, (x, y) in found.items()}
    _draw_lines(ax, shown, at)
    points = np.array([at[name] for name in shown])
    ax.scatter(points[:, 0], points[:, 1], s=_area(len(shown)), color=OKABE_ITO["blue"], zorder=2)
    for name, label in _labels(list(shown), held).items():
        ax.annotate(label, at[name], ha="center", va="center", color="white", fontsize=6.5, zorder=3)
    ax.margins(0.15 if len(shown) <= _MOST_NAMED else 0.08)
    ax.set_facecolor(FAINT)
    each = sorted({len(nodes) for nodes in held.values()})
    rings = "; the two ends of a row are joined" if any(getattr(topology.wiring, "wrap", ())) else ""
    rings += ", those of short rows with a shift" if getattr(topology.wiring, "twisted", False) else ""
    hold = f"{_nodes(each[0])} each" if len(each) == 1 else f"{each[0]:,} to {_nodes(each[-1])} each"
    speeds = [d["bandwidth"] for _, _, d in shown.edges(data=True)]
    what = "sites" if sites else "groups of switches" if joined else "switches"
    between = format_quantity(float(np.median(speeds)), "bandwidth") if speeds else "nothing"
    return f"{len(shown)} {what} with {hold}; a line: the cables between two, typically {between}{rings}"


def _draw_lines(ax: Axes, shown: nx.Graph[str], at: dict[str, Point]) -> None:
    """Cables between switches, thinner where there are many; a few with bandwidth, and latency if they are long."""
    edges = list(shown.edges(data=True))
    widest = max((data["bandwidth"] for _, _, data in edges), default=1.0)
    thick = min(2.4, 120 / (len(edges) + 1))
    for a, b, data in edges:
        (x, y), (u, v) = at[a], at[b]
        ax.plot([x, u], [y, v], color="#9A9A9A", linewidth=0.2 + thick * data["bandwidth"] / widest, zorder=1)
        if len(edges) <= _MOST_NAMED:
            text = format_quantity(data["bandwidth"], "bandwidth")
            if data["latency"] >= _FAR:
                text += f"\n{format_quantity(data['latency'], 'time')}"
            box = {"boxstyle": "round,pad=0.2", "facecolor": ax.get_facecolor(), "edgecolor": "none"}
            ax.annotate(
                text, ((x + u) / 2, (y + v) / 2), ha="center", va="center", fontsize=8, color=ink_of(ax), bbox=box,
                zorder=2,
            )  # fmt: skip


def _labels(names: list[str], held: dict[str, set[str]]) -> dict[str, str]:
    """Names without what all have in front; only their numbers, where there are many."""
    fronts = {name.rpartition("/")[0] for name in names}
    short = {name: name.rpartition("/")[2] if len(fronts) == 1 else name for name in names}
    if len(names) <= _MOST_NAMED:
        return {name: f"{label}\n{_nodes(len(held[name]))}" for name, label in short.items()}
    if len(names) < 40:
        return short
    return {name: "".join(c for c in label if c.isdigit() or c == "/").strip("/") for name, label in short.items()}


def _nodes(count: int) -> str:
    return f"{count:,} node{'' if count == 1 else 's'}"


def _area(count: int) -> float:
    """Of a vertex [points²], so that its label fits."""
    return 2600.0 if count <= _MOST_NAMED else 1100.0 if count < 40 else 260.0


def _joined(graph: nx.Graph[str]) -> nx.Graph[str]:
    """Vertices joined by the first part of their names, cables between them added up."""
    import networkx as nx

    found: nx.Graph[str] = nx.Graph()
    found.add_nodes_from(dict.fromkeys(name.partition("/")[0] for name in graph))
    for a, b, data in graph.edges(data=True):
        x, y = a.partition("/")[0], b.partition("/")[0]
        if x != y:
            known = found.get_edge_data(x, y, {"bandwidth": 0.0, "cables": 0, "latency": 0.0})
            found.add_edge(
                x, y, bandwidth=known["bandwidth"] + data["bandwidth"], cables=known["cables"] + 1,
                latency=max(known["latency"], data["latency"]),
            )  # fmt: skip
    return found


def _on_grid(names: list[str], shape: tuple[int, ...]) -> dict[str, Point]:
    """Places of the routers of a torus: the two longest dimensions flat, the third slanted."""
    longest = sorted(range(len(shape)), key=lambda d: -shape[d])
    found: dict[str, Point] = {}
    for name in names:
        place = np.unravel_index(int("".join(c for c in name if c.isdigit())), shape)
        x, y, z = (*(float(place[d]) for d in longest), 0.0, 0.0)[:3]
        found[name] = (x + 0.33 * z, y + 0.27 * z)
    return found
