"""Runs a deployment in the compiled loop, and hands it over to the loop of objects whenever somebody looks inside."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator
from itertools import chain, islice, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.serving.compiled import layout as at
from simulator.serving.compiled.costs import find_chunk
from simulator.serving.compiled.handover import give_back
from simulator.serving.compiled.loop import advance
from simulator.serving.compiled.pointers import addresses
from simulator.serving.compiled.tables import CostTables
from simulator.serving.separable import SeparableCost
from simulator.strategies.router.basic import LeastOutstanding, PowerOfTwo, RandomReplica, RoundRobin

if TYPE_CHECKING:
    from simulator.serving.limits import EngineLimits
    from simulator.serving.replica import Replica
    from simulator.strategies.protocols import RequestState, Router
    from simulator.workload.requests.table import RequestTable

__all__ = ["CompiledLoop"]

_GAPS, _ENDED, _DRAWS, _SLOTS = 1 << 16, 1 << 13, 1 << 13, 1 << 10

Floats = at.Floats


def _column(values: Any, kind: type[np.generic]) -> Any:
    """As the kernel reads it: contiguous, in its own type; no copy where it is so already."""
    return np.require(values, kind, "C")


class CompiledLoop:
    """Replicas of the plain case over arrays.

    Parameters
    ----------
    table
        Requests in order of arrival, open loop.
    rejected
        Reason of refusal per request, 0 for none.
    cost
        Iteration times of every replica.
    limits, replicas
        Sizes of an engine, and how many there are.
    policy, count_padding
        ``layout.CHUNKED_PREFILL`` or ``layout.PREFILL_FIRST``, and the parameter of the latter.
    router, draws
        ``layout.ROUND_ROBIN`` …, and the random numbers of those that draw.
    on_ended
        Called with rows of :data:`~simulator.serving.compiled.layout.ENDED_FIELDS` columns, in order of finishing.
    gaps
        Where gaps between tokens go, a flat column per replica.
    on_stock
        Called with (row, time [s]) at every 8,192nd arrival, before it.
    on_sample
        Called with (row, time [s], requests refused, requests ended) at the first arrival and at those that it returns
        the number of, before them.
    came
        When requests came, where ``table`` says when they leave the front end [s].
    """

    def __init__(
        self, table: RequestTable, rejected: bytes, cost: SeparableCost, limits: EngineLimits, replicas: int,
        policy: int, router: int, draws: Iterator[float], *, count_padding: bool = False,
        on_ended: Callable[[Floats], None], gaps: list[array[float]],
        on_stock: Callable[[int, float], None], on_sample: Callable[[int, float, int, int], int] | None = None,
        came: Floats | None = None,
    ) -> None:  # fmt: skip
        self.cost, self._draws, self._came = cost, draws, came
        self._on_ended, self._gaps, self._on_stock, self._on_sample = on_ended, gaps, on_stock, on_sample
        self._ended = self._refused = self._counted = 0
        self.entries = 0
        """Calls of the kernel so far."""
        self.over = False
        """Whether the objects have taken over."""
        sequences = min(limits.max_num_seqs, limits.kv_blocks)
        size = np.zeros(at.SIZE_FIELDS, dtype=np.int64)
        size[at.BLOCK], size[at.BUDGET] = limits.block_size, limits.max_num_batched_tokens
        size[at.MOST_SEQUENCES], size[at.TOTAL_BLOCKS] = sequences, limits.kv_blocks
        size[at.WATERMARK] = int(limits.watermark * limits.kv_blocks)
        size[at.POLICY], size[at.ROUTER], size[at.COUNT_PADDING] = policy, router, count_padding
        size[at.OVERLAPPED] = cost.overlapped
        size[at.CAPTURED_TOKENS], size[at.CAPTURED_SEQUENCES] = cost.captured_tokens, cost.captured_sequences
        room = 4 * sequences + 32
        longest = int(table.input_tokens.max()) + int(table.output_tokens.max())  # preempted at its end
        most_tokens = max(longest, limits.max_num_batched_tokens, sequences)
        self._tables = known = cost.tables or CostTables(len(cost.chunks))
        known.reach(most_tokens, sequences)
        self.state = at.State(
            **at.allocate(replicas, sequences, limits.block_size, _SLOTS),  # type: ignore[arg-type]
            size=size, gaps=np.zeros((max(_GAPS, room), at.GAP_FIELDS)),
            ended=np.zeros((max(_ENDED, room), at.ENDED_FIELDS)), draws=np.zeros(0),
            arrival=_column(table.arrival, np.float64), inputs=_column(table.input_tokens, np.int32),
            outputs=_column(table.output_tokens, np.int32),
            rejected=np.frombuffer(bytearray(rejected), dtype=np.uint8),
            token_seconds=known.token_seconds, row_seconds=known.row_seconds, decode_seconds=known.decode_seconds,
            chunk_keys=known.chunk_keys, chunk_seconds=known.chunk_seconds,
            term=np.array([(t.launch, t.layers) for t in cost.chunks]).reshape(-1, 2),
            rate=np.array([
                cost.gap, cost.per_context, cost.exposed, cost.hidden, cost.host_fixed, cost.host_each,
                cost.launching, cost.launching_prompts, cost.launching_pieces, cost.launch_exposed,
            ]),
        )  # fmt: skip

        self.state.common[at.NEXT_SAMPLE] = 0 if on_sample is not None else 1 << 60

    def work(self, now: float, limit: float) -> float:
        """As :meth:`~simulator.serving.deployment.DeploymentProcess` works: up to ``now``, and on until ``limit``."""
        table, of = addresses(self.state), self.state
        while not self.over:
            if self.state is not of:
                table, of = addresses(self.state), self.state
            self.entries += 1
            why, time = advance(table.ctypes.data, now, limit)
            if why == at.FINISHED:
                if time == math.inf:
                    self.drain_ended()
                return float(time)
            if why == at.STOCK:
                self.drain()
                self._on_stock(self.arrivals, float(time))
            elif why == at.SAMPLE:
                self._sample(float(time))
            else:
                self._provide(why)
        return now

    def _sample(self, now: float) -> None:
        s, row = self.state, self.arrivals
        self._refused += int(np.count_nonzero(s.rejected[self._counted : row]))
        self._counted = row
        assert self._on_sample is not None
        ended = self._ended + int(s.common[at.ENDED])
        now = now if self._came is None else float(self._came[row])
        s.common[at.NEXT_SAMPLE] = self._on_sample(row, now, self._refused, ended)

    def _provide(self, why: int) -> None:
        """What the kernel asks for."""
        s, cost = self.state, self.cost
        wanted = int(s.common[at.WANTED])
        if why == at.FULL_GAPS:
            self.drain_gaps()
        elif why == at.FULL_ENDED:
            self.drain_ended()
        elif why == at.NO_TOKENS:
            s.token_seconds[wanted] = cost.tokens(wanted)
        elif why == at.NO_ROWS:
            s.row_seconds[wanted] = cost.rows(wanted)
        elif why == at.NO_DECODES:
            s.decode_seconds[wanted] = cost.decodes(wanted)
        elif why == at.NO_CHUNK:
            self._learn(wanted)
        elif why == at.NO_SLOTS:
            slot, time = at.grow_slots(s.slot, s.time, s.common, 2 * len(s.slot))
            self.state = s._replace(slot=slot, time=time)
        elif why == at.NO_DRAWS:
            left = s.draws[s.common[at.DRAWN] :].tolist()
            self.state = s._replace(draws=np.array([*left, *islice(self._draws, _DRAWS)]))
            s.common[at.DRAWN] = 0

    def _learn(self, key: int) -> None:
        """Enter a chunk in its table, which is kept half empty."""
        s, known = self.state, self._tables
        if 2 * known.chunks >= len(known.chunk_keys):
            keys = np.full(2 * len(known.chunk_keys), at.NONE, dtype=np.int64)
            seconds = np.zeros((len(keys), known.chunk_seconds.shape[1]))
            for old in np.flatnonzero(known.chunk_keys != at.NONE):
                place = find_chunk(keys, known.chunk_keys[old])
                keys[place], seconds[place] = known.chunk_keys[old], known.chunk_seconds[old]
            known.chunk_keys, known.chunk_seconds = keys, seconds
        if s.chunk_keys is not known.chunk_keys:  # enlarged, perhaps by another deployment of the same engine
            self.state = s = s._replace(chunk_keys=known.chunk_keys, chunk_seconds=known.chunk_seconds)
        tokens, cached = key >> at.CHUNK_BITS, key & ((1 << at.CHUNK_BITS) - 1)
        place = find_chunk(s.chunk_keys, key)
        s.chunk_keys[place] = key
        s.chunk_seconds[place] = [term.seconds(tokens, cached) for term in self.cost.chunks]
        known.chunks += 1

    # -- what comes out ------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Pass on everything that has been noted."""
        self.drain_ended()
        self.drain_gaps()

    def drain_ended(self) -> None:
        """Pass on requests that have ended."""
        s = self.state
        count = int(s.common[at.ENDED])
        if (s.replica[:, at.PEAK] > s.size[at.TOTAL_BLOCKS]).any() or (s.replica[:, at.USED] < 0).any():
            raise RuntimeError("more KV blocks handed out than there are, or more taken back than handed out")
        if count:
            self._ended += count
            ended = s.ended[:count].copy()
            if self._came is not None:
                ended[:, 1] = self._came[ended[:, 0].astype(np.int64)]
            self._on_ended(ended)
            s.common[at.ENDED] = 0

    def drain_gaps(self) -> None:
        """Pass on gaps between tokens, replica by replica."""
        s = self.state
        gaps = s.gaps[: s.common[at.GAPS]]
        s.common[at.GAPS] = 0
        order = np.argsort(gaps[:, 0], kind="stable")
        bounds = np.searchsorted(gaps[order, 0], np.arange(len(s.replica) + 1))
        values = gaps[order, 1:]
        for column, (first, last) in zip(self._gaps, pairwise(bounds), strict=True):
            column.frombytes(values[first:last].tobytes())

    @property
    def arrivals(self) -> int:
        """Requests that have come so far."""
        return int(self.state.common[at.PLACE])

    def hand_over(self, replicas: list[Replica], router: Router) -> tuple[int, list[RequestState]]:
        """Write everything into objects, which go on from here.

        Returns
        -------
        (row of the next arrival, requests in the system)
        """
        self.drain()
        self.over = True
        s = self.state
        live = give_back(s, replicas)
        if self._came is not None:
            for request in live:
                request.arrival = float(self._came[request.index])
        if isinstance(router, RoundRobin | LeastOutstanding):
            router.last = int(s.common[at.LAST_ROUTED])
        elif isinstance(router, RandomReplica | PowerOfTwo):
            router.draws = chain(s.draws[s.common[at.DRAWN] :].tolist(), self._draws)
        return self.arrivals, live
