"""PyTorch fully sharded data parallelism and its hybrid form."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from simulator.registry import register
from simulator.strategies.sharding.states import Groups, ShardedStates, refuse_pipeline
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Op, Tensor, TensorClass
from simulator.workload.plan import Plan
from simulator.workload.wire import Wire

__all__ = ["Fsdp", "HybridShardedDataParallel"]

_ZHAO = "Zhao et al. 2023 (PyTorch FSDP), arXiv 2304.11277"


@register(
    "fsdp",
    kind="pass",
    area="training",
    family="sharding",
    cites=(_ZHAO, "PyTorch torch.distributed.fsdp.fully_shard reference"),
    catalogue=("FSDP, FairScale",),
    validated_by="closed_form",
)
class Fsdp(ShardedStates):
    """ZeRO-3 in units of layers with a prefetch limit; the fp32 shard is master and parameter at once.

    Options: ``fsdp_unit`` layers per unit (1), ``fsdp_prefetch`` units gathered ahead (1; 0 exposes every gather),
    ``reshard_after_forward`` (true; false keeps the gathered parameters for the backward, a number of ranks keeps a
    copy spread over that many: give it as ``secondary_group`` too), ``shard_gradients`` (0: under a pipeline
    gradients stay whole until the step's end; n: they are reduced to shards after every n micro-batches of a chunk, and
    one layer's are whole meanwhile, as in Llama 3, arXiv 2407.21783 §3.3.2).
    """

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Units and prefetch must be sensible; a pipeline needs parameters that stay gathered."""
        for name, least in (("fsdp_unit", 1), ("fsdp_prefetch", 0), ("shard_gradients", 0)):
            value = plan.option(name, least)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                return f"{name} must be a whole number from {least} on, have {value}"
        if plan.pipeline_parallel > 1 and plan.option("reshard_after_forward", True) is not False:
            return refuse_pipeline(plan, "fsdp") + ", or set reshard_after_forward false"
        return super().check(model, plan)

    def group(self, plan: Plan, axis: str) -> int:
        """Ranks that share one copy of the states."""
        return plan.mesh[axis]

    def groups(self, plan: Plan, axis: str) -> Groups:
        """Everything over the same ranks."""
        size = self.group(plan, axis)
        if plan.option("reshard_after_forward", True) is False:
            if plan.pipeline_parallel > 1:  # parameters are gathered once per step
                return Groups(1, size if plan.option("shard_gradients", 0) else 1, size)
            return Groups(size, size, size, 1)
        return Groups(size, size, size, plan.group_size("secondary_group", axis, 0))

    def wire(self, plan: Plan) -> Wire:
        """Gathers of a whole unit, a limited number of units ahead."""
        unit, ahead = (cast(int, plan.option(name, 1)) for name in ("fsdp_unit", "fsdp_prefetch"))
        return Wire(blocks=unit, prefetch=ahead)

    def scatter_ops(
        self, block: Block, gradients: tuple[Tensor, ...], axis: str, ranks: int, plan: Plan
    ) -> tuple[Op, ...]:
        """Under a pipeline, one reduction for several micro-batches: each pays its share."""
        made = super().scatter_ops(block, gradients, axis, ranks, plan)
        if not (count := cast(int, plan.option("shard_gradients", 0))):
            return made
        return tuple(replace(op, wire=replace(op.wire, volume=op.wire.volume / count)) for op in made)

    def place(self, tensor: Tensor, block: Block, plan: Plan) -> tuple[Tensor, ...]:
        """The 16-bit shard does not reside: it is cast from the fp32 master shard when it is gathered."""
        placed = super().place(tensor, block, plan)
        if tensor.cls is TensorClass.GRAD and cast(int, plan.option("shard_gradients", 0)) > 1:
            return (*placed, replace(tensor, name=f"{tensor.name}.whole", cls=TensorClass.WORKSPACE))
        mastered = any(t.name == f"{tensor.name}.master" for t in block.states)
        if tensor.cls is TensorClass.PARAM and mastered and self.groups(plan, "dpcp").parameter > 1:
            return placed[1:]
        return placed


@register(
    "hsdp",
    kind="pass",
    area="training",
    family="sharding",
    cites=(_ZHAO,),
    catalogue=("FSDP, FairScale",),
    validated_by="closed_form",
)
class HybridShardedDataParallel(Fsdp):
    """FSDP inside groups of ``shard_group`` neighbouring ranks, gradients all-reduced across the groups."""

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Needs the size of a group."""
        if not isinstance(plan.option("shard_group"), int):
            return "hsdp needs shard_group: the ranks that share one copy, usually the accelerators of a node"
        return super().check(model, plan)

    def group(self, plan: Plan, axis: str) -> int:
        """The shard group."""
        return plan.group_size("shard_group", axis, plan.mesh[axis])
