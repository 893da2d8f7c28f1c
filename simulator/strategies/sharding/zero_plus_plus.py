"""ZeRO++: quantised gathers, a secondary shard inside the node, quantised all-to-all gradients."""

from __future__ import annotations

from dataclasses import replace

from simulator.registry import Claim, register
from simulator.strategies.sharding.states import Groups, ShardedStates, collective, refuse_pipeline, shard_over, suffix
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Collective, Op, OpKind, Phase, Tensor
from simulator.workload.plan import Plan, sub_axis
from simulator.workload.wire import Wire

__all__ = ["ZeroPlusPlus"]


@register(
    "zero++",
    kind="pass",
    area="training",
    family="sharding",
    cites=("Wang et al. 2023 (ZeRO++), arXiv 2306.10209",),
    catalogue=("ZeRO++",),
    claims=(
        Claim(
            "communication between nodes falls to a quarter of ZeRO-3's: 3Ψ → 0.75Ψ of 16-bit elements",
            "arXiv 2306.10209 abstract; deepspeed.ai/tutorials/zeropp",
        ),
    ),
    validated_by="published",
)
class ZeroPlusPlus(ShardedStates):
    """ZeRO-3 with int8 gathers (qwZ), backward gathers inside the node (hpZ) and int4 all-to-all gradients (qgZ).

    Options: ``secondary_group`` ranks that share the secondary copy (required, usually a node), and
    ``quantized_weights``, ``secondary_shard``, ``quantized_gradients`` (all true) to switch parts off.
    """

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Needs the size of the secondary group, and no pipeline."""
        if not isinstance(plan.option("secondary_group"), int):
            return "zero++ needs secondary_group: the ranks that share the secondary copy, usually those of a node"
        return refuse_pipeline(plan, "zero++") or super().check(model, plan)

    def groups(self, plan: Plan, axis: str) -> Groups:
        """Everything over all ranks, a second copy of the parameters inside the node."""
        n = plan.mesh[axis]
        near = plan.group_size("secondary_group", axis, n)
        return Groups(n, n, n, near if plan.option("secondary_shard", True) else 0)

    def gather_ops(
        self, block: Block, held: tuple[Tensor, ...], axis: str, ranks: int, phase: Phase, plan: Plan
    ) -> tuple[Op, ...]:
        """int8 over the network, then dequantised; gathers inside the node stay 16-bit."""
        if not plan.option("quantized_weights", True) or ranks < plan.mesh[axis]:
            return super().gather_ops(block, held, axis, ranks, phase, plan)
        small = tuple(replace(t, name=f"{t.name}|int8", dtype="int8") for t in held)
        gather = super().gather_ops(block, small, axis, ranks, phase, plan)
        name = f"{block.name}.param.dequantize{suffix(axis)}"
        expand = Op(name, OpKind.ELEMENTWISE, phase, held[0].dtype, small, held, wire=Wire(prefetch=0))
        return (*gather, expand)

    def scatter_ops(
        self, block: Block, gradients: tuple[Tensor, ...], axis: str, ranks: int, plan: Plan
    ) -> tuple[Op, ...]:
        """int4 all-to-all inside the node, reduction, int4 all-to-all across nodes, reduction."""
        if not plan.option("quantized_gradients", True):
            return super().scatter_ops(block, gradients, axis, ranks, plan)
        near, n = plan.group_size("secondary_group", axis, ranks), plan.mesh[axis]
        ops: list[Op] = []
        here, size = gradients, 1

        def compute(step: str, reads: tuple[Tensor, ...], writes: tuple[Tensor, ...]) -> None:
            name = f"{block.name}.grad.{step}{suffix(axis)}"
            ops.append(Op(name, OpKind.ELEMENTWISE, Phase.OPTIMIZER, reads[0].dtype, reads, writes))

        for hop, outer in enumerate(sorted({near, ranks})):
            small = tuple(replace(t, name=f"{t.name}|int4.{hop}", dtype="int4") for t in here)
            received = tuple(replace(t, name=f"{t.name}|received") for t in small)
            compute(f"quantize.{hop}", here, small)
            name = f"{block.name}.grad.all_to_all.{hop}{suffix(axis)}"
            over = sub_axis(axis, size, outer, n)
            ops.append(collective(name, Collective.ALL_TO_ALL, Phase.OPTIMIZER, over, small, received))
            here = tuple(shard_over(t, plan, axis, size, outer) for t in here)
            between = f"|hop.{hop}" if outer < ranks else ""  # what is left in the end is the gradient
            here = tuple(replace(t, name=g.name + between) for t, g in zip(here, gradients, strict=True))
            compute(f"reduce.{hop}", received, here)
            size = outer
        return tuple(ops)
