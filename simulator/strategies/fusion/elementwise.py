"""Everything between two matrix products as one kernel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from simulator.registry import register
from simulator.strategies.protocols import PassStage
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Op, OpKind
from simulator.workload.plan import Plan

__all__ = ["LightSeq"]


@register(
    "lightseq",
    kind="pass",
    area="serving",
    family="fusion",
    cites=("Wang et al. 2021 (LightSeq), arXiv 2010.13887",),
    catalogue=("LightSeq",),
    validated_by="closed_form",
)
class LightSeq:
    """Neighbouring elementwise kernels between matrix products, attention or collectives become one kernel.

    A fused kernel is launched once, reads what comes from outside once and writes only what somebody outside reads:
    intermediate results stay on the chip. What is left of LightSeq's gain over the frameworks of its day is in the host
    times of the engines here, which fuse inside every kernel already; reuse of memory by last use is common to all.
    """

    name: str
    stage = PassStage.COMMUNICATION

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Every model has such kernels."""
        return ""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Fuse runs of elementwise Ops of the forward; a served block has no backward."""
        return replace(block, forward=tuple(_fused(block.forward)))


def _fused(ops: Sequence[Op]) -> Iterator[Op]:
    last_use = {t.name: i for i, op in enumerate(ops) for t in op.reads}
    start = 0
    while start < len(ops):
        end = start + 1
        while end < len(ops) and _joins(ops[end - 1]) and _joins(ops[end]):
            end += 1
        run = ops[start:end]
        yield run[0] if len(run) == 1 else _one(run, {n for n, i in last_use.items() if i >= end})
        start = end


def _joins(op: Op) -> bool:
    """Kernels that touch every number once; look-ups and what routes tokens stay apart."""
    return op.kind is OpKind.ELEMENTWISE and not op.tags and op.repeat == 1


def _one(run: Sequence[Op], needed: set[str]) -> Op:
    """One kernel for a run; ``needed`` are the tensors that later Ops read. What the last one writes leaves the block
    or is needed."""
    made = {t.name for op in run for t in op.writes}
    reads = {t.name: t for op in run for t in op.reads if t.name not in made}
    kept = {t.name for t in run[-1].writes} | needed
    writes = {t.name: t for op in run for t in op.writes if t.name in kept}
    last = run[-1]
    flops = sum(op.flops() for op in run)
    units = math.prod(d.size for d in last.flop_dims)
    return replace(
        last, name="+".join(op.name for op in run), reads=tuple(reads.values()), writes=tuple(writes.values()),
        flop_coefficient=flops / units if last.flop_dims else last.flop_coefficient,
        sharding=tuple(dict.fromkeys(s for op in run for s in op.sharding)),
        residual=all(op.residual for op in run),
    )  # fmt: skip
