"""Queues of jobs place gangs below the leaves that the fabric has."""

from __future__ import annotations

from typing import Any

import pytest

import simulator
from simulator.cluster.queue_tenant import QueueTenant


def leaves(fabric: dict[str, Any], **keys: Any) -> list[int]:
    queue = {"jobs": "queue", "mix": "philly-2017", "count": 5, "largest": 8, "nodes": 5, **keys}
    train = {"training": "first", "model": "llama-3.1-8b", "framework": "megatron-core-0.8", "nodes": 1, "steps": 1,
             "batch": {"global_batch_size": 8, "sequence_length": 2048},
             "plan": {"tensor_parallel": 8, "sequence_parallel": True}}  # fmt: skip
    cluster = {"nodes": {"profile": "dgx-h100", "count": 6}, "fabric": fabric}
    scenario = simulator.load({"cluster": cluster, "workloads": [train, queue]})
    return QueueTenant(scenario.queues[0], scenario).pool.group.tolist()


@pytest.mark.parametrize("topology", ["fat-tree", "rail-optimized"])
def test_leaves_are_those_of_the_fabric(topology: str) -> None:
    """Nodes 1 to 5 of a cluster with two nodes below a leaf: the first shares its leaf with the job before."""
    assert leaves({"topology": topology, "options": {"nodes_per_leaf": 2}}) == [0, 1, 1, 2, 2]


def test_one_switch_is_one_leaf_and_the_queue_may_say_otherwise() -> None:
    assert leaves({"topology": "single-switch"}) == [0] * 5
    assert leaves({"topology": "single-switch"}, nodes_per_leaf=3) == [0, 0, 0, 1, 1]
