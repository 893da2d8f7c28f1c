"""An order of tasks and its costs, checked and resolved into flat arrays the executor can run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.strategies.pipeline.orders import BW, EVICT, KINDS, LOAD, B, F, R, TaskOrder, W
from simulator.strategies.protocols import Action, ScheduleTraits

if TYPE_CHECKING:
    from simulator.training.pipeline import PipelineCosts

__all__ = ["Layout", "Program", "build_program", "lay_out", "with_costs"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Program:
    """Tasks of all ranks, rank after rank in execution order, with everything that decides when they run.

    Attributes
    ----------
    order, traits, costs
        What it was made from.
    rank, stage
        Rank and virtual stage of a task [task].
    stages, links
        Virtual stages of the model; directed pairs of ranks that exchange messages.
    microbatches
        Micro-batches (or pieces) of every virtual stage.
    duration
        Seconds of compute [task]; of a mutually overlapped pair both hold the seconds of the pair.
    needs, also_needs
        Task whose result must have arrived, −1 = none [task].
    link, transfer, receive, send
        Link the result leaves on (−1 = stays), its seconds there, seconds the rank is blocked receiving before
        and sending after the task [task].
    message
        Bytes of the result on its link [task].
    detached
        Tasks of the link, not of the compute stream [task].
    """

    order: TaskOrder
    traits: ScheduleTraits
    costs: PipelineCosts
    rank: Ints
    stage: Ints
    stages: int
    links: int
    microbatches: int
    duration: Floats
    needs: Ints
    also_needs: Ints
    link: Ints
    transfer: Floats
    receive: Floats
    send: Floats
    message: Floats
    detached: NDArray[np.bool_]

    @property
    def ranks(self) -> int:
        """Pipeline ranks."""
        return len(self.order)

    @property
    def offsets(self) -> Ints:
        """First task of every rank [ranks + 1]."""
        return self.order.offsets

    @property
    def paired(self) -> NDArray[np.bool_]:
        """Tasks that run together with the next one."""
        return self.order.with_next

    @property
    def irregular(self) -> bool:
        """Whether it has tasks that only the loop over tasks can run."""
        return bool(self.paired.any() or self.detached.any())

    def describe(self, task: int) -> str:
        """``rank 3: F of micro-batch 5 on chunk 0``."""
        return f"rank {self.rank[task]}: {_action(self.order, task)}"

    def deadlock(self, stuck: list[int]) -> str:
        """Message for ranks that wait for each other, naming what each waits for."""
        heads = set(stuck)
        lines = []
        for task in stuck[:4]:
            need = int(self.needs[task])
            behind = "" if need in heads else ", which its rank has not reached"
            lines.append(f"{self.describe(task)} waits for {self.describe(need)}{behind}")
        more = f"; and {len(stuck) - 4} more ranks" if len(stuck) > 4 else ""
        return "the order deadlocks: " + "; ".join(lines) + more


@dataclass(frozen=True, eq=False)
class Layout:
    """What of a program does not depend on its costs: made once for all that is asked of one order.

    Attributes
    ----------
    crosses, boundary
        Tasks whose result goes to another rank, and the boundary between virtual stages that it crosses [task].
    order, traits, rank, stage, stages, links, microbatches, needs, also_needs, link, detached
        See :class:`Program`.
    """

    order: TaskOrder
    traits: ScheduleTraits
    rank: Ints
    stage: Ints
    stages: int
    links: int
    microbatches: int
    needs: Ints
    also_needs: Ints
    link: Ints
    detached: NDArray[np.bool_]
    crosses: NDArray[np.bool_]
    boundary: Ints


def lay_out(orders: Sequence[Sequence[Action]], traits: ScheduleTraits, microbatches: int) -> Layout:
    """Check an order and resolve its dependencies and messages.

    Raises
    ------
    ValueError
        If a task is missing, doubled, out of range or before what it needs on its own rank.
    """
    order = TaskOrder.of(orders)
    rank = np.repeat(np.arange(len(order)), np.diff(order.offsets))
    stage, stages = _stages(order, rank, traits)
    tables = _task_tables(order, rank, stage, stages, microbatches, traits)
    needs, also_needs = _needs(order, stage, stages, tables)
    _check_same_rank(order, rank, stage, tables)
    target, boundary = _targets(order, rank, stage, stages, tables, traits)
    crosses = target >= 0
    source = np.where(order.kind == LOAD, target, rank)
    sink = np.where(order.kind == LOAD, rank, target)
    pairs, link = np.unique(np.where(crosses, source * len(order) + sink, -1), return_inverse=True)
    link = np.where(crosses, link - int(bool(pairs.size and pairs[0] == -1)), -1).astype(np.int64)
    return Layout(
        order, traits, rank, stage, stages, int((pairs >= 0).sum()), microbatches, needs, also_needs, link,
        _is(order.kind, (EVICT, LOAD)), crosses, boundary,
    )  # fmt: skip


def with_costs(layout: Layout, costs: PipelineCosts) -> Program:
    """The program: every task and message with its seconds and bytes."""
    order, stage, stages, needs, swaps = layout.order, layout.stage, layout.stages, layout.needs, layout.detached
    duration = _durations(order, stage, stages, costs)
    boundary_time = _per_boundary(costs.p2p, stages, "p2p")
    boundary_bytes = _per_boundary(costs.message_bytes, stages, "message_bytes")
    crosses, boundary, returns = layout.crosses, layout.boundary, (order.kind != F).astype(np.int64)
    transfer = np.where(crosses, boundary_time[boundary, returns], 0.0)
    message = np.where(crosses, boundary_bytes[boundary, returns], 0.0)
    if swaps.any():
        transfer[swaps] = _per_stage(costs.swap, stages, "swap")[stage[swaps], 0]
        message[swaps] = _per_stage(costs.activation_bytes, stages, "activation_bytes")[stage[swaps], 0]
    send = receive = np.zeros(len(stage))
    if not costs.overlap_p2p:
        send = np.where(crosses & ~swaps, transfer, 0.0)
        receive = np.where((needs >= 0) & (layout.rank[needs] != layout.rank), send[needs], 0.0)
        transfer = np.where(swaps, transfer, 0.0)
    return Program(
        order, layout.traits, costs, layout.rank, stage, stages, layout.links, layout.microbatches, duration, needs,
        layout.also_needs, layout.link, transfer, receive, send, message, swaps,
    )  # fmt: skip


def build_program(
    orders: Sequence[Sequence[Action]], traits: ScheduleTraits, costs: PipelineCosts, microbatches: int
) -> Program:
    """Check an order and resolve its dependencies, durations and messages. Raises as :func:`lay_out`."""
    return with_costs(lay_out(orders, traits, microbatches), costs)


def _is(kind: Ints, codes: tuple[int, ...]) -> NDArray[np.bool_]:
    table = np.zeros(len(KINDS), dtype=bool)
    table[list(codes)] = True
    return table[kind]


def _action(order: TaskOrder, task: int) -> str:
    kind = KINDS[int(order.kind[task])].value
    return f"{kind} of micro-batch {order.microbatch[task]} on chunk {order.chunk[task]}"


def _stages(order: TaskOrder, rank: Ints, traits: ScheduleTraits) -> tuple[Ints, int]:
    """Virtual stage of every task, and how many there are."""
    slots = int(order.chunk.max(initial=0)) + 1
    chunks = max(1, slots // traits.weight_copies)
    ranks = len(order)
    place = np.array([[traits.virtual_stage(r, c, ranks, chunks) for c in range(slots)] for r in range(ranks)])
    return place[rank, order.chunk], traits.stages or ranks * chunks


def _task_tables(
    order: TaskOrder, rank: Ints, stage: Ints, stages: int, microbatches: int, traits: ScheduleTraits
) -> dict[int, Ints]:
    """Task index by (virtual stage, micro-batch) for F, for the backward that feeds the stage before, for W ..."""
    outside = np.flatnonzero(
        (order.microbatch < 0) | (order.microbatch >= microbatches) | (stage < 0) | (stage >= stages)
    )
    if outside.size:
        task = int(outside[0])
        raise ValueError(
            f"rank {rank[task]}: {_action(order, task)} is out of range, "
            f"have {microbatches} micro-batches and {stages} virtual stages"
        )
    tables: dict[int, Ints] = {}
    key = stage * microbatches + order.microbatch
    for kind, codes in ((F, (F,)), (B, (BW, B)), (W, (BW, W)), (EVICT, (EVICT,)), (LOAD, (LOAD,)), (R, (R,))):
        tasks = np.flatnonzero(_is(order.kind, codes))
        if kind >= EVICT and not tasks.size:
            continue
        table = np.full(stages * microbatches, -1, dtype=np.int64)
        table[key[tasks]] = tasks
        doubled = np.flatnonzero(table[key[tasks]] != tasks)
        if doubled.size:
            task = int(tasks[doubled[0]])
            raise ValueError(f"rank {rank[task]}: {_action(order, task)} is ordered twice")
        if kind <= W and (table < 0).any():
            missing = int(np.flatnonzero(table < 0)[0])
            name = KINDS[codes[-1]].value if traits.splits_backward or kind == F else "BW"
            raise ValueError(
                f"the order is incomplete: no {name} of micro-batch {missing % microbatches} "
                f"on virtual stage {missing // microbatches}"
            )
        tables[kind] = table.reshape(stages, microbatches)
    return tables


def _needs(order: TaskOrder, stage: Ints, stages: int, tables: dict[int, Ints]) -> tuple[Ints, Ints]:
    """The task of another virtual stage that feeds each task; and the fetch of evicted activations."""
    needs = np.full(len(stage), -1, dtype=np.int64)
    forward = (order.kind == F) & (stage > 0)
    needs[forward] = tables[F][stage[forward] - 1, order.microbatch[forward]]
    is_backward = (order.kind == BW) | (order.kind == B)
    backward = is_backward & (stage < stages - 1)
    needs[backward] = tables[B][stage[backward] + 1, order.microbatch[backward]]
    also = np.full(len(stage), -1, dtype=np.int64)
    if EVICT in tables:
        also[is_backward] = tables[LOAD][stage[is_backward], order.microbatch[is_backward]]
        load = order.kind == LOAD
        needs[load] = tables[EVICT][stage[load], order.microbatch[load]]
    return needs, also


def _check_same_rank(order: TaskOrder, rank: Ints, stage: Ints, tables: dict[int, Ints]) -> None:
    """F, then B, then W of a micro-batch, on the same rank and in that order; pairs are a forward and a backward."""
    follows = ((B, (BW, B), F), (W, (W,), B), (EVICT, (EVICT,), F), (LOAD, (LOAD,), EVICT), (R, (R,), F))
    for _, codes, before in follows:
        tasks = np.flatnonzero(_is(order.kind, codes))
        if not tasks.size:
            continue
        needed = tables[before][stage[tasks], order.microbatch[tasks]]
        wrong = np.flatnonzero((needed < 0) | (rank[needed] != rank[tasks]) | (needed > tasks))
        if wrong.size:
            task = int(tasks[wrong[0]])
            raise ValueError(f"rank {rank[task]}: {_action(order, task)} comes before its {KINDS[before].value}")
    first = np.flatnonzero(order.with_next)
    follower = np.minimum(first + 1, len(rank) - 1)
    wrong = np.flatnonzero(
        (order.kind[first] != F) | ~_is(order.kind[follower], (BW, B)) | (rank[follower] != rank[first])
    )
    if wrong.size:
        task = int(first[wrong[0]])
        raise ValueError(f"rank {rank[task]}: {_action(order, task)} can only overlap with a backward that follows it")


def _targets(
    order: TaskOrder, rank: Ints, stage: Ints, stages: int, tables: dict[int, Ints], traits: ScheduleTraits
) -> tuple[Ints, Ints]:
    """Rank each result goes to (−1: stays), and the boundary it crosses."""
    target = np.full(len(rank), -1, dtype=np.int64)
    boundary = np.zeros(len(rank), dtype=np.int64)
    forward = (order.kind == F) & (stage < stages - 1)
    target[forward] = rank[tables[F][stage[forward] + 1, order.microbatch[forward]]]
    boundary[forward] = stage[forward]
    backward = ((order.kind == BW) | (order.kind == B)) & (stage > 0)
    target[backward] = rank[tables[B][stage[backward] - 1, order.microbatch[backward]]]
    boundary[backward] = stage[backward] - 1
    target[target == rank] = -1
    swaps = np.flatnonzero(_is(order.kind, (EVICT, LOAD)))
    if swaps.size:
        if traits.partner is None:
            raise ValueError("the order evicts activations, but its traits name no partner rank")
        partner = np.array([traits.partner(r, len(order)) for r in range(len(order))])
        target[swaps] = partner[rank[swaps]]
    return target, boundary


def _durations(order: TaskOrder, stage: Ints, stages: int, costs: PipelineCosts) -> Floats:
    """Seconds of every task."""
    duration = np.zeros(len(stage))
    parts = ((F, costs.forward, "forward"), (BW, costs.backward, "backward"),
             (B, costs.input_gradient, "input_gradient"), (W, costs.weight_gradient, "weight_gradient"))  # fmt: skip
    for kind, values, name in parts:
        tasks = np.flatnonzero(order.kind == kind)
        if not tasks.size:
            continue
        if values is None:
            raise ValueError(f"the order splits the backward: give PipelineCosts.{name}")
        table = _per_stage(values, stages, name)
        duration[tasks] = table[stage[tasks], order.microbatch[tasks] % table.shape[1]]
    again = np.flatnonzero(order.kind == R)
    if again.size and costs.recompute is not None:
        apart = _per_stage(costs.recompute, stages, "recompute")[:, 0]
        duration[again] = apart[stage[again]]
        alone = np.isin(stage, np.unique(stage[again])) & _is(order.kind, (BW, B))
        duration[alone] -= apart[stage[alone]]
    first = np.flatnonzero(order.with_next)
    if first.size:
        duration[first] = duration[first + 1] = _pair_seconds(first, duration, order, stage, costs)
    return duration


def _pair_seconds(first: Ints, duration: Floats, order: TaskOrder, stage: Ints, costs: PipelineCosts) -> Floats:
    """Seconds of mutually overlapped pairs, equal ones asked for once."""
    if costs.overlapped is None:
        return np.asarray(duration[first] + duration[first + 1])
    kinds = np.stack((stage[first], stage[first + 1], order.kind[first + 1] == B), axis=1)
    distinct, which = np.unique(kinds, axis=0, return_inverse=True)
    seconds = np.array([costs.overlapped(int(f), int(b), bool(split)) for f, b, split in distinct])
    return np.asarray(seconds[which.reshape(-1)])


def _per_stage(values: ArrayLike, stages: int, name: str) -> Floats:
    """[virtual stage, piece] from a number, [virtual stage] or [virtual stage, piece]."""
    table = np.asarray(values, dtype=np.float64)
    if table.ndim == 0:
        return np.full((stages, 1), float(table))
    if table.shape[0] != stages or table.ndim > 2:
        raise ValueError(f"PipelineCosts.{name} has shape {table.shape}, needs one value for each of {stages} stages")
    return table.reshape(stages, -1)


def _per_boundary(values: ArrayLike, stages: int, name: str) -> Floats:
    """[boundary, forward or back] from a number, [boundary] or [boundary, 2]."""
    table = np.asarray(values, dtype=np.float64)
    if table.ndim == 0:
        return np.full((max(1, stages - 1), 2), float(table))
    if table.shape not in ((stages - 1,), (stages - 1, 2)):
        raise ValueError(
            f"PipelineCosts.{name} has shape {table.shape}, needs one value for each of {stages - 1} boundaries"
        )
    if not table.size:
        return np.zeros((1, 2))
    return table if table.ndim == 2 else np.stack((table, table), axis=1)
