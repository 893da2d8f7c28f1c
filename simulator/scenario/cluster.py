"""The cluster of a scenario: named parts put together, and what was assumed where nothing is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from simulator.errors import ConfigError
from simulator.hardware.network_power import IN_CLOSED_FORM, power_per_port
from simulator.hardware.types import Cluster, Fabric, Link, NodeGroup, Rack, Site, Storage, Terms
from simulator.scenario.spec import ClusterSpec, FabricSpec, ScenarioSpec, SiteSpec, TrainingSpec
from simulator.scenario.spec_money import PriceSpec
from simulator.units import format_quantity

__all__ = ["build_cluster", "site_of", "terms_of"]

STORAGE_PER_ACCELERATOR = 2e12 / 16384
"""Sustained bandwidth of a shared file system per accelerator [B/s]: 2 TB/s for the 16K H100 that trained Llama 3
(arXiv 2407.21783, section 3.3.1)."""

Load = Callable[[tuple[str | int, ...], str, str, Any], Any]


def build_cluster(scenario: ScenarioSpec, load: Load, warn: Callable[[str], None]) -> Cluster:
    """Nodes, fabric, storage and site as one value.

    A named cluster (``profile``) is the start, and every section that is written replaces its part.
    """
    from simulator.hardware.profiles import load_cluster, load_node

    spec = scenario.cluster
    named: Cluster | None = None
    if spec.profile is not None:
        named = load(("cluster", "profile"), "hardware_profiles/clusters", spec.profile, load_cluster)
    groups = named.groups if named is not None else ()
    if spec.nodes is not None:
        groups = tuple(
            NodeGroup(
                load(("cluster", "nodes", i, "profile"), "hardware_profiles/nodes", n.profile, load_node), n.count
            )
            for i, n in enumerate(spec.nodes)
        )
    site = named.site if named is not None else Site()
    if spec.site is not None:
        site = site_of(spec.site)
    if not site.power_price:
        warn("cluster.site.power_price is not given: electricity is counted as free")
    storage = tuple(Storage(s.name, s.kind, s.read, s.write, s.capacity, s.latency) for s in spec.storage)
    storage = storage or (named.storage if named is not None else ())
    if not storage:
        storage = _assumed_storage(scenario, sum(g.count * g.node.accelerators for g in groups), warn)
    cluster = Cluster(
        name=named.name if named is not None and spec.nodes is None else scenario.name,
        groups=groups,
        fabric=_fabric(spec, groups, named, load, warn),
        storage=storage,
        site=site,
        rack=Rack(spec.rack.nodes or 0, spec.rack.power, spec.rack.cooling) if spec.rack else Rack(),
        terms=terms_of(spec.price),
        factors=dict(scenario.constants),
    )
    cluster = replace(cluster, port_power=_port_power(cluster))
    if cluster.terms.mode == "purchase" and cluster.terms.network is None:
        from simulator.cluster.bom import network_price

        price = network_price(cluster)
        cluster = replace(cluster, terms=replace(cluster.terms, network=None if math.isnan(price[0]) else price))
        warn("cluster.price.network is not given: taken from the bill of materials, whose prices are assumed")
    return cluster


def _port_power(cluster: Cluster) -> float:
    """Draw of the network per port of a node [W]."""
    if cluster.fabric.topology in IN_CLOSED_FORM or cluster.node_count == 1:
        return power_per_port(cluster)
    from simulator.cluster.bom import ports_and_cables_counted

    try:
        return power_per_port(cluster, ports_and_cables_counted(cluster))
    except ConfigError:  # told where the network is checked
        return 0.0


def site_of(spec: SiteSpec) -> Site:
    """A place; curves by hour keep their mean beside them."""
    prices, carbons = spec.power_price, spec.carbon
    return Site(
        spec.name, sum(prices) / len(prices), sum(carbons) / len(carbons), spec.pue,
        prices if len(prices) > 1 else (), carbons if len(carbons) > 1 else (),
    )  # fmt: skip


def terms_of(spec: PriceSpec | None) -> Terms:
    """How machines are paid for."""
    if spec is None:
        return Terms()
    nothing = (0.0, 0.0)
    source = ", ".join(filter(None, (spec.source, spec.as_of)))
    return Terms(
        spec.mode, spec.rent, spec.node, spec.lifetime, spec.residual, spec.maintenance or nothing,
        spec.hosting or nothing, spec.network, source,
    )  # fmt: skip


def _assumed_storage(scenario: ScenarioSpec, accelerators: int, warn: Callable[[str], None]) -> tuple[Storage, ...]:
    """Shared file systems that checkpoints are written to, where the scenario does not describe them."""
    saved = (w.checkpoint.to for w in scenario.workloads if isinstance(w, TrainingSpec) and w.checkpoint is not None)
    tiers = []
    for name in dict.fromkeys(to for to in saved if to != "nvme"):
        speed = STORAGE_PER_ACCELERATOR * accelerators
        warn(
            f"cluster.storage '{name}' is not described: assumed {format_quantity(speed, 'bandwidth')} for reading and "
            f"writing, per accelerator that of Llama 3's training cluster (arXiv 2407.21783)"
        )
        tiers.append(Storage(name, "parallel-fs", speed, speed, sources=("arXiv 2407.21783, section 3.3.1",)))
    return tuple(tiers)


def _fabric(
    spec: ClusterSpec, groups: tuple[NodeGroup, ...], named: Cluster | None, load: Load, warn: Callable[[str], None]
) -> Fabric:
    port = groups[0].node.nic
    if spec.fabric is None:
        if named is not None:
            return named.fabric
        if sum(g.count for g in groups) > 1:
            warn(f"cluster.fabric is not given: assumed a non-blocking fat-tree of the nodes' own ports ({port.name})")
        return Fabric("fat-tree", port)
    fabric = spec.fabric
    return Fabric(
        topology=fabric.topology,
        link=_link(fabric, port, load),
        oversubscription=fabric.oversubscription,
        options=tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in fabric.options.items())),
        routing=fabric.routing.resolved(),
        faults=tuple(fault.resolved() for fault in fabric.faults),
    )


def _link(fabric: FabricSpec, port: Link, load: Load) -> Link:
    link = port
    if fabric.link is not None:
        from simulator.hardware.profiles import load_link

        link = load(("cluster", "fabric", "link"), "hardware_profiles/networks", fabric.link, load_link)
    if fabric.bandwidth is not None:
        link = replace(link, bandwidth=fabric.bandwidth)
    return link if fabric.latency is None else replace(link, latency=fabric.latency)
