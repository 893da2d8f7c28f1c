"""Data parallelism with replicated or sharded states: ZeRO stages 0 to 3."""

from __future__ import annotations

from simulator.registry import Claim, register
from simulator.strategies.sharding.states import Groups, ShardedStates, refuse_pipeline
from simulator.workload.model import ModelSpec
from simulator.workload.plan import Plan

__all__ = ["Zero"]


@register(
    "zero",
    kind="pass",
    area="training",
    family="sharding",
    cites=("Rajbhandari et al. 2020 (ZeRO), arXiv 1910.02054", "Li et al. 2020 (PyTorch DDP), arXiv 2006.15704"),
    catalogue=("ZeRO-1/2/3", "DDP (PyTorch, Horovod ring), large-batch LAMB"),
    claims=(
        Claim("7.5 B parameters on 64 ranks: 120, 31.4, 16.6 and 1.9 GB of model states", "arXiv 1910.02054 figure 1"),
    ),
    validated_by="published",
)
class Zero(ShardedStates):
    """Stage 0 all-reduces gradients; 1 shards optimizer states, 2 also gradients, 3 also parameters."""

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Stages 2 and 3 do not combine with pipelines in the frameworks that exist."""
        if not 0 <= plan.zero_stage <= 3:
            return f"zero_stage {plan.zero_stage} does not exist; stages are 0, 1, 2 and 3"
        return refuse_pipeline(plan, f"zero_stage {plan.zero_stage}") if plan.zero_stage >= 2 else ""

    def groups(self, plan: Plan, axis: str) -> Groups:
        """All replicas from the stage's states on, one rank for the others."""
        n = plan.mesh[axis]
        return Groups(*(n if plan.zero_stage >= first else 1 for first in (3, 2, 1)))
