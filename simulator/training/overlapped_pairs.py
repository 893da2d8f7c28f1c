"""A forward of one stage and a backward of another that run mutually overlapped on one rank (DualPipe).

The two belong to different micro-batches, so no data flows between them: while one waits for its all-to-all the other
computes. Their Ops are put on the streams of the device together, in an order that keeps the streams busy, and run with
the interference of computation and communication. DeepSeek-AI, arXiv 2412.19437, section 3.2.1 and figure 4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from simulator.engine.interleave import interleave
from simulator.strategies.pipeline.orders import BW, B, F
from simulator.training.block_program import BlockProgram, dependencies, runs_beside
from simulator.training.block_time import BlockPricer, PhaseTime, combine
from simulator.training.pipeline_program import Program
from simulator.workload.ops import Block, Op, OpKind, Phase, Stream

if TYPE_CHECKING:
    from simulator.training.pipelined import PipelinedJob

__all__ = ["RankTasks", "overlapped_pair", "tasks_of_rank", "work_time"]

LONGEST = 4
"""Equal layers of a stage that are run as they are; of more, the last one's time is counted for the others."""

Blocks = Sequence[tuple[Block, int]]


class RankTasks(NamedTuple):
    """Equal tasks of a rank: a forward of a virtual stage, a backward of one, or a mutually overlapped pair."""

    forward: int | None
    backward: int | None
    times: float


def tasks_of_rank(program: Program, rank: int) -> list[RankTasks]:
    """What a rank runs in a step, the two halves of a split backward counted as one."""
    kind, stage, paired = program.order.kind, program.stage, program.paired
    found: Counter[tuple[int | None, int | None]] = Counter()
    first, last = program.offsets[rank], program.offsets[rank + 1]
    for task in range(first, last):
        if kind[task] == F and paired[task]:
            found[int(stage[task]), int(stage[task + 1])] += 1
        elif kind[task] == F:
            found[int(stage[task]), None] += 1
        elif kind[task] in (B, BW) and not (task > first and paired[task - 1]):
            found[None, int(stage[task])] += 1
    pieces = program.traits.items_per_microbatch
    return [RankTasks(forward, backward, count / pieces) for (forward, backward), count in found.items()]


def work_time(pipeline: PipelinedJob, tasks: Sequence[RankTasks]) -> PhaseTime:
    """The tasks one after another."""
    terms = []
    for task in tasks:
        if task.forward is not None and task.backward is not None:
            terms.append((pipeline.pair_time(task.forward, task.backward), task.times))
        elif task.forward is not None:
            terms.append((pipeline.forward_times[task.forward], task.times))
        elif task.backward is not None:
            terms.append((pipeline.backward_times[task.backward], task.times))
    return combine(terms)


def overlapped_pair(pricer: BlockPricer, forward: Blocks, backward: Blocks, split: bool = False) -> PhaseTime:
    """Time of a forward through one stage beside the backward through another.

    Parameters
    ----------
    forward, backward
        Blocks of the two stages in model order, with how often each follows itself.
    split
        Only the input gradients: the schedule runs the weight gradients as tasks of their own.

    Notes
    -----
    Never longer than one after the other, which no schedule forbids. It is that where nothing leaves the compute
    stream, and where parameters or activations move ahead of the layers (gathers of ZeRO-3, offload): those wait for
    the end of the task here, as without pairs.
    """
    apart = combine(
        [(pricer.forward(block), count) for block, count in forward]
        + [((pricer.input_gradient if split else pricer.backward)(block), count) for block, count in backward]
    )
    blocks = [block for block, _ in (*forward, *backward)]
    if any(runs_beside(op) for block in blocks for op in _all_ops(block)):
        return apart
    if not any(pricer.stream(op) is not Stream.COMPUTE for block in blocks for op in _all_ops(block)):
        return apart
    spare = max(0, min(_longest(forward), _longest(backward)) - LONGEST)
    together = _run(pricer, _shorter(forward, spare), _shorter(backward, spare), split)
    if spare:
        fewer = _run(pricer, _shorter(forward, spare + 1), _shorter(backward, spare + 1), split)
        together = combine(((together, 1.0 + spare), (fewer, -float(spare))))
    if together.seconds < apart.seconds:
        return together
    return replace(apart, constants=apart.constants | together.constants)  # which of the two it is rests on both


def _all_ops(block: Block) -> tuple[Op, ...]:
    return (*block.gather_forward, *block.forward, *block.gather_backward, *block.backward, *block.reduce_each)


def _longest(blocks: Blocks) -> int:
    return max(count for _, count in blocks)


def _shorter(blocks: Blocks, by: int) -> Blocks:
    """Without ``by`` copies of the block that occurs most often in a row."""
    at = int(np.argmax([count for _, count in blocks]))
    return [(block, count - by * (index == at)) for index, (block, count) in enumerate(blocks)]


def _run(pricer: BlockPricer, forward: Blocks, backward: Blocks, split: bool) -> PhaseTime:
    """Both programs on the streams of one device."""
    ops, after = list[Op](), list[list[int]]()
    _append(ops, after, [b.forward for b, count in forward for _ in range(count)])
    gradients = [b.backward for b, count in reversed(backward) for _ in range(count)]
    _append(ops, after, [_without_weights(g) for g in gradients] if split else gradients)
    order = interleave([pricer.price(op).priced.seconds for op in ops], [pricer.stream(op) for op in ops], after)
    place = {index: position for position, index in enumerate(order)}
    host = sum(count * pricer.host_seconds(b, b.forward) for b, count in forward)
    host += sum(
        count * pricer.host_seconds(b, _without_weights(b.backward) if split else b.backward) for b, count in backward
    )
    waits = tuple(tuple(place[j] for j in after[i]) for i in order)
    return pricer.run(BlockProgram(tuple(ops[i] for i in order), waits), host)


def _append(ops: list[Op], after: list[list[int]], blocks: Sequence[Sequence[Op]]) -> None:
    """A program of blocks in execution order: a block begins when the one before it has handed over its result."""
    handed: list[int] = []
    for block in blocks:
        base, waits = len(ops), dependencies(block)
        after += [[j + base for j in mine] or handed for mine in waits]
        ops += block
        results = [
            i for i, op in enumerate(block) if op.kind is not OpKind.COPY and op.phase is not Phase.WEIGHT_GRADIENT
        ]
        handed = [base + results[-1]] if results else handed


def _without_weights(ops: Sequence[Op]) -> tuple[Op, ...]:
    return tuple(op for op in ops if op.phase is not Phase.WEIGHT_GRADIENT)
