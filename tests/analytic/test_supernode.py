"""A supernode: 384 accelerators of 48 nodes on one bus (CloudMatrix384, arXiv 2506.12708)."""

from __future__ import annotations

import networkx as nx
import pytest

import simulator
from simulator.hardware import load_cluster
from simulator.network.topology import build

BUS = 392e9
"""[B/s] per accelerator and direction."""


def test_all_nodes_meet_on_the_bus_at_full_bandwidth() -> None:
    """Ways between accelerators of different nodes stay on the bus, and half of them reach the other half at once."""
    t = build(load_cluster("cloudmatrix384"))
    assert (t.accelerator_count, t.node_count) == (384, 48)
    for other in (1, 8, 191, 383):
        assert {t.links.kind_of(link) for link in t.path(0, other)} == {"scale_up"}
    graph = nx.DiGraph()
    for i in range(len(t.links)):
        if t.links.kind_of(i) == "scale_up":
            graph.add_edge(int(t.links.source[i]), int(t.links.target[i]), capacity=float(t.links.capacity[i]))
    gpus = t.nodes.groups[0].gpu.ravel().tolist()
    for gpu in gpus[:192]:
        graph.add_edge("S", gpu)
    for gpu in gpus[192:]:
        graph.add_edge(gpu, "T")
    assert nx.maximum_flow_value(graph, "S", "T") == pytest.approx(192 * BUS)


def estimated(cluster: dict[str, object]) -> simulator.Result:
    job = {
        "training": "job", "model": "qwen3-235b-a22b", "framework": "megatron-core-0.8", "steps": 10,
        "batch": {"global_batch_size": 384, "micro_batch_size": 1, "sequence_length": 2048},
        "plan": {"data_parallel": 384, "expert_parallel": 64, "zero_stage": 1, "recompute": "full"},
    }  # fmt: skip
    return simulator.estimate({"cluster": cluster, "workloads": [job]})


def test_experts_over_eight_nodes_need_no_network() -> None:
    """64-way expert parallelism spans 8 nodes. Nothing of that leaves the bus; in nodes of eight most does."""
    supernode = estimated({"profile": "cloudmatrix384"})
    traffic = supernode.traffic.set_index("link")["bytes"]
    assert traffic["scale_out"] == 0
    nodes = estimated(
        {"nodes": {"profile": "hgx-h200", "count": 48}, "fabric": {"topology": "rail-optimized", "link": "ndr400"}}
    )
    apart = nodes.traffic.set_index("link")["bytes"]
    assert apart["scale_out"] > apart["scale_up"]
    # The same tokens are sent to the same experts, over whatever links: the sum is equal.
    assert apart["scale_out"] + apart["scale_up"] == pytest.approx(traffic["scale_up"], rel=1e-6)
