"""Tiers that a plan asks for and a node does not have."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.hardware.types import Node
from simulator.results.estimate import MemoryLedger
from simulator.workload.ops import Tier
from simulator.workload.plan import Plan

__all__ = ["missing_tiers"]

_ADVICE = {
    Tier.NVME: ("NVMe drives", "choose a node profile with nvme, or a strategy that offloads to the host"),
    Tier.HOST: ("host memory", "give the node profile a host_memory"),
    Tier.PEER: ("spare memory on a peer", "use fewer micro-batches in flight, or a strategy that offloads to the host"),
}


def missing_tiers(plan: Plan, ledger: MemoryLedger, nodes: Sequence[Node]) -> str:
    """Why the plan's tiers do not exist, with what would; empty when every tier in use has a capacity."""
    for stage in ledger.stages:
        if stage.tier in _ADVICE and stage.peak > 0 and stage.capacity <= 0:
            what, advice = _ADVICE[stage.tier]
            return f"offload {plan.offload} needs {what} but node {nodes[stage.stage].name} has none: {advice}"
    return ""
