"""Sharding over small groups: MiCS, PaRO, AMSP."""

from __future__ import annotations

from simulator.registry import Claim, register
from simulator.strategies.sharding.states import Groups, ShardedStates, refuse_pipeline
from simulator.workload.model import ModelSpec
from simulator.workload.plan import Plan

__all__ = ["Amsp", "Mics", "Paro"]


@register(
    "mics",
    kind="pass",
    area="training",
    family="sharding",
    cites=("Zhang et al. 2022 (MiCS), arXiv 2205.00119",),
    catalogue=("MiCS",),
    claims=(
        Claim(
            "up to 2.89 times the throughput of the large-model systems of its time on AWS", "arXiv 2205.00119 abstract"
        ),
    ),
    validated_by="ratio",
)
class Mics(ShardedStates):
    """ZeRO-3 inside groups of ``shard_group``; two-hop gradients: reduce-scatter inside, all-reduce across once."""

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Needs the size of a group, and no pipeline."""
        if not isinstance(plan.option("shard_group"), int):
            return "mics needs shard_group: the ranks that share one copy of the model states"
        return refuse_pipeline(plan, "mics") or super().check(model, plan)

    def groups(self, plan: Plan, axis: str) -> Groups:
        """Everything over one partition group."""
        size = plan.group_size("shard_group", axis, plan.mesh[axis])
        return Groups(size, size, size)


@register(
    "paro",
    kind="pass",
    area="training",
    family="sharding",
    cites=("Wu et al. 2023 (PaRO), arXiv 2310.06003",),
    catalogue=("PaRO (+HO-Ring)",),
    validated_by="closed_form",
)
class Paro(ShardedStates):
    """A group of its own for each state: ``parameter_group``, ``gradient_group``, ``optimizer_group`` (default: all).

    A larger group must be a multiple of the smaller ones it feeds. Hierarchical rings are what the network cost picks.
    """

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Gathers and reductions per micro-batch exclude a pipeline."""
        groups = self.groups(plan, "dpcp")
        sharded = groups.parameter > 1 or groups.gradient > 1
        return (refuse_pipeline(plan, self.name) if sharded else "") or super().check(model, plan)

    def groups(self, plan: Plan, axis: str) -> Groups:
        """As asked."""
        names = ("parameter_group", "gradient_group", "optimizer_group")
        return Groups(*(plan.group_size(name, axis, plan.mesh[axis]) for name in names))


@register(
    "amsp",
    kind="pass",
    area="training",
    family="sharding",
    cites=("Chen et al. 2023 (AMSP), arXiv 2311.00257",),
    catalogue=("AMSP, LoRA/PEFT states",),
    validated_by="closed_form",
)
class Amsp(Paro):
    """Replica, full or partial sharding chosen for each state: groups of 1, of all, or of any divisor of the ranks."""
