"""Rings between nodes over a network that forwards whole chunks only."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.cost.network import CommGroup, NetworkCost
from simulator.hardware.profiles import load_link, load_node
from simulator.hardware.types import Fabric
from simulator.workload.ops import OpKind, Work

HOP = 1e-3


def seconds(collective: str, nodes: int, size: float, hop: float) -> float:
    link = replace(load_link("efa-v2"), ring_hop=hop)
    cost = NetworkCost(load_node("aws-p5"), Fabric("fat-tree", link))
    work = Work(OpKind.COLLECTIVE, "bf16", collective=collective, message=size)
    return cost.price(work, CommGroup(8 * nodes, 8, nodes)).seconds


@pytest.mark.parametrize("collective", ["all_gather", "reduce_scatter"])
@pytest.mark.parametrize("nodes", [2, 8, 32])
def test_a_chunk_waits_once_per_node(collective: str, nodes: int) -> None:
    more = seconds(collective, nodes, 2.0**26, HOP) - seconds(collective, nodes, 2.0**26, 0.0)
    assert more == pytest.approx(nodes * HOP)


def test_inside_a_node_and_for_small_messages_nothing_waits() -> None:
    assert seconds("all_gather", 1, 2.0**26, HOP) == seconds("all_gather", 1, 2.0**26, 0.0)
    assert seconds("all_gather", 4, 2.0**14, HOP) == seconds("all_gather", 4, 2.0**14, 0.0)


def test_an_all_reduce_takes_the_tree_instead() -> None:
    assert seconds("all_reduce", 16, 2.0**26, HOP) < seconds("all_reduce", 16, 2.0**26, 0.0) + 2 * 16 * HOP
    assert seconds("all_reduce", 16, 2.0**26, 100 * HOP) == seconds("all_reduce", 16, 2.0**26, HOP)
