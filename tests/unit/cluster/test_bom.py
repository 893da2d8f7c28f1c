"""Bill of materials against closed forms and published counts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from simulator.cluster.bom import (
    bill_of_materials,
    network_counts,
    network_rows,
    ports_and_cables_counted,
    rack_plan,
)
from simulator.cluster.bom_scale_up import scale_up_parts
from simulator.hardware.network_power import ports_and_cables, power_per_port
from simulator.hardware.parts import load_parts
from simulator.hardware.profiles import load_link, load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup, Rack, Storage, Terms


def cluster(
    nodes: int, topology: str = "fat-tree", ports: int = 8, storage: float = 0.0, ratio: float = 1.0, **options: object
) -> Cluster:
    node = replace(load_node("dgx-h100"), nics=ports)
    fabric = Fabric(topology, load_link("ndr400"), ratio, tuple(sorted(options.items())))
    stores = (Storage("store", "parallel-fs", storage, storage),) if storage else ()
    return Cluster("c", (NodeGroup(node, nodes),), fabric, stores)


@pytest.mark.parametrize("k", [4, 8, 16])
def test_a_k_ary_fat_tree_has_five_quarters_k_squared_switches(k: int) -> None:
    # Al-Fares et al., SIGCOMM 2008: k pods of k/2 edge and k/2 aggregation switches, (k/2)² cores, k³/4 hosts.
    half = k // 2
    counts = network_counts(cluster(k**3 // 4, ports=1, radix=k, levels=3, nodes_per_leaf=half, leaves_per_pod=half))
    assert counts.switches == {"leaf switch": k * half, "spine switch": k * half, "core switch": half**2}
    assert counts.between == 2 * k**3 // 4
    assert counts.endpoints == k**3 // 4


def test_a_two_layer_fat_tree_counts_and_costs_what_deepseek_published() -> None:
    # arXiv 2505.09343, table of topologies: 2,048 endpoints, 96 switches of 64 ports, 2,048 links, 9 MUSD.
    whole = cluster(256, "rail-optimized", radix=64)
    counts = network_counts(whole)
    assert sum(counts.switches.values()) == 96
    assert counts.between == 2048
    rows = network_rows(whole, load_parts(), 0)
    assert sum(r.price[0] for r in rows) < 9e6 < sum(r.price[1] for r in rows)


def test_a_three_layer_fat_tree_counts_what_deepseek_published() -> None:
    # The same table: 65,536 endpoints, 5,120 switches, 131,072 links.
    counts = network_counts(cluster(8192, ports=8, radix=64, levels=3, nodes_per_leaf=4, leaves_per_pod=32))
    assert sum(counts.switches.values()) == 5120
    assert counts.between == 131072


def test_oversubscription_saves_spines_and_cables() -> None:
    whole = {ratio: network_counts(cluster(64, ratio=ratio, nodes_per_leaf=4)) for ratio in (1.0, 4.0)}
    assert whole[4.0].between == whole[1.0].between // 4
    assert whole[4.0].switches["spine switch"] <= math.ceil(whole[1.0].switches["spine switch"] / 4) + 1


def test_a_torus_needs_no_switches_and_one_box_no_network() -> None:
    torus = network_counts(cluster(64, "torus", ports=6, shape=(4, 4, 4)))
    assert torus.switches == {}
    assert torus.between == 3 * 64
    assert network_counts(cluster(1)).between == 0


def test_storage_takes_cables_of_its_own() -> None:
    without, with_store = (network_counts(cluster(64, storage=s)) for s in (0.0, 400e9))
    assert without.storage == 0
    assert with_store.storage == 8  # 400 GB/s over cables of 400 Gb/s
    assert with_store.between == without.between


def test_spares_are_n_plus_one_of_every_kind() -> None:
    bare, spared = (bill_of_materials(cluster(8), n) for n in (0, 1))
    assert all(row.spares == 0 for row in bare.rows)
    for row in spared.rows:
        assert row.spares >= 1 or row.item == "rack"
    assert spared.price[0] > bare.price[0]
    assert spared.power == bare.power, "spares lie on a shelf"


def test_racks_hold_what_they_can_feed_and_cool() -> None:
    whole = cluster(10)
    rating = whole.groups[0].node.power_peak
    fed = rack_plan(replace(whole, rack=Rack(power=3 * rating, cooling=5 * rating)))
    assert (fed.nodes, fed.racks, fed.problems) == (3, 4, ())
    hot = rack_plan(replace(whole, rack=Rack(4, 5 * rating, 3 * rating)))
    assert "cools" in hot.problems[0]


def test_a_price_that_nobody_knows_is_said_not_guessed() -> None:
    whole = replace(cluster(8), fabric=Fabric("fat-tree", load_link("edr100")))
    found = bill_of_materials(whole)
    assert any("100 Gb/s" in note for note in found.notes)
    assert math.isfinite(found.price[0])
    quoted = bill_of_materials(replace(cluster(8), terms=Terms(node_price=(1.0, 2.0), source="quote")), 0)
    assert quoted.rows[0].price == (8.0, 16.0)


THREE_LEVELS = {"radix": 64, "levels": 3, "nodes_per_leaf": 4, "leaves_per_pod": 32}


@pytest.mark.parametrize(("nodes", "options"), [(256, {"radix": 64}), (8192, THREE_LEVELS)])
def test_power_per_port_counts_the_ports_and_cables_of_the_bill(nodes: int, options: dict[str, object]) -> None:
    whole = cluster(nodes, "fat-tree", **options)
    counts, (ports, cables) = network_counts(whole), ports_and_cables(whole)
    assert ports * counts.endpoints == sum(counts.switches.values()) * 64
    assert cables * counts.endpoints == counts.between + counts.endpoints


def test_the_power_of_a_small_network_is_that_of_its_switch() -> None:
    # One switch of 64 ports over eight nodes of eight: typical 747 W (Dell's eight MLPerf nodes read 691 W for theirs).
    whole = cluster(8, "single-switch")
    optics = sum(load_parts().of_speed(load_parts().transceivers, 50e9).power) / 2  # type: ignore[union-attr]
    assert 64 * power_per_port(whole) == pytest.approx(747 + 64 * optics)
    assert power_per_port(cluster(1)) == 0.0


def whole_of(profile: str, nodes: int) -> Cluster:
    node = load_node(profile)
    return Cluster("c", (NodeGroup(node, nodes),), Fabric("fat-tree", node.nic))


def test_scale_up_parts_are_those_that_were_published() -> None:
    def counts(profile: str, nodes: int) -> dict[str, int]:
        return {f"{p.item}: {p.part}": p.count for p in scale_up_parts(whole_of(profile, nodes))}

    # 4,096 chips: 48 optical circuit switches, 6,144 optical links (glennklockwood.com/garden/processors/TPUv4).
    pod = counts("tpu-v4-host", 1024)
    assert pod["optical circuit switch: 128 ports"] == 48
    assert pod["scale-up fibre: fibre to a circuit switch"] == 6144
    assert counts("tpu-v4-host", 16) == {}, "one cube of 64 chips has copper only"
    # 336 switches in 48 nodes and 112 above them (arXiv 2506.12708), 14 optical 400G modules per NPU.
    supernode = counts("cloudmatrix-node", 48)
    assert [supernode[f"scale-up switch: UB switch {where}"] for where in ("in a node", "above")] == [336, 112]
    assert supernode["scale-up transceiver: 400G optical module"] == 14 * 384
    # Nine trays of two switches, 5,184 copper cables.
    rack = counts("gb200-nvl72", 18)
    assert sorted(rack.values()) == [18, 5184]
    assert counts("dgx-h100", 64) == {}


def test_parts_that_are_sold_with_the_nodes_cost_nothing_again() -> None:
    rows = {row.item: row for row in bill_of_materials(whole_of("gb200-nvl72", 36)).rows}
    assert rows["scale-up switch"].count == 36
    assert rows["scale-up switch"].price == (0.0, 0.0)
    assert rows["scale-up switch"].spares >= 1


def test_the_network_of_any_topology_draws_power() -> None:
    """A dragonfly's routers, by ports in use: counted in the built network, a fat tree both ways."""
    tree = cluster(64, nodes_per_leaf=4, levels=2)
    ports, cables = ports_and_cables_counted(tree)
    assert (ports, cables) == pytest.approx(ports_and_cables(tree))
    fly = cluster(36, "dragonfly", ports=1)
    ports, cables = ports_and_cables_counted(fly)
    found = network_counts(fly)
    assert ports == pytest.approx(1 + 2 * found.between / 36)
    assert power_per_port(fly, (ports, cables)) > power_per_port(fly, (1.0, 1.0)) > 0
    assert ports_and_cables_counted(cluster(64, "torus", ports=6, shape=(4, 4, 4))) == (0.0, 0.0)
