"""Which of the equal-cost ways carry how much: hashing and its collisions, spraying, adapting, going round faults."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.engine.clock import Clock
from simulator.errors import ConfigError
from simulator.hardware.types import LinkFault, Routing
from simulator.network.detours import NoWayError
from simulator.network.fabric import Fabric
from simulator.network.hashing import ecmp_hash, ecmp_hashes
from simulator.network.topology import build


def fat_tree(make_cluster, routing: Routing, **options):
    cluster = make_cluster(16, "fat-tree", nodes_per_leaf=4, **options)
    return build(replace(cluster, fabric=replace(cluster.fabric, routing=routing)))


def random_pairs(t, count: int, seed: int = 0):
    """Accelerators of the first leaf to those of the second."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 32, count), rng.integers(32, 64, count)


def test_hashes_of_many_are_those_of_each() -> None:
    a, b = np.arange(50), np.arange(50) * 7919
    assert ecmp_hashes(a, b, 3).tolist() == [ecmp_hash(x, y, 3) for x, y in zip(a.tolist(), b.tolist(), strict=True)]


@pytest.mark.parametrize("topology", ["fat-tree", "rail-optimized", "dragonfly", "torus"])
def test_hashed_loads_are_those_of_the_paths(make_cluster, topology) -> None:
    cluster = make_cluster(8, topology)
    options = () if topology in ("dragonfly", "torus") else (("nodes_per_leaf", 2),)
    fabric = replace(cluster.fabric, routing=Routing("ecmp", connections=2), options=options)
    t = build(replace(cluster, fabric=fabric))
    rng = np.random.default_rng(1)
    source, target, volume = rng.integers(0, 64, 80), rng.integers(0, 64, 80), rng.random(80)
    expected = np.zeros(len(t.links))
    for a, b, size in zip(source.tolist(), target.tolist(), volume.tolist(), strict=True):
        for connection in range(2):
            for link in t.path(a, b, connection):
                expected[link] += size / 2
    assert t.loads(source, target, volume) == pytest.approx(expected)


def test_collisions_of_hashed_connections_are_those_of_balls_in_bins(make_cluster) -> None:
    """n connections on m uplinks leave m (1 − 1/m)^n of them idle and share one n (n − 1)/(2 m) times."""
    t = fat_tree(make_cluster, Routing("ecmp"))
    uplinks, connections = t.wiring.spines, 24
    idle, shared = [], []
    for trial in range(400):
        source, target = random_pairs(t, connections, trial)
        pairs = np.unique(np.stack([source, target]), axis=1)
        load = t.loads(pairs[0], pairs[1], np.ones(pairs.shape[1]))[t.wiring.leaf_up[0]]
        n = load.sum()
        idle.append((load == 0).sum() - uplinks * (1 - 1 / uplinks) ** n)
        shared.append((load * (load - 1) / 2).sum() - n * (n - 1) / 2 / uplinks)
    for surplus in (np.array(idle), np.array(shared)):
        assert abs(surplus.mean()) < 4 * surplus.std() / np.sqrt(len(surplus))
    assert np.std(idle) > 0


def test_more_connections_collide_less_and_spraying_not_at_all(make_cluster) -> None:
    busiest = []
    for routing in (Routing("ecmp"), Routing("ecmp", connections=16), Routing("spray")):
        t = fat_tree(make_cluster, routing)
        source, target = np.arange(32), np.arange(32, 64)
        busiest.append(t.loads(source, target, np.ones(32))[t.wiring.leaf_up[0]].max())
    assert busiest[0] > busiest[1] > busiest[2] == pytest.approx(32 / t.wiring.spines)


def test_rails_without_proxies_take_the_spines(make_cluster) -> None:
    """GPU 0 of one node to GPU 1 of another: over NVLink to rail 1 first (PXN), or up to the spines and down."""
    cluster = make_cluster(4, "rail-optimized")
    kinds = []
    for rail_aware in (True, False):
        t = build(replace(cluster, fabric=replace(cluster.fabric, routing=Routing(rail_aware=rail_aware))))
        assert (t.loads(np.array([0]), np.array([9]), np.ones(1)) > 0).sum() > 0
        kinds.append({t.links.kind_of(i) for i in t.path(0, 9)})
    assert "scale_up" in kinds[0]
    assert "leaf_spine" not in kinds[0]
    assert "scale_up" not in kinds[1]
    assert "leaf_spine" in kinds[1]


@pytest.mark.parametrize("policy", ["spray", "ecmp", "adaptive"])
def test_traffic_goes_round_a_lost_spine(make_cluster, policy) -> None:
    t = fat_tree(make_cluster, Routing(policy))
    capacity = t.links.capacity.copy()
    lost = t.links.matching("spine0")
    capacity[lost] = 0.0
    source, target = np.arange(32), np.arange(32, 64)
    loads = np.zeros(len(t.links))
    t.add_loads(loads, source, target, np.ones(32), capacity)
    assert not loads[lost].any()
    assert loads[t.wiring.leaf_up[0]].sum() == pytest.approx(32)
    assert loads[t.wiring.leaf_down[1]].sum() == pytest.approx(32)
    capacity[t.links.matching("spine*")] = 0.0
    with pytest.raises(NoWayError, match="no way left from leaf0 to leaf1"):
        t.add_loads(loads, source, target, np.ones(32), capacity)


def test_adapting_sends_less_over_a_degraded_way_and_spraying_does_not(make_cluster) -> None:
    shares = []
    for policy in ("spray", "adaptive"):
        t = fat_tree(make_cluster, Routing(policy))
        capacity = t.links.capacity.copy()
        capacity[t.wiring.leaf_up[0, 0]] /= 4
        loads = np.zeros(len(t.links))
        t.add_loads(loads, np.arange(32), np.arange(32, 64), np.ones(32), capacity)
        up = loads[t.wiring.leaf_up[0]]
        shares.append(up[0] / up[1:].mean())
    assert shares == pytest.approx([1.0, 0.25])


def test_faults_change_links_on_the_clock(make_cluster) -> None:
    """Where two faults meet the worst counts; each ends at its time; a pattern that fits nothing is refused."""
    from simulator.cluster.link_faults import LinkFaults

    t = build(make_cluster(4, "fat-tree", nodes_per_leaf=2))
    fabric, told = Fabric(Clock(), t), []
    fabric.watchers.append(lambda: told.append(fabric.clock.now))
    LinkFaults(fabric, [LinkFault("leaf0>spine0", 0.5, 1.0, 5.0), LinkFault("spine0", 0.0, 2.0, 3.0)])
    link = t.links.number("leaf0>spine0")
    whole, seen = t.links.capacity[link], []
    for moment in (0.5, 1.5, 2.5, 4.0, 6.0):
        fabric.clock.run(moment)
        seen.append(fabric.capacity[link] / whole)
    assert seen == [1.0, 0.5, 0.0, 0.5, 1.0]
    assert told == [0.0, 1.0, 2.0, 3.0, 5.0]
    with pytest.raises(ConfigError, match="did you mean 'spine0'"):
        LinkFaults(fabric, [LinkFault("spin0")])
