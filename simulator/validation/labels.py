"""How rows are grouped: scale and strategy in words that mean the same for every source."""

from __future__ import annotations

from simulator.workload.plan import Plan

__all__ = ["degree_label", "scale_label", "strategy_label"]


def scale_label(accelerators: int, per_node: int) -> str:
    """``1 accelerator``, ``1 node``, ``2-8 nodes``, ``9-64 nodes``, ``65+ nodes``."""
    nodes = -(-accelerators // max(per_node, 1))
    if accelerators <= 1:
        return "1 accelerator"
    if nodes == 1:
        return "1 node"
    return "2-8 nodes" if nodes <= 8 else "9-64 nodes" if nodes <= 64 else "65+ nodes"


def strategy_label(plan: Plan) -> str:
    """The axes in use, e.g. ``tp+pp+dp``, with ZeRO-3 and offload named."""
    axes = (("tp", plan.tensor_parallel), ("cp", plan.context_parallel), ("ep", plan.expert_parallel),
            ("pp", plan.pipeline_parallel), ("dp", plan.data_parallel))  # fmt: skip
    used = [name for name, size in axes if size > 1]
    used += [f"zero-{plan.zero_stage}"] * (plan.zero_stage >= 2)
    used += ["offload"] * (plan.offload != "none")
    return "+".join(used) or "single"


def degree_label(plan: Plan) -> str:
    """Ranks of one replica by axis, e.g. ``tp4 pp2``."""
    axes = (("tp", plan.tensor_parallel), ("pp", plan.pipeline_parallel), ("dp", plan.data_parallel))
    return " ".join(f"{name}{size}" for name, size in axes if size > 1) or "1"
