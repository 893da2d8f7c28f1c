"""Blocks of shipped models under a plan, and sums over their Ops."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from simulator.training.stages import compiled_layers
from simulator.workload.framework import Framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model import ModelSpec
from simulator.workload.model_files import load_model
from simulator.workload.ops import Block, Op, OpKind
from simulator.workload.plan import Plan
from simulator.workload.work import work_of

FUSED = Framework("fused", "training")
COMPUTE = (OpKind.GEMM, OpKind.GROUPED_GEMM, OpKind.ATTENTION)


def plan_of(**fields: object) -> Plan:
    """A plan; names that are no fields are options."""
    return Plan().with_(**fields)


def layer_of(
    model: str | ModelSpec,
    plan: Plan,
    batch: int = 1,
    sequence: int = 2048,
    framework: Framework = FUSED,
    last: bool = False,
) -> Block:
    """The first (or last) compiled layer."""
    spec = load_model(model) if isinstance(model, str) else model
    job = TrainingJob("job", spec, framework, Batch(batch * plan.data_parallel, batch, sequence), plan)
    layers = [b for b in compiled_layers(job) if b.name == "layer"]
    return layers[-1 if last else 0]


def flops(ops: Iterable[Op], plan: Plan) -> float:
    """FLOPs of one rank in matrix products and attention."""
    return sum(op.flops(plan.mesh) for op in ops if op.kind in COMPUTE)


def messages(ops: Iterable[Op], plan: Plan, collective: str, axis: str) -> list[float]:
    """Message bytes of the collectives of one kind along one axis (or its sub-axes)."""
    return [
        work_of(op, plan.mesh).message
        for op in ops
        if op.collective is not None and op.collective.value == collective and op.axis.partition("[")[0] == axis
    ]


def same_work(first: Block, second: Block, plan: Plan) -> bool:
    """Whether two blocks execute the same Ops with the same local sizes and keep the same bytes."""

    def summary(block: Block) -> list[object]:
        ops = sorted((op.name, op.axis, repr(work_of(op, plan.mesh))) for op in block.ops)
        return [ops, sorted((t.name, t.bytes(plan.mesh)) for t in block.saved)]

    return summary(first) == summary(second)


__all__ = ["FUSED", "flops", "layer_of", "messages", "plan_of", "replace", "same_work"]
