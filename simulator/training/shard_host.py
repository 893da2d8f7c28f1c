"""What the host does rank by rank where ZeRO-3 exchanges parameters one by one: slices to count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from simulator.strategies.rank_layout import RankLayout
from simulator.training.block_program import DATA_AXES
from simulator.training.stages import Chunk
from simulator.workload.framework import Framework
from simulator.workload.ops import Collective, Op, TensorClass
from simulator.workload.plan import base_axis

__all__ = ["slices_at_end", "slices_of_pass"]


def slices_of_pass(ops: Iterable[Op], framework: Framework, layout: RankLayout) -> int:
    """Views and copies of one part of a tensor each, in the gathers and reductions of a pass."""
    if not framework.gathers_by_parameter:
        return 0
    each = {
        Collective.ALL_GATHER: framework.slices_gather,
        Collective.REDUCE_SCATTER: framework.slices_reduce,
    }
    return sum(
        each[op.collective] * len(op.reads) * layout.group(op.axis).ranks
        for op in ops
        if op.collective in each and base_axis(op.axis) in DATA_AXES
    )


def slices_at_end(chunks: Sequence[Chunk], framework: Framework, layout: RankLayout) -> int:
    """The same where the parameters that persist are gathered after the update."""
    plan = layout.plan
    if not (framework.gathers_by_parameter and plan.zero_stage == 3):
        return 0
    stay = sum(
        count
        * (t.cls is TensorClass.PARAM and t.elements(plan.mesh) * plan.mesh["dpcp"] <= framework.persistent_elements)
        for chunk in chunks
        for block, count in chunk.blocks
        for t in block.states
    )
    return framework.slices_persistent * stay * plan.mesh["dpcp"]
