"""Data parallelism with replicated or sharded states: ZeRO stages 0 to 3."""

from __future__ import annotations

from dataclasses import replace

from simulator.registry import Claim, register
from simulator.strategies.protocols import PassStage
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import FLAT, Block, Collective, Op, OpKind, Phase, Stream, Tensor, TensorClass
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
class Zero:
    """Stage 0 all-reduces gradients; 1 shards optimizer states, 2 also gradients, 3 also parameters."""

    name: str
    stage = PassStage.STATE

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Stages 2 and 3 do not combine with pipelines in the frameworks that exist."""
        if not 0 <= plan.zero_stage <= 3:
            return f"zero_stage {plan.zero_stage} does not exist; stages are 0, 1, 2 and 3"
        if plan.zero_stage >= 2 and plan.pipeline_parallel > 1:
            return (
                f"zero_stage {plan.zero_stage} with pipeline_parallel {plan.pipeline_parallel}: every micro-batch would reduce or "
                "gather each shard, and frameworks refuse it; use zero_stage 1, or pipeline_parallel 1"
            )
        return ""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Shard the states and add the gathers and reductions."""
        groups: dict[str, list[Tensor]] = {"dpcp": [], "edp": []}
        for parameter in block.parameters:
            groups["edp" if "experts" in parameter.dim_names else "dpcp"].append(parameter)
        states = tuple(self._shard(t, plan.zero_stage) for t in block.states)
        changed = replace(block, states=states, reduce_every_microbatch=plan.zero_stage >= 2)
        for axis, parameters in groups.items():
            if parameters and plan.mesh[axis] > 1:
                changed = self._communicate(changed, parameters, axis, plan)
        return changed

    def _shard(self, tensor: Tensor, stage: int) -> Tensor:
        first_sharded = {TensorClass.OPTIM: 1, TensorClass.GRAD: 2, TensorClass.PARAM: 3}
        if stage >= first_sharded.get(tensor.cls, 9):
            return tensor.sharded(FLAT, "edp" if "experts" in tensor.dim_names else "dpcp")
        return tensor

    def _communicate(self, block: Block, parameters: list[Tensor], axis: str, plan: Plan) -> Block:
        gradients = tuple(t for t in block.states if t.cls is TensorClass.GRAD and _same_group(t, axis))
        whole = tuple(t.gathered(axis) for t in gradients)
        shards = tuple(t.gathered(axis).sharded(FLAT, axis) for t in gradients)
        suffix = "" if axis == "dpcp" else ".experts"

        def op(name: str, kind: Collective, phase: Phase, reads: tuple[Tensor, ...], writes: tuple[Tensor, ...]) -> Op:
            return Op(f"{block.name}.{name}{suffix}", OpKind.COLLECTIVE, phase, reads[0].dtype, reads, writes, collective=kind, axis=axis, stream=Stream.SCALE_OUT)  # fmt: skip

        if plan.zero_stage == 0:
            return replace(
                block,
                reduce=(*block.reduce, op("grad.all_reduce", Collective.ALL_REDUCE, Phase.OPTIMIZER, whole, whole)),
            )
        reduce = (*block.reduce, op("grad.reduce_scatter", Collective.REDUCE_SCATTER, Phase.OPTIMIZER, whole, shards))
        held = tuple(t.sharded(FLAT, axis) for t in parameters)
        full = tuple(parameters)
        if plan.zero_stage < 3:
            gather = op("param.all_gather", Collective.ALL_GATHER, Phase.OPTIMIZER, held, full)
            return replace(block, reduce=reduce, publish=(*block.publish, gather))
        forward = op("param.all_gather", Collective.ALL_GATHER, Phase.FORWARD, held, full)
        backward = replace(forward, phase=Phase.BACKWARD)
        return replace(
            block,
            reduce=reduce,
            gather_forward=(*block.gather_forward, forward),
            gather_backward=(*block.gather_backward, backward),
        )


def _same_group(tensor: Tensor, axis: str) -> bool:
    return ("experts" in tensor.dim_names) == (axis == "edp")
