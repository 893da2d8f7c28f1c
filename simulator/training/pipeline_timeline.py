"""What a pipeline run tells: task times, bubbles, residency, weight versions, messages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.strategies.pipeline.orders import BW, EVICT, KINDS, LOAD, B, F, W
from simulator.training.pipeline_program import Program

__all__ = ["PipelineTimeline", "Residency"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Residency:
    """Peak of something a rank holds, and the moment it is first reached [rank]."""

    peak: Floats
    moment: Floats


@dataclass(frozen=True, eq=False)
class PipelineTimeline:
    """Start and end of every task of a pipeline run, and what follows from them.

    Attributes
    ----------
    program
        The tasks, rank after rank in execution order.
    start, end
        Times [s] of every task [task].
    """

    program: Program
    start: Floats
    end: Floats

    # -- time ----------------------------------------------------------------------------------------------------

    def rank_tasks(self, rank: int) -> dict[str, NDArray[np.generic]]:
        """Columns kind (``F BW B W E L``), microbatch, chunk, stage, start [s], end [s] of one rank."""
        order = self.program.order
        part = slice(int(order.offsets[rank]), int(order.offsets[rank + 1]))
        names = np.array([kind.value for kind in KINDS])
        return {
            "kind": names[order.kind[part]],
            "microbatch": order.microbatch[part],
            "chunk": order.chunk[part],
            "stage": self.program.stage[part],
            "start": self.start[part],
            "end": self.end[part],
        }

    @cached_property
    def makespan(self) -> float:
        """First start to last end [s]."""
        return float(self.end.max(initial=0.0) - self.start.min(initial=np.inf)) if self.end.size else 0.0

    @cached_property
    def busy(self) -> Floats:
        """Seconds of compute [rank]; a mutually overlapped pair counts once."""
        compute = self.program.duration.copy()
        compute[1:][self.program.paired[:-1]] = 0.0
        return self._sum_by_rank(compute)

    @cached_property
    def span(self) -> Floats:
        """First start to last end of each rank [s].

        Without a barrier at the step's end (zero-bubble papers: optimizer post-validation) the next step of a rank
        starts when its own tasks are done, so the step costs ``span.max()``, not ``makespan``.
        """
        compute = ~self.program.detached
        first, last = np.full(self.program.ranks, np.inf), np.zeros(self.program.ranks)
        np.minimum.at(first, self.program.rank[compute], self.start[compute])
        np.maximum.at(last, self.program.rank[compute], self.end[compute])
        length: Floats = last - first
        return length

    @cached_property
    def bubble_over_ideal_by_rank(self) -> Floats:
        """Idle time over busy time [rank], the definition of the Megatron papers."""
        return self.makespan / self.busy - 1.0

    @cached_property
    def bubble_over_total(self) -> float:
        """Idle share of the makespan over all ranks."""
        return float(1.0 - self.busy.sum() / (self.makespan * self.program.ranks))

    @cached_property
    def bubble_over_ideal(self) -> float:
        """Idle over busy time of all ranks together."""
        return float(self.makespan * self.program.ranks / self.busy.sum() - 1.0)

    @cached_property
    def bubble_over_span(self) -> float:
        """(cost − m·(T_F+T_B+T_W)) / cost with cost = the longest span: the zero-bubble papers' rate, no barrier."""
        longest = int(self.span.argmax())
        return float(1.0 - self.busy[longest] / self.span[longest])

    def steady_period(self, microbatches: int = 1) -> float:
        """Seconds per ``microbatches`` micro-batches in the steady state, from the middle half of the run.

        The slope of the last-finished backward of the first virtual stage between a quarter and three quarters
        of the micro-batches: fill and drain do not count.
        """
        order = self.program.order
        last = np.sort(self.end[(self.program.stage == 0) & ((order.kind == BW) | (order.kind == B))])
        low, high = len(last) // 4, 3 * len(last) // 4
        if high <= low:
            raise ValueError(f"a steady state needs more than {len(last)} micro-batches: run more steps")
        return float((last[high] - last[low]) / (high - low) * microbatches)

    # -- memory --------------------------------------------------------------------------------------------------

    @cached_property
    def activations(self) -> Residency:
        """Peak activation bytes of every rank [B] and its moment [s]; evicted activations count at the partner."""
        costs = self.program.costs
        held, kept = costs.activation_bytes, costs.weight_gradient_bytes
        return self._residency(held, held if kept is None else kept)

    @cached_property
    def in_flight(self) -> Residency:
        """Peak count of (micro-batch, chunk) pairs between their F and the end of their B, and its moment [s]."""
        return self._residency(1.0, 0.0)

    def _residency(self, held: ArrayLike, kept: ArrayLike) -> Residency:
        """Peak of a running sum: ``held`` from the start of F, ``kept`` of it from the end of B to the end of W."""
        program, order = self.program, self.program.order
        hold = np.broadcast_to(np.asarray(held, dtype=np.float64), (program.stages,))[program.stage]
        keep = np.broadcast_to(np.asarray(kept, dtype=np.float64), (program.stages,))[program.stage]
        taken = np.where(order.kind == F, hold, 0.0)
        freed = np.select([order.kind == BW, order.kind == B, order.kind == W], [hold, hold - keep, keep], 0.0)
        if program.detached.any():
            return self._residency_events(hold, taken, freed)
        level = np.cumsum(taken) - np.cumsum(freed) + freed  # right after a task starts: nothing of it freed yet
        first = order.offsets[:-1]
        before = np.concatenate(([0.0], np.cumsum(taken - freed)))[first]
        peak, moment = np.zeros(program.ranks), np.zeros(program.ranks)
        for rank in range(program.ranks):
            part = slice(int(first[rank]), int(order.offsets[rank + 1]))
            if part.start < part.stop:
                top = int(level[part].argmax())
                peak[rank] = level[part.start + top] - before[rank]
                moment[rank] = self.start[part.start + top]
        return Residency(peak, moment)

    def _residency_events(self, hold: Floats, taken: Floats, freed: Floats) -> Residency:
        """The same with activations that move between ranks: all changes sorted by time, frees first."""
        program, kind = self.program, self.program.order.kind
        assert program.traits.partner is not None
        partner = np.array([program.traits.partner(r, program.ranks) for r in range(program.ranks)])[program.rank]
        evict, load = kind == EVICT, kind == LOAD
        # The copy arrives while the original is still there: the receiver allocates when a transfer starts.
        rank = np.concatenate(
            [program.rank, program.rank, partner[evict], program.rank[evict], program.rank[load], partner[load]]
        )
        time = np.concatenate(
            [self.start, self.end, self.start[evict], self.end[evict], self.start[load], self.end[load]]
        )
        delta = np.concatenate([taken, -freed, hold[evict], -hold[evict], hold[load], -hold[load]])
        peak, moment = np.zeros(program.ranks), np.zeros(program.ranks)
        for r in range(program.ranks):
            mine = np.flatnonzero((rank == r) & (delta != 0))
            mine = mine[np.lexsort((delta[mine] > 0, time[mine]))]
            level = np.cumsum(delta[mine])
            if level.size:
                peak[r], moment[r] = level.max(), time[mine][level.argmax()]
        return Residency(peak, moment)

    def weight_versions(self, update_every: int = 1) -> Ints:
        """Versions of a chunk's weights a rank must hold when it updates after every ``update_every`` backwards.

        A micro-batch's backward must use the weights of its forward (weight stashing), so a rank keeps every
        version that some micro-batch in flight started with, and the newest [rank, chunk].
        """
        return self._versions(update_every)[0]

    def staleness(self, update_every: int = 1) -> Ints:
        """Updates of a chunk's weights between a micro-batch's forward and its own update, at most [rank, chunk]."""
        return self._versions(update_every)[1]

    def _versions(self, update_every: int) -> tuple[Ints, Ints]:
        program, order = self.program, self.program.order
        chunks = int(order.chunk.max(initial=0)) + 1
        versions = np.ones((program.ranks, chunks), dtype=np.int64)
        staleness = np.zeros((program.ranks, chunks), dtype=np.int64)
        for rank in range(program.ranks):
            used: list[dict[int, int]] = [{} for _ in range(chunks)]
            done = [0] * chunks
            for task in range(int(order.offsets[rank]), int(order.offsets[rank + 1])):
                c, m = int(order.chunk[task]), int(order.microbatch[task])
                newest = done[c] // update_every
                if order.kind[task] == F:
                    used[c][m] = newest
                elif order.kind[task] in (BW, W):
                    versions[rank, c] = max(versions[rank, c], len({*used[c].values(), newest}))
                    staleness[rank, c] = max(staleness[rank, c], newest - used[c].pop(m))
                    done[c] += 1
        return versions, staleness

    # -- messages ------------------------------------------------------------------------------------------------

    @cached_property
    def p2p_bytes(self) -> Floats:
        """Bytes of activations and their gradients each rank sends to other ranks [rank] [B]."""
        return self._sum_by_rank(np.where(self.program.detached, 0.0, self.program.message))

    @cached_property
    def p2p_messages(self) -> Ints:
        """Number of those messages [rank]."""
        sent = (self.program.link >= 0) & ~self.program.detached
        return np.bincount(self.program.rank[sent], minlength=self.program.ranks).astype(np.int64)

    @cached_property
    def swap_bytes(self) -> Floats:
        """Activation bytes each rank evicts to its partner and fetches back [rank] [B]."""
        return self._sum_by_rank(np.where(self.program.detached, self.program.message, 0.0))

    @cached_property
    def backward_window(self) -> tuple[Floats, Floats]:
        """End of the first and of the last task that adds to the weight gradients [rank, chunk] [s]; NaN = none.

        The reduction of a chunk's gradients can start at the second.
        """
        program, order = self.program, self.program.order
        chunks = int(order.chunk.max(initial=0)) + 1
        tasks = np.flatnonzero((order.kind == BW) | (order.kind == W))
        slot = program.rank[tasks] * chunks + order.chunk[tasks]
        first, last = np.full(program.ranks * chunks, np.inf), np.full(program.ranks * chunks, -np.inf)
        np.minimum.at(first, slot, self.end[tasks])
        np.maximum.at(last, slot, self.end[tasks])
        shape = (program.ranks, chunks)
        return (
            np.where(np.isinf(first), np.nan, first).reshape(shape),
            np.where(np.isinf(last), np.nan, last).reshape(shape),
        )

    # -- checks --------------------------------------------------------------------------------------------------

    def validate(self, tolerance: float = 1e-9) -> None:
        """Check the times against the rules, independently of the pass that made them.

        Raises
        ------
        ValueError
            If two tasks of a rank overlap that should not, or a task starts before its input has arrived.
        """
        program, order = self.program, self.program.order
        slack = tolerance * max(1.0, self.makespan)
        compute = np.flatnonzero(~program.detached)
        before, after = compute[:-1], compute[1:]
        same = (program.rank[before] == program.rank[after]) & ~program.paired[before]
        self._reject(after[same & (self.start[after] < self.end[before] - slack)], "starts before its rank is free")
        kinds = np.where(order.kind == BW, B, order.kind)
        keys = zip(kinds.tolist(), program.stage.tolist(), order.microbatch.tolist(), strict=True)
        times: dict[tuple[int, int, int], int] = {key: task for task, key in enumerate(keys)}
        for (kind, stage, microbatch), task in times.items():
            needed = {F: [(F, stage - 1)], B: [(B, stage + 1), (F, stage)], W: [(B, stage)]}.get(kind, [])
            for other in (times.get((k, s, microbatch)) for k, s in needed):
                if other is None:
                    continue
                away = program.rank[other] != program.rank[task]
                wait = max(program.transfer[other], program.receive[task]) if away else 0.0
                self._reject(
                    np.array([task])[self.start[[task]] < self.end[other] + wait - slack],
                    f"starts before the result of {program.describe(other)} is there",
                )

    def _reject(self, tasks: Ints, why: str) -> None:
        if tasks.size:
            raise ValueError(f"{self.program.describe(int(tasks[0]))} {why}")

    def _sum_by_rank(self, values: Floats) -> Floats:
        return np.bincount(self.program.rank, weights=values, minlength=self.program.ranks).astype(np.float64)
