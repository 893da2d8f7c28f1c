"""Bill of materials: what has to be bought for a cluster, what it draws and whether its racks can feed it.

Nodes, adapters and racks are counted from the cluster, switches and cables from its topology. In a fat tree the
simulator gives every uplink of a leaf a spine of its own; real spines take as many cables as they have ports, so the
spines of a pod (and the cores) are the fewest switches with enough ports.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from simulator.cluster.bom_scale_up import scale_up_parts
from simulator.hardware.network_power import link_family
from simulator.hardware.parts import Part, PartsList, load_parts
from simulator.hardware.types import Cluster, Link
from simulator.network.links import KINDS
from simulator.network.topology import Topology, build

__all__ = [
    "Bom", "BomRow", "NetworkCounts", "RackPlan", "bill_of_materials", "network_counts", "network_price",
    "network_rows", "ports_and_cables_counted", "rack_plan",
]  # fmt: skip

RACK_POWER = 40e3
"""Power of a rack where the scenario does not say [W]; assumed: four 8-accelerator servers of 10.2 kW."""

CONSOLIDATED = ("fat-tree", "rail-optimized")
_HEIGHT = {"leaf": 1, "spine": 2, "core": 3}
SWITCHLESS = ("torus", "scale-up")


@dataclass(frozen=True)
class NetworkCounts:
    """Switches by level, and cables: between switches, from node ports, and from storage."""

    switches: dict[str, int]
    between: int
    endpoints: int
    storage: int


@dataclass(frozen=True)
class BomRow:
    """One kind of thing.

    Attributes
    ----------
    count, spares
        In use, and beside it.
    unit
        Price of one, low and high [USD]; NaN where none is known.
    power
        Of all in use at most [W].
    """

    item: str
    part: str
    count: int
    spares: int
    unit: tuple[float, float]
    power: float
    source: str

    @property
    def price(self) -> tuple[float, float]:
        """Of all, spares included [USD]."""
        total = self.count + self.spares
        return total * self.unit[0], total * self.unit[1]


@dataclass(frozen=True)
class RackPlan:
    """Racks of nodes against what they can feed and cool [W]; 0 where that is not stated."""

    racks: int
    nodes: int
    draw: float
    power: float
    cooling: float
    assumed: str = ""

    @property
    def problems(self) -> tuple[str, ...]:
        """Why a rack does not work."""
        limits = {"feeds": self.power, "cools": self.cooling}
        return tuple(
            f"{self.nodes} nodes in a rack are rated {self.draw / 1e3:.1f} kW, but it {verb} {limit / 1e3:.1f} kW"
            for verb, limit in limits.items()
            if limit and self.draw > limit * (1 + 1e-9)
        )


@dataclass(frozen=True)
class Bom:
    """The whole bill."""

    rows: tuple[BomRow, ...]
    rack: RackPlan
    notes: tuple[str, ...]

    @property
    def price(self) -> tuple[float, float]:
        """Low and high of everything with a known price [USD]."""
        known = [row.price for row in self.rows if not math.isnan(row.unit[0])]
        return sum(low for low, _ in known), sum(high for _, high in known)

    @property
    def power(self) -> float:
        """At most, before the losses of the building [W]."""
        return sum(row.power for row in self.rows)


def bill_of_materials(cluster: Cluster, spares: int = 1, parts: PartsList | None = None) -> Bom:
    """Everything to buy for a cluster.

    Parameters
    ----------
    spares
        More of each kind of node, switch and adapter than are in use, and of each kind of cable and transceiver one
        per hundred but at least as many (N + 1 by default).
    parts
        Prices; by default the shipped list.

    Raises
    ------
    ConfigError
        If the network of the cluster cannot be built.
    """
    parts = parts or load_parts()
    rows = [*_nodes(cluster, spares), *_scale_up(cluster, spares), *network_rows(cluster, parts, spares)]
    plan = rack_plan(cluster)
    rows.append(BomRow("rack", "rack", plan.racks, 0, (math.nan, math.nan), 0.0, plan.assumed or "scenario"))
    notes = [f"no price is known of: {row.part}" for row in rows if math.isnan(row.unit[0])]
    notes += [f"prices of the network: {parts.source}"]
    return Bom(tuple(rows), plan, (*notes, *plan.problems))


def _nodes(cluster: Cluster, spares: int) -> list[BomRow]:
    rows = []
    for group in cluster.groups:
        node, nothing = group.node, (math.nan, math.nan)
        price, source = cluster.terms.node_price or node.price.purchase, f"{node.price.source} ({node.price.as_of})"
        if cluster.terms.node_price:
            source = cluster.terms.source or "scenario"
        elif price is None and node.accelerator.price.purchase is not None:
            low, high = node.accelerator.price.purchase
            price = (node.accelerators * low, node.accelerators * high)
            source = f"accelerators only: {node.accelerator.price.source} ({node.accelerator.price.as_of})"
        power = group.count * node.power_peak
        rows.append(BomRow("node", node.name, group.count, spares, price or nothing, power, source))
    return rows


def _scale_up(cluster: Cluster, spares: int) -> list[BomRow]:
    """Switches, optics and cables beyond the node, which are in its price and rating; spares of what can be swapped."""
    return [
        BomRow(
            p.item,
            p.part,
            p.count,
            _few(p.count, spares),
            (0.0, 0.0),
            0.0,
            "counted; in the price and rating of the nodes",
        )
        for p in scale_up_parts(cluster)
    ]


def network_rows(cluster: Cluster, parts: PartsList, spares: int) -> list[BomRow]:
    """Switches, adapters, transceivers and cables."""
    counts, link = network_counts(cluster), cluster.fabric.link
    switch = parts.switch(link_family(link), link.bandwidth)
    rows = []
    for level, count in counts.switches.items():
        rows.append(_row(level, switch, count, spares, parts, f"switch with ports of {_speed(link)}"))
    endpoints = counts.endpoints
    copper = cluster.fabric.topology == "single-switch" and rack_plan(cluster).racks == 1
    optical = counts.between + counts.storage + (0 if copper else endpoints)
    if copper and endpoints:
        cable = parts.of_speed(parts.copper, link.bandwidth)
        rows.append(_row("copper cable", cable, endpoints, _few(endpoints, spares), parts, f"{_speed(link)} cable"))
    if optical:
        light = parts.of_speed(parts.transceivers, link.bandwidth)
        few = _few(2 * optical, spares)
        rows.append(_row("transceiver", light, 2 * optical, few, parts, f"{_speed(link)} transceiver"))
        rows.append(_row("fibre", parts.fibre, optical, _few(optical, spares), parts, ""))
    ports: Counter[Link] = Counter()
    for group in cluster.groups:
        ports[group.node.nic] += group.count * group.node.nics
    for nic, count in ports.items():
        if count:
            # Adapters are part of a node's price: only spares are bought.
            adapter = parts.of_speed(parts.nics, nic.bandwidth)
            row = _row("network adapter (spares)", adapter, 0, spares, parts, f"adapter of {_speed(nic)}")
            rows.append(row)
    return rows


def _row(item: str, part: Part | None, count: int, spares: int, parts: PartsList, otherwise: str) -> BomRow:
    if part is None:
        return BomRow(item, otherwise, count, spares, (math.nan, math.nan), 0.0, "no price is known")
    return BomRow(item, part.name, count, spares, part.price, count * part.power[1], parts.source)


def _few(count: int, spares: int) -> int:
    return max(spares, math.ceil(count / 100)) if spares else 0


def _speed(link: Link) -> str:
    return f"{link.bandwidth * 8 / 1e9:.0f} Gb/s"


def network_price(cluster: Cluster) -> tuple[float, float]:
    """Price of switches, cables, optics and their spares per accelerator, low and high [USD]; NaN where unknown."""
    rows = network_rows(cluster, load_parts(), 1)
    size = cluster.accelerator_count
    return sum(r.price[0] for r in rows) / size, sum(r.price[1] for r in rows) / size


# -- counting -----------------------------------------------------------------------------------------------------


def network_counts(cluster: Cluster) -> NetworkCounts:
    """Switches and cables of a cluster's fabric."""
    endpoints = sum(g.count * g.node.nics for g in cluster.groups)
    if cluster.node_count == 1 and cluster.fabric.topology != "single-switch":
        return NetworkCounts({}, 0, 0, 0)
    topology = build(cluster)
    cables = _cables(topology)
    between, cable = sum(cables.values()), cluster.fabric.link.bandwidth
    storage = sum(math.ceil(max(s.read, s.write) / cable - 1e-9) for s in cluster.storage)
    if cluster.fabric.topology in SWITCHLESS:
        return NetworkCounts({}, between, 0, storage)
    loads: Counter[str] = Counter()
    for (a, b), count in cables.items():
        loads[a] += count
        loads[b] += count
    for port in topology.wiring.switch[: topology.ports.count]:
        loads[topology.links.vertex_names[int(port)]] += 1
    if storage:  # plugged in at the top
        loads[max(loads, key=lambda vertex: _HEIGHT.get(_level(vertex), 0))] += storage
    radix = dict(cluster.fabric.options).get("radix", 64)
    assert isinstance(radix, int)
    return NetworkCounts(_switches(loads, cluster.fabric.topology, radix), between, endpoints, storage)


def ports_and_cables_counted(cluster: Cluster) -> tuple[float, float]:
    """Switch ports in use and cables per network port of a node, counted in the built network.

    Zero in a torus: its cables join ports of nodes, whose rating has them.
    """
    counts, endpoints = network_counts(cluster), sum(g.count * g.node.nics for g in cluster.groups)
    if not endpoints or not counts.switches:
        return 0.0, 0.0
    joined = counts.endpoints + counts.between
    return (counts.endpoints + 2 * counts.between) / endpoints, joined / endpoints


def _cables(topology: Topology) -> dict[tuple[str, str], int]:
    """Cables by the two switches that they join; both directions of a link are one cable."""
    links, cable = topology.links, topology.cluster.fabric.link.achievable
    wanted = np.isin(links.kind, [KINDS.index(k) for k in ("leaf_spine", "spine_core")])
    found: dict[tuple[str, str], int] = {}
    directions: Counter[tuple[str, str]] = Counter()
    for i in np.flatnonzero(wanted):
        a, b = (links.vertex_names[int(v)] for v in (links.source[i], links.target[i]))
        if "gateway" in (_level(a), _level(b)):  # of storage, counted by its bandwidth
            continue
        pair = (a, b) if a < b else (b, a)
        directions[pair] += max(1, round(float(links.capacity[i]) / cable))
    for pair, count in directions.items():
        found[pair] = max(1, count // 2)
    return found


def _level(vertex: str) -> str:
    """``pod0/spine3`` is a spine."""
    return re.sub(r"[\d.]+$", "", vertex.rpartition("/")[2]) or "switch"


def _switches(loads: Counter[str], topology: str, radix: int) -> dict[str, int]:
    """Switches by level; the upper levels of a fat tree are as few as have enough ports."""
    ports: Counter[tuple[str, str]] = Counter()
    single: Counter[str] = Counter()
    for vertex, used in loads.items():
        level, pod = _level(vertex), vertex.rpartition("/")[0]
        if topology in CONSOLIDATED and level in ("spine", "core"):
            ports[level, pod] += used
        else:
            single[f"{level} switch"] += max(1, math.ceil(used / radix)) if topology in CONSOLIDATED else 1
    for (level, _), used in ports.items():
        single[f"{level} switch"] += math.ceil(used / radix)
    return dict(single)


def rack_plan(cluster: Cluster) -> RackPlan:
    """Racks, as many nodes in each as it takes or the scenario says."""
    rack, rating = cluster.rack, max(g.node.power_peak for g in cluster.groups)
    limits = [limit for limit in (rack.power, rack.cooling) if limit]
    assumed = ""
    nodes = rack.nodes
    if not nodes:
        assumed = "" if limits else f"assumed {RACK_POWER / 1e3:.0f} kW racks"
        nodes = max(1, math.floor(min(limits or [RACK_POWER]) * 1.03 / rating))
    return RackPlan(math.ceil(cluster.node_count / nodes), nodes, nodes * rating, rack.power, rack.cooling, assumed)
