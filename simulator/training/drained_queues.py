"""Passes that begin with nothing queued on the device, since the host has just waited for it.

Megatron calls ``torch.cuda.synchronize`` behind every batched message between stages (``batch_p2p_sync``, NVIDIA/
Megatron-LM @00c2c0a megatron/core/pipeline_parallel/p2p_communication.py). The host then has no lead: the first kernels
run as they are launched, and later ones wait wherever the device has caught up. A layer's time is the larger of its
host's and its device's; what comes on top at the start of such a pass is found here, kernel by kernel.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING

from simulator.engine.streams import run_streams
from simulator.training.block_program import plain
from simulator.workload.ops import Block, Op, OpKind

if TYPE_CHECKING:
    from simulator.training.block_time import BlockPricer, PhaseTime

__all__ = ["after_wait", "begins_empty"]

FIRST = 3
"""Blocks that are looked at: by then the host has a lead, or is what the pass waits for throughout."""

HOST = "host"


def begins_empty(pricer: BlockPricer, phase: str, position: int, positions: int) -> bool:
    """Whether a message that the host waits for comes before a pass of a virtual stage."""
    framework, chunks = pricer.framework, pricer.layout.plan.virtual_stages
    if not framework.drains_at_messages or (framework.overlap_p2p and chunks > 1):
        return False
    return position > 0 if phase == "forward" else phase in ("backward", "input_gradient") and position < positions - 1


def after_wait(found: PhaseTime, pricer: BlockPricer, blocks: Iterable[tuple[Block, int]], phase: str) -> PhaseTime:
    """The pass ``found`` with what its first kernels wait for their launches."""
    each = [block for block, count in blocks for _ in range(min(count, FIRST))]
    first = (each if phase == "forward" else each[::-1])[:FIRST]
    wait = _from_empty(pricer, first, phase) - sum(getattr(pricer, phase)(block).seconds for block in first)
    return found.after(max(0.0, wait))


def _from_empty(pricer: BlockPricer, blocks: Iterable[Block], phase: str) -> float:
    """Time of the blocks where every kernel waits for its launch and nothing has been launched [s]."""
    times, streams, after = list[float](), list[Hashable](), list[list[int]]()
    last = -1
    for block in blocks:
        ops = block.forward if phase == "forward" else block.backward
        launches = [_launches(pricer, op) for op in ops]
        each = pricer.host_seconds(block, ops) / max(1, sum(launches))
        start = len(times)
        for op, count, waits in zip(ops, launches, plain(ops).after, strict=True):
            before = [start + 2 * j + 1 for j in waits] or ([last] if last >= 0 else [])
            times += [each * count, pricer.price(op).priced.seconds]
            streams += [HOST, pricer.stream(op)]
            after += [[], [len(times) - 2, *before]]
        last = len(times) - 1
    return run_streams(times, streams, after).makespan


def _launches(pricer: BlockPricer, op: Op) -> int:
    """Kernels that an Op is to the host."""
    work = pricer.work(op)
    apart = op.kind is OpKind.GROUPED_GEMM and pricer.framework.gemm_per_expert
    return work.groups if apart else work.kernels if work.flops or work.bytes else 0
