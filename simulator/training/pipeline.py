"""The pipeline executor: seconds, bytes and bubbles of any order of tasks, in one pass over it.

A schedule only orders tasks; everything else (bubbles, residency, weight versions) comes out here. A task starts
when its rank is free and its input has arrived:

- F(v, m) needs F(v−1, m); B(v, m) needs B(v+1, m) and F(v, m); W(v, m) needs B(v, m);
- a transfer between chunks on one rank is free.

Start times are the longest path through that graph, so every pass over it gives bit-identical answers: a loop over
tasks that knows every feature, the same loop stripped down, and, for many ranks, one that advances all ranks together
in numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.strategies.pipeline.asynchronous import Asynchronous
from simulator.strategies.protocols import Action, PipelineSchedule, ScheduleTraits
from simulator.training.pipeline_program import Program, build_program
from simulator.training.pipeline_timeline import PipelineTimeline

__all__ = ["PipelineCosts", "run_pipeline", "run_schedule"]

WAVEFRONT_RANKS = 20
"""From here on numpy rounds over all ranks beat the stripped loop over tasks (benchmarks/bench_pipeline.py)."""


@dataclass(frozen=True, eq=False)
class PipelineCosts:
    """What tasks of each virtual stage cost; virtual stage = position in the model, 0 .. ranks·chunks−1.

    Attributes
    ----------
    forward, backward
        Seconds of a forward and of a whole backward [virtual stage] or, where micro-batches are cut into pieces
        along their tokens, [virtual stage, piece].
    input_gradient, weight_gradient
        Seconds of the two halves of a backward, same shape; needed by schedules that split it.
    p2p
        Seconds to send activations (or their gradients) over the boundary between stages v and v+1: one number,
        [virtual stage − 1], or [virtual stage − 1, 2] where activations and gradients take unlike times.
    overlap_p2p
        True: a transfer occupies its link (one message at a time per direction and pair of ranks), not the ranks.
        False: it also blocks the sender after the task and the receiver before it, as ``batch_isend_irecv`` does;
        what a rank sends and receives at the same moment goes in parallel.
    message_bytes
        Bytes of one transfer over each boundary [B].
    activation_bytes
        Bytes a micro-batch (or piece) holds from the start of F to the end of its backward, or of B [virtual stage].
    weight_gradient_bytes
        The part that stays until the end of W where the backward is split; None: all of ``activation_bytes``.
    overlapped
        Seconds of a forward mutually overlapped with a backward (DualPipe), by their virtual stages and whether the
        backward is its input gradient only; None: the sum of the two.
    recompute
        Seconds of ``backward`` that a task of its own takes where the order has one [virtual stage]; None: nothing.
    swap
        Seconds to move one micro-batch's activations to the partner rank or back [virtual stage] (BPipe).
    """

    forward: ArrayLike
    backward: ArrayLike
    input_gradient: ArrayLike | None = None
    weight_gradient: ArrayLike | None = None
    p2p: ArrayLike = 0.0
    overlap_p2p: bool = True
    message_bytes: ArrayLike = 0.0
    activation_bytes: ArrayLike = 0.0
    weight_gradient_bytes: ArrayLike | None = None
    overlapped: Callable[[int, int, bool], float] | None = None
    swap: ArrayLike = 0.0
    recompute: ArrayLike | None = None

    @staticmethod
    def uniform(
        stages: int, forward: float = 1.0, input_gradient: float = 1.0, weight_gradient: float = 1.0, p2p: float = 0.0
    ) -> PipelineCosts:
        """Equal stages; the whole backward is the sum of its halves, an activation is one byte."""
        return PipelineCosts(
            forward=np.full(stages, forward),
            backward=np.full(stages, input_gradient + weight_gradient),
            input_gradient=np.full(stages, input_gradient),
            weight_gradient=np.full(stages, weight_gradient),
            p2p=p2p,
            message_bytes=1.0,
            activation_bytes=1.0,
        )


def run_schedule(
    schedule: PipelineSchedule, costs: PipelineCosts, ranks: int, microbatches: int, chunks: int = 1, steps: int = 1
) -> PipelineTimeline:
    """Order the tasks of a schedule and run them.

    Parameters
    ----------
    steps
        Updates of an asynchronous schedule to run without a flush; a flushed schedule runs one.

    Raises
    ------
    ValueError
        If the schedule does not work for these sizes; ask :meth:`PipelineSchedule.check` first to get the reason.
    """
    if reason := schedule.check(ranks, microbatches, chunks):
        raise ValueError(reason)
    traits = schedule.traits()
    if isinstance(schedule, Asynchronous):
        orders = schedule.steps_order(ranks, microbatches, chunks, steps)
    elif steps > 1:
        raise ValueError(f"{schedule.name} flushes at every step: run one step and multiply")
    else:
        orders = schedule.order(ranks, microbatches, chunks)
    return run_pipeline(orders, traits, costs, microbatches * steps * traits.items_per_microbatch)


def run_pipeline(
    orders: Sequence[Sequence[Action]], traits: ScheduleTraits, costs: PipelineCosts, microbatches: int
) -> PipelineTimeline:
    """Run the orders of all ranks.

    Parameters
    ----------
    orders
        Tasks of every rank in execution order; a :class:`~simulator.strategies.pipeline.orders.TaskOrder` is fastest.
    traits, costs
        Facts of the schedule and the cost of its tasks.
    microbatches
        How many micro-batches (pieces of them where the schedule cuts tokens) every virtual stage must process.

    Raises
    ------
    ValueError
        If a task is missing, doubled, before its input on the same rank, or if the ranks wait for each other; the
        message names rank and action.
    """
    return run_program(build_program(orders, traits, costs, microbatches))


def run_program(program: Program) -> PipelineTimeline:
    """Run a program on all ranks. Raises ``ValueError`` if the ranks wait for each other."""
    if program.irregular:
        return PipelineTimeline(program, *task_pass(program))
    wide = program.ranks >= WAVEFRONT_RANKS
    return PipelineTimeline(program, *(wavefront_pass if wide else narrow_pass)(program))


def task_pass(program: Program) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start and end of every task [s]: a loop over tasks, which handles every feature. The reference."""
    duration, receive, send = program.duration.tolist(), program.receive.tolist(), program.send.tolist()
    transfer, link = program.transfer.tolist(), program.link.tolist()
    needs, also_needs, paired = program.needs.tolist(), program.also_needs.tolist(), program.paired.tolist()
    detached = program.detached.tolist()
    head, last = program.offsets[:-1].tolist(), program.offsets[1:].tolist()
    count = len(duration)
    start, end = [0.0] * count, [0.0] * count
    arrive: list[float | None] = [None] * count
    idle_from, free = [0.0] * program.ranks, [0.0] * program.ranks
    link_free = [0.0] * (program.links + 1)
    waiting: dict[int, list[int]] = {}
    stack = list(range(program.ranks - 1, -1, -1))
    while stack:
        rank = stack.pop()
        while head[rank] < last[rank]:
            first = head[rank]
            block = (first, first + 1) if paired[first] else (first,)
            ready, blocked = free[rank], -1
            for task in block:
                for need in (needs[task], also_needs[task]):
                    if need < 0:
                        continue
                    there = arrive[need]
                    if there is None:
                        blocked = need
                    else:
                        ready = max(ready, max(idle_from[rank], there) + receive[task] if receive[task] else there)
            if blocked >= 0:
                waiting.setdefault(blocked, []).append(rank)
                break
            done = ready + duration[first]
            for task in block:
                start[task], end[task] = ready, done
                if link[task] >= 0:
                    there = max(done, link_free[link[task]]) + transfer[task]
                    link_free[link[task]] = arrive[task] = there
                    if detached[task]:
                        end[task] = there
                else:
                    arrive[task] = done
                if task in waiting:
                    stack.extend(waiting.pop(task))
            head[rank] += len(block)
            if not detached[first]:
                idle_from[rank] = done
                free[rank] = done + max(send[task] for task in block)
    stuck = [task for task, stop in zip(head, last, strict=True) if task < stop]
    if stuck:
        raise ValueError(program.deadlock(stuck))
    return np.array(start), np.array(end)


def narrow_pass(program: Program) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same times for programs without pairs and swaps on few ranks: the loop stripped to what those need."""
    duration, receive, send = program.duration.tolist(), program.receive.tolist(), program.send.tolist()
    transfer, link, needs = program.transfer.tolist(), program.link.tolist(), program.needs.tolist()
    head, last = program.offsets[:-1].tolist(), program.offsets[1:].tolist()
    count = len(duration)
    start, end, arrive = [0.0] * count, [0.0] * count, [-1.0] * count
    idle_from, free, link_free = [0.0] * program.ranks, [0.0] * program.ranks, [0.0] * program.links
    waiting: dict[int, int] = {}
    stack = list(range(program.ranks - 1, -1, -1))
    while stack:
        rank = stack.pop()
        idle, ready = idle_from[rank], free[rank]
        for task in range(head[rank], last[rank]):
            need = needs[task]
            if need >= 0:
                there = arrive[need]
                if there < 0.0:
                    head[rank], idle_from[rank], free[rank] = task, idle, ready
                    waiting[need] = rank
                    break
                if receive[task]:
                    there = (there if there > idle else idle) + receive[task]
                if there > ready:
                    ready = there
            start[task] = ready
            end[task] = idle = done = ready + duration[task]
            ready = done + send[task]
            way = link[task]
            if way >= 0:
                begin = link_free[way]
                arrive[task] = link_free[way] = (done if done > begin else begin) + transfer[task]
                if task in waiting:
                    stack.append(waiting.pop(task))
            else:
                arrive[task] = done
        else:
            head[rank] = last[rank]
    stuck = [task for task, stop in zip(head, last, strict=True) if task < stop]
    if stuck:
        raise ValueError(program.deadlock(stuck))
    return np.array(start), np.array(end)


def wavefront_pass(program: Program) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same times: every round starts the next task of each rank whose input has arrived."""
    count = len(program.duration)
    start, end = np.empty(count), np.empty(count)
    arrive = np.full(count + 1, np.inf)
    arrive[-1] = 0.0  # what a task without input waits for: its index is −1
    head, last = program.offsets[:-1].copy(), program.offsets[1:]
    idle_from, free = np.zeros(program.ranks), np.zeros(program.ranks)
    link_free = np.zeros(program.links + 1)
    blocking = bool(program.receive.any())
    live = np.flatnonzero(head < last)
    while live.size:
        task = head[live]
        there = arrive[program.needs[task]]
        ready = there < np.inf
        if not ready.all():
            rank, task, there = live[ready], task[ready], there[ready]
            if not rank.size:
                raise ValueError(program.deadlock(head[live].tolist()))
        else:
            rank = live
        if blocking:
            wait = program.receive[task]
            there = np.where(wait > 0, np.maximum(idle_from[rank], there) + wait, there)
        begin = np.maximum(free[rank], there)
        done = begin + program.duration[task]
        start[task], end[task] = begin, done
        link = program.link[task]
        arrive[task] = link_free[link] = (
            np.maximum(done, np.where(link < 0, 0.0, link_free[link])) + program.transfer[task]
        )
        idle_from[rank] = done
        free[rank] = done + program.send[task]
        head[rank] += 1
        if (head[rank] == last[rank]).any():
            live = np.flatnonzero(head < last)
    return start, end
