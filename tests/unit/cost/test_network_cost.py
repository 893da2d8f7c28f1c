"""Closed forms, orders of trust and properties of collectives."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from cost_devices import FABRIC, LIBRARY, accelerator, constants, node
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.constants import Trust
from simulator.cost.collectives import alpha_sqrt_beta, nccl_hops, nccl_latency, torus_all_to_all_share, wire_bytes
from simulator.cost.measured import Lender, find_fit, interpolate
from simulator.cost.network import CommGroup, NetworkCost
from simulator.hardware.types import Curve, Fabric, Link, NetworkProfile, ScaleUp
from simulator.strategies.rank_layout import RankLayout
from simulator.workload.framework import Framework
from simulator.workload.ops import Collective, OpKind, Work
from simulator.workload.plan import Plan

OPERATIONS = ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv"]


def network(node_=None, fabric: Fabric = FABRIC, known: tuple[Lender, ...] = (), **more: object) -> NetworkCost:  # type: ignore[no-untyped-def]
    return NetworkCost(node_ or node(), fabric, known=lambda: known, library=lambda: LIBRARY, **more)  # type: ignore[arg-type]


def message(operation: str, size: float) -> Work:
    return Work(OpKind.COLLECTIVE, "bf16", collective=operation, message=size)


IDEAL = ScaleUp(Link("ideal", 100e9, 0.0, efficiency=1.0 - 1e-12), 64)
"""Efficiency just below 1: the link's own figure, so that no protocol share is assumed."""


@pytest.mark.parametrize(
    ("operation", "factor"),
    [("all_reduce", lambda n: 2 * (n - 1) / n), ("all_gather", lambda n: (n - 1) / n),
     ("reduce_scatter", lambda n: (n - 1) / n), ("all_to_all", lambda n: (n - 1) / n), ("broadcast", lambda n: 1)],
)  # fmt: skip
@pytest.mark.parametrize("ranks", [2, 3, 8, 64])
def test_large_messages_on_an_ideal_link_reach_the_bandwidth_optimum(operation: str, factor, ranks: int) -> None:  # type: ignore[no-untyped-def]
    size = 1e16
    price = network(node(IDEAL, accelerators=64)).price(message(operation, size), CommGroup(ranks, ranks, 1))
    assert price.seconds == pytest.approx(factor(ranks) * size / 100e9, rel=1e-3)
    assert price.floor == pytest.approx(factor(ranks) * size / 100e9)


@pytest.mark.parametrize("nodes", [4, 16])
def test_large_all_reduce_between_nodes_is_a_ring_over_the_rails(nodes: int) -> None:
    nic = Link("cable", 50e9, 0.0, 1.0 - 1e-12)
    machine = replace(node(), nic=nic)
    size, ranks = 1e16, 8 * nodes
    price = network(machine, Fabric("fat-tree", nic)).price(message("all_reduce", size), CommGroup(ranks, 8, nodes))
    assert price.seconds == pytest.approx(2 * (ranks - 1) / ranks * size / (8 * 50e9), rel=1e-3)


def test_two_nodes_use_the_double_tree() -> None:
    nic = Link("cable", 50e9, 0.0, 1.0 - 1e-12)
    inside = ScaleUp(Link("faster than the network", 9e12, 3e-6), 8)
    cost = network(replace(node(inside), nic=nic), Fabric("fat-tree", nic))
    price = cost.price(message("all_reduce", 1e16), CommGroup(16, 8, 2))
    assert price.seconds == pytest.approx(1e16 / 0.92 / (8 * 50e9), rel=1e-3)


def test_nic_share_divides_the_rails() -> None:
    cost, work = network(), message("all_gather", 1e15)
    alone = cost.price(work, CommGroup(4, 1, 4, nic_share=1.0)).seconds
    shared = cost.price(work, CommGroup(4, 1, 4, nic_share=0.5)).seconds
    assert shared / alone == pytest.approx(2.0, rel=1e-3)


def test_one_rank_and_no_bytes_are_free() -> None:
    assert network().price(message("all_reduce", 1e9), CommGroup(1, 1, 1)).seconds == 0
    assert network().price(message("all_reduce", 0), CommGroup(8, 8, 1)).seconds == 0
    with pytest.raises(ValueError, match="DeviceCost"):
        network().price(Work(OpKind.GEMM, "bf16", 1.0), CommGroup(8, 8, 1))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(OPERATIONS), st.floats(1, 1e12), st.floats(1, 100), st.integers(1, 8), st.integers(1, 64),
    st.sampled_from(["switch", "mesh", "torus", "cube-mesh", "bridge", "none"]), st.booleans(),
)  # fmt: skip
def test_never_below_the_wire_and_monotone_in_size(
    operation: str, size: float, growth: float, per_node: int, nodes: int, topology: str, reduces: bool
) -> None:
    scale_up = ScaleUp(Link("l", 450e9, 3e-6), 8, topology, reduces)  # type: ignore[arg-type]
    cost, group = network(node(scale_up)), CommGroup(per_node * nodes, per_node, nodes)
    small, large = cost.price(message(operation, size), group), cost.price(message(operation, size * growth), group)
    assert small.seconds >= small.floor
    assert large.seconds >= small.seconds


def test_a_domain_larger_than_a_node_counts_as_inside() -> None:
    rack = ScaleUp(Link("nvlink5", 900e9, 3e-6), 72)
    cost = network(node(rack, nics=4, nic=5e9, accelerators=4))
    inside = cost.price(message("all_gather", 1e12), CommGroup(72, 4, 18)).seconds
    beyond = cost.price(message("all_gather", 1e12), CommGroup(144, 4, 36)).seconds
    assert inside == pytest.approx(71 / 72 * 1e12 / (0.92 * 900e9), rel=0.01)
    assert beyond > 2 * inside


def test_a_mesh_gives_a_pair_one_link() -> None:
    mesh = ScaleUp(Link("xgmi", 448e9, 3e-6), 8, "mesh")
    cost = network(node(mesh))
    pair, all_eight = (cost.price(message("all_gather", 1e13), CommGroup(n, n, 1)) for n in (2, 8))
    assert pair.floor == pytest.approx(0.5 * 1e13 / 64e9)
    assert all_eight.floor == pytest.approx(7 / 8 * 1e13 / 448e9)


def measured(name: str, ranks: int = 8) -> NetworkProfile:
    fit = {f"all_reduce.{ranks}.latency": 1e-5, f"all_reduce.{ranks}.sqrt": 1e-8, f"all_reduce.{ranks}.per_byte": 4e-12}
    curve = Curve((1e3, 1e6), (2e-5, 8e-5))
    small = Curve((256.0, 1e6), (5e-6, 2e-5))
    curves = {"all_reduce": {ranks: curve}, "custom_all_reduce": {ranks: small}}
    return NetworkProfile(
        name, "scale_up", accelerator="chip", constants=constants(name, fit), curves=curves, sources=("test",)
    )


def test_a_measured_curve_is_interpolated_and_continued_by_the_fit() -> None:
    machine = node()
    cost = network(machine, known=(Lender(measured("own"), machine.accelerator),))
    group = CommGroup(8, 8, 1)
    assert cost.price(message("all_reduce", 1e6), group).seconds == pytest.approx(8e-5)
    middle = cost.price(message("all_reduce", math.sqrt(1e9)), group)
    assert middle.seconds == pytest.approx(4e-5)  # log-log half way
    assert middle.trust == Trust.MEASURED
    beyond = cost.price(message("all_reduce", 1e12), group)
    assert beyond.seconds == pytest.approx(1.75e12 * 4e-12, rel=0.01)
    assert beyond.trust == Trust.BORROWED


def test_engines_with_one_shot_kernels_use_them_for_small_messages() -> None:
    machine = node()
    known = (Lender(measured("own"), machine.accelerator),)
    engine = Framework("e", "serving", small_all_reduce="custom")
    cost, group = network(machine, known=known, framework=engine), CommGroup(8, 8, 1)
    assert cost.price(message("all_reduce", 256), group).seconds == pytest.approx(5e-6)
    plain = network(machine, known=known)
    assert cost.price(message("all_reduce", 2e6), group) == plain.price(message("all_reduce", 2e6), group)


def test_a_relative_lends_its_fit_scaled_by_bandwidth() -> None:
    lender = Lender(measured("lent"), accelerator("lender", scale_up=ScaleUp(Link("fast", 900e9, 3e-6), 8)))
    price = network(known=(lender,)).price(message("all_reduce", 8e12), CommGroup(8, 8, 1))
    assert price.trust == Trust.BORROWED
    assert price.seconds == pytest.approx(1.75 * 8e12 * 4e-12 * 2, rel=0.01)  # half the bandwidth of the lender
    other = Lender(measured("lent"), accelerator("lender", scale_up=ScaleUp(Link("x", 900e9, 3e-6), 8, "torus")))
    assert network(known=(other,)).price(message("all_reduce", 1e9), CommGroup(8, 8, 1)).trust != Trust.BORROWED


def test_fits_are_interpolated_between_and_extended_beyond_measured_ranks() -> None:
    both = constants(
        "p",
        {"all_reduce.2.latency": 1e-6, "all_reduce.2.sqrt": 1e-9, "all_reduce.2.per_byte": 4e-12,
         "all_reduce.8.latency": 4e-6, "all_reduce.8.sqrt": 4e-9, "all_reduce.8.per_byte": 1e-12},
    )  # fmt: skip
    profile = NetworkProfile("p", "scale_up", constants=both)
    at4, at64 = find_fit(profile, "all_reduce", 4), find_fit(profile, "all_reduce", 64)
    assert at4 is not None and at64 is not None
    assert at4.latency.value == pytest.approx(2e-6)
    assert at64.latency.value == pytest.approx(8e-6)
    assert at64.per_byte.value == 1e-12
    assert at64.latency.sigma > at4.latency.sigma > 0.1
    assert find_fit(profile, "all_gather", 4) is None


@given(st.floats(1, 1e9))
def test_interpolation_stays_between_its_neighbours(x: float) -> None:
    curve = Curve((1.0, 1e3, 1e9), (1.0, 2.0, 50.0))
    low, high = (1.0, 2.0) if x <= 1e3 else (2.0, 50.0)
    assert low * (1 - 1e-9) <= interpolate(curve, x) <= high * (1 + 1e-9)


def test_hops_of_nccl() -> None:
    assert nccl_hops(Collective.ALL_REDUCE, False, 16, 2) == (28, 2)
    assert nccl_hops(Collective.ALL_GATHER, False, 8, 1) == (7, 0)
    assert nccl_hops(Collective.ALL_REDUCE, True, 32, 4) == (14, 4)


def test_alpha_sqrt_beta_without_its_root_is_alpha_beta() -> None:
    assert alpha_sqrt_beta(1e-5, 1e6, 1e-11, 0.0) == pytest.approx(2e-5)
    assert alpha_sqrt_beta(1e-5, 1e6, 1e-11, 1.0) == pytest.approx(3e-5)


def test_all_to_all_on_a_torus_is_bound_by_its_bisection() -> None:
    # 4,096 chips as 16x16x16: k·S/(8·B_link) against S/(6·B_link) of a switch of the same bandwidth.
    assert torus_all_to_all_share(4096, 3) == pytest.approx((16 / 8) / (1 / 6))
    assert wire_bytes("all_to_all", 4, 100.0) == 75.0


def test_moved_network_constants() -> None:
    cost, group, work = network(), CommGroup(8, 8, 1), message("all_reduce", 1e10)
    before = cost.price(work, group)
    slower = cost.moved({"link.protocol": 0.5}).price(work, group).seconds
    assert slower > 1.9 * before.seconds
    assert cost.price(work, group).seconds == before.seconds


def test_a_measured_bus_bandwidth_alone_replaces_the_link() -> None:
    machine = node()
    profile = NetworkProfile("own", "scale_up", constants=constants("own", {"bus_bandwidth.all_reduce.8": 1.5e9}))
    cost = network(machine, known=(Lender(profile, machine.accelerator),))
    size = 1e13
    assert cost.price(message("all_reduce", size), CommGroup(8, 8, 1)).seconds == pytest.approx(
        1.75 * size / 1.5e9, rel=0.01
    )
    assert cost.price(message("all_gather", size), CommGroup(8, 8, 1)).seconds < 0.1 * size / 1.5e9


def test_a_node_wired_otherwise_does_not_use_the_measurements_of_its_accelerator() -> None:
    machine = node()
    slower = replace(machine, scale_up=ScaleUp(Link("cut", 200e9, 3e-6), 8))
    known = (Lender(measured("own"), machine.accelerator),)
    assert network(machine, known=known).price(message("all_reduce", 1e5), CommGroup(8, 8, 1)).trust == Trust.MEASURED
    assert network(slower, known=known).price(message("all_reduce", 1e5), CommGroup(8, 8, 1)).trust != Trust.MEASURED


@pytest.mark.parametrize(("tensor", "axis", "host"), [(2, "tp", False), (4, "dpcp", True), (2, "dpcp", True)])
def test_a_bridge_joins_neighbours_and_nobody_else(tensor: int, axis: str, host: bool) -> None:
    """Of n ranks each sends (n - 1)/n of what is gathered: over the bridge next to it, else over its own host link."""
    bridged = replace(node(ScaleUp(Link("bridge", 300e9, 3e-6), 2, "bridge")), accelerators=8)
    group = RankLayout(Plan(tensor_parallel=tensor, data_parallel=8 // tensor), bridged).group(axis)
    price = network(bridged).price(message("all_gather", 1e12), group)
    rate = bridged.accelerator.host_link.bandwidth if host else 300e9
    assert price.floor == pytest.approx((group.ranks - 1) / group.ranks * 1e12 / rate)
    assert price.floor < price.seconds < 1.25 * price.floor


def test_a_bridge_of_four_joins_strided_pairs_inside_it() -> None:
    """Ranks 0 and 2 lie behind the bridge of 0 to 3; ranks 0 and 4 do not."""
    four = replace(node(ScaleUp(Link("bridge", 300e9, 3e-6), 4, "bridge")), accelerators=8)
    group = [RankLayout(Plan(tensor_parallel=t, data_parallel=2), four).group("dpcp") for t in (2, 4)]
    assert [one.bridged for one in group] == [True, False]


def test_a_broadcast_over_nodes_waits_for_the_network_at_every_rank() -> None:
    """NCCL (src/graph/tuning.cc): nRanks steps of 2.7 us after 6.6 us; a gather passes seven of eight by NVLink."""
    values = {"base_latency.ring.ll": 6.6, "hardware_latency.nvlink.ring.ll": 0.6, "hardware_latency.net.ring.ll": 2.7}

    def latency(operation: str, ranks: int, nodes: int) -> float:
        return nccl_latency(operation, False, ranks, nodes, "nvlink", 0.0, values.__getitem__)

    assert latency("broadcast", 1024, 128) == pytest.approx(6.6 + 1024 * 2.7)
    assert latency("all_gather", 1024, 128) == pytest.approx(6.6 + 896 * 0.6 + 127 * 2.7)
    assert latency("broadcast", 8, 1) == pytest.approx(6.6 + 7 * 0.6)
