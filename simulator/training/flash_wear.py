"""What a step writes to the drives of a node, and how long they last at that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.strategies.offload.copies import is_tied_copy
from simulator.training.tables import counted_ops, times_in_a_step
from simulator.training.update import updates_on_device
from simulator.workload.ops import OpKind, TensorClass, Tier

if TYPE_CHECKING:
    from simulator.training.pipelined import PipelinedJob

__all__ = ["wear_metrics"]


def wear_metrics(pipeline: PipelinedJob, seconds: float) -> dict[str, float]:
    """``flash_written`` and, where the drives' endurance is known, ``flash_lifetime``; nothing where none is written.

    Parameters
    ----------
    seconds
        Time of the step [s].

    Notes
    -----
    Bytes of the rank that writes most; all accelerators of its node are taken to write as much.
    """
    most, lifetime = 0.0, 0.0
    for stage in range(pipeline.ranks):
        written = _written(pipeline, stage)
        if written <= most:
            continue
        node = pipeline.node_of_rank[stage]
        most = written
        endurance = node.nvme.endurance if node.nvme else 0.0
        lifetime = endurance / (written * min(node.accelerators, pipeline.plan.accelerators)) * seconds
    return {} if not most else {"flash_written": most, **({"flash_lifetime": lifetime} if lifetime else {})}


def _written(pipeline: PipelinedJob, stage: int) -> float:
    """Bytes one rank writes to drives in a step: copies, and what an update puts back."""
    pricer, mesh = pipeline.pricer(stage), pipeline.plan.mesh
    back = {TensorClass.OPTIM, TensorClass.PARAM} if updates_on_device(pipeline.plan) else {TensorClass.OPTIM}
    total = 0.0
    for block, passes, copies in times_in_a_step(pipeline, stage).values():
        for op, count in counted_ops(block, passes, copies):
            if op.kind is OpKind.COPY and op.writes[0].tier is Tier.NVME:
                total += count * pricer.price(op).bytes
        own = (t for t in block.states if t.tier is Tier.NVME and not is_tied_copy(block, t, pipeline.plan))
        total += copies * sum(t.bytes(mesh) for t in own if t.cls in back)
    return total
