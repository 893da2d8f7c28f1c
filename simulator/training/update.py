"""The end of a step: gradient reduction, clipping, optimizer, publication of new parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.training.block_time import BlockPricer, PhaseTime
from simulator.training.stages import Chunk
from simulator.workload.ops import Block, Op, OpKind, TensorClass, Work

__all__ = ["GradientJob", "gather_delay", "optimizer_time", "reduction_end"]


@dataclass(frozen=True)
class GradientJob:
    """One gradient reduction: when its gradients are complete, and how long it takes [s]."""

    ready: float
    seconds: float


def reduction_jobs(chunk: Chunk, pricer: BlockPricer, chunk_end: float, backward: Sequence[PhaseTime]) -> list[GradientJob]:
    """Reductions of one chunk in the order its gradients appear (last layer first).

    ``chunk_end`` is the end of the chunk's last backward; ``backward`` the backward of one of each run of its blocks.
    """
    jobs: list[GradientJob] = []
    before = 0.0  # backward time of the blocks below, which still runs when a block's gradients are complete
    for (block, count), time in zip(chunk.blocks, backward, strict=True):
        seconds = sum(pricer.price(op).priced.seconds for op in block.reduce)
        for _ in range(count if seconds else 0):
            jobs.append(GradientJob(chunk_end - before, seconds))
            before += time.seconds
        if not seconds:
            before += count * time.seconds
    return sorted(jobs, key=lambda job: job.ready)


def reduction_end(jobs: Sequence[GradientJob], start: float = 0.0) -> float:
    """End of reductions that share one in-order stream [s]."""
    end = start
    for job in sorted(jobs, key=lambda j: j.ready):
        end = max(end, job.ready) + job.seconds
    return end


def bulk_reduction(chunks: Sequence[Chunk], pricer: BlockPricer) -> float:
    """All gradients of a rank reduced at once after the backward [s]: one message per axis and collective."""
    messages: dict[tuple[str, str], tuple[Op, float]] = {}
    for chunk in chunks:
        for block, count in chunk.blocks:
            for op in block.reduce:
                key = (op.axis, str(op.collective))
                known = messages.get(key, (op, 0.0))[1]
                messages[key] = (op, known + count * pricer.price(op).bytes)
    return sum(pricer.message_seconds(op, size) for op, size in messages.values())


def gather_delay(starts: Sequence[tuple[Block, float]], pricer: BlockPricer, overlap: bool) -> float:
    """Seconds by which gathers of updated parameters hold up the first micro-batch.

    Parameters
    ----------
    starts
        Blocks of a rank in the order of their first use, with the time each would start without gathers.
    overlap
        Whether gathers run beside the first forward, or all before it.
    """
    seconds = [(sum(pricer.price(op).priced.seconds for op in block.publish), start) for block, start in starts]
    if not overlap:
        return sum(s for s, _ in seconds)
    done, delay = 0.0, 0.0
    for cost, start in seconds:
        done += cost
        if cost:
            delay = max(delay, done - start)
    return delay


def optimizer_time(chunks: Sequence[Chunk], pricer: BlockPricer) -> PhaseTime:
    """Clipping and Adam over the states a rank owns: memory-bound passes over them.

    Clipping reads every gradient once; the update reads gradient and states and writes states and parameter.
    Kernels are fused over many tensors (multi-tensor apply), so a rank launches one of each per block.
    """
    mesh, device = pricer.mesh, pricer.device
    total = PhaseTime()
    for chunk in chunks:
        for block, count in chunk.blocks:
            by_class = {cls: 0.0 for cls in TensorClass}
            for tensor in block.states:
                by_class[tensor.cls] += tensor.bytes(mesh)
            optim = by_class[TensorClass.OPTIM]
            if not optim:
                continue
            # The shard of a gradient or parameter that matches the optimizer shard is all that is touched.
            share = _owned_share(block, pricer)
            gradient, parameter = by_class[TensorClass.GRAD] * share[0], by_class[TensorClass.PARAM] * share[1]
            works = (
                Work(OpKind.ELEMENTWISE, "fp32", flops=gradient / 2, bytes=gradient),
                Work(OpKind.ELEMENTWISE, "fp32", flops=optim, bytes=gradient + 2 * optim + parameter),
            )
            prices = [device.price(w) for w in works]
            total = total + PhaseTime(
                sum(p.seconds for p in prices) * count,
                sum(p.floor for p in prices) * count,
                {"optimizer": sum(p.seconds for p in prices) * count},
                {"hbm": sum(w.bytes for w in works) * count},
                {prices[0].trust: sum(p.seconds for p in prices) * count},
                0.0,
                frozenset(i for p in prices for i in p.constants),
            )
    return total


def _owned_share(block: Block, pricer: BlockPricer) -> tuple[float, float]:
    """Share of the resident gradients and parameters whose optimizer states live on this rank."""
    mesh = pricer.mesh
    optim = sum(t.elements(mesh) for t in block.states if t.name.endswith(".exp_avg"))
    gradient = sum(t.elements(mesh) for t in block.states if t.cls is TensorClass.GRAD)
    parameter = sum(t.elements(mesh) for t in block.states if t.cls is TensorClass.PARAM)
    return min(1.0, optim / gradient if gradient else 0.0), min(1.0, optim / parameter if parameter else 0.0)
