"""Deployments for the serving tests: shipped models and nodes, requests of equal length."""

from __future__ import annotations

from typing import Any

import numpy as np

from simulator.hardware.profiles import load_node
from simulator.hardware.types import Cluster, Fabric, Link, NodeGroup
from simulator.serving.iteration import ReplicaCost
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Deployment
from simulator.workload.model_files import load_model
from simulator.workload.plan import Plan
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable

FABRIC = Fabric("fat-tree", Link("ndr400", 50e9, 5e-6))


def cluster(node: str = "dgx-h100", count: int = 4) -> Cluster:
    return Cluster("test", (NodeGroup(load_node(node), count),), FABRIC)


def requests(count: int = 10, inputs: int = 500, outputs: int = 200) -> RequestTable:
    equal = np.full(count, inputs), np.full(count, outputs)
    return RequestTable(np.zeros(count), *equal, "equal", TraceProvenance("test", "generated", count, count))


def random_requests(
    seed: int, count: int, gap: float, inputs: tuple[int, int], outputs: tuple[int, int]
) -> RequestTable:
    """Poisson arrivals with a mean ``gap`` [s]; lengths evenly from the first to below the second number."""
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(gap, count))
    lengths = rng.integers(*inputs, count), rng.integers(*outputs, count)
    return RequestTable(arrival, *lengths, "random", TraceProvenance("test", "generated", count, count))


def deployment(
    model: str, framework: str = "vllm-0.10", table: RequestTable | None = None, **changes: Any
) -> Deployment:
    options = tuple(changes.pop("options", {}).items())
    plan = changes.pop("plan", Plan())
    return Deployment(
        "test", load_model(model), load_framework(framework), plan, table or requests(), options=options, **changes
    )


def replica(
    model: str = "llama-3.1-8b",
    framework: str = "vllm-0.10",
    node: str = "dgx-h100",
    plan: Plan | None = None,
    **more: Any,
) -> ReplicaCost:
    return ReplicaCost(load_model(model), plan or Plan(), load_framework(framework), load_node(node), FABRIC, **more)
