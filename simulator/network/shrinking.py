"""Flows that share links, of which one after another ends: only those that can get more are divided anew.

When a flow ends that had the level λ (rate over weight), every flow below λ keeps its rate: filling goes up to λ as
before, because the links of the flow that ended fill at λ at the earliest. The others share what those leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from simulator.network.books import FlowBooks
from simulator.network.flows import Flow
from simulator.network.maxmin import max_min_allocation
from simulator.network.progress import Progress

__all__ = ["LastSolved", "Shrinking", "lone_rate"]

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
Changes = tuple[Ids, Floats, Ids]
"""Places of flows, their rates [B/s], and the links that limit them (−1: their own cap)."""

_SAME = 1e-9
"""Relative difference up to which levels count as equal."""
_TIED = 1e-12
"""Relative difference up to which two links count as equally narrow."""
_SPARSE = 0.75
"""Arrays are made anew when less than this share of the flows in them is left."""


def lone_rate(flow: Flow, capacity: Floats) -> tuple[float, int]:
    """Rate [B/s] of a flow that shares nothing, and the link that limits it (−1: its own cap)."""
    links = flow.solved.links
    levels = capacity[links] / flow.solved.shares
    level = float(levels.min())
    tied = links[levels <= level * (1 + _TIED)]
    return min(level, flow.cap), int(tied[capacity[tied].argmin()]) if level < flow.cap else -1


class Shrinking:
    """Flows and their rates, as long as none is added and no link changes.

    Parameters
    ----------
    flows
        All that are joined by shared links, or more. Changes name them by their place here.
    capacity
        [links], [B/s].
    tightest
        Of links with the same flows only the narrowest: :meth:`FlowIndex.tightest`. It stays so when flows end.

    Attributes
    ----------
    rounds
        Filling rounds so far.
    """

    def __init__(self, flows: Sequence[Flow], capacity: Floats, tightest: Callable[[Ids], Ids]) -> None:
        self.rounds = 0
        self._which = np.arange(len(flows))  # places of the flows that are looked at
        every = np.concatenate([f.solved.links for f in flows])
        share = np.concatenate([f.solved.shares for f in flows])
        owner = np.repeat(np.arange(len(flows)), [len(f.solved.links) for f in flows])
        self._used = tightest(every)
        place = np.full(len(capacity), -1, np.int64)
        place[self._used] = np.arange(len(self._used))
        kept = place[every] >= 0
        self._owner, self._link, self._share = owner[kept], place[every[kept]], share[kept]
        self._capacity = capacity[self._used]
        self._weights, self._caps = np.array([f.weight for f in flows]), np.array([f.cap for f in flows])
        self._rates, self._limits = np.zeros(len(flows)), np.full(len(flows), -2, np.int64)
        self._alive = np.ones(len(flows), bool)

    def all(self) -> Changes:
        """Every flow."""
        return self._divide(np.ones(len(self._which), bool))

    def without(self, ended: Ids) -> Changes:
        """Take the flows at these places out; those for which something has changed."""
        gone = np.searchsorted(self._which, ended)
        level = self._rates / self._weights
        lowest = float(level[gone].min())
        self._alive[gone] = False
        again = self._alive & (level >= lowest * (1 - _SAME))
        if self._alive.sum() < len(self._alive) * _SPARSE:
            again = self._compact(again)
        return self._divide(again)

    def _compact(self, again: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Forget the flows that have ended; returns ``again`` for those that are left."""
        alive = self._alive
        kept = alive[self._owner]
        number = np.cumsum(alive) - 1
        self._owner, self._link, self._share = number[self._owner[kept]], self._link[kept], self._share[kept]
        self._which, self._weights, self._caps = self._which[alive], self._weights[alive], self._caps[alive]
        self._rates, self._limits, self._alive = self._rates[alive], self._limits[alive], alive[alive]
        return again[alive]

    def _divide(self, again: NDArray[np.bool_]) -> Changes:
        """What the flows that keep their rates leave, among the others."""
        chosen = np.flatnonzero(again)
        mine = again[self._owner]
        fixed = np.flatnonzero(self._alive[self._owner] & ~mine)
        load = self._share[fixed] * self._rates[self._owner[fixed]]
        room = np.maximum(self._capacity - np.bincount(self._link[fixed], load, len(self._capacity)), 0.0)
        entries = np.flatnonzero(mine)
        counts = np.bincount(self._owner[entries], minlength=len(again))[chosen]
        found = max_min_allocation(
            room, np.concatenate([[0], np.cumsum(counts)]), self._link[entries], self._weights[chosen],
            self._caps[chosen], self._share[entries],
        )  # fmt: skip
        self.rounds += found.rounds
        limits = np.append(self._used, -1)[found.bottleneck]
        moved = (found.rates != self._rates[chosen]) | (limits != self._limits[chosen])
        self._rates[chosen], self._limits[chosen] = found.rates, limits
        return self._which[chosen[moved]], found.rates[moved], limits[moved]


class LastSolved:
    """The flows that were solved last, as long as nothing happens but that some of them end.

    Parameters
    ----------
    books
        Where it is entered what limited them.

    Attributes
    ----------
    changed, rounds
        Flows that the latest answer changed, and the filling rounds it took.
    """

    def __init__(self, books: FlowBooks) -> None:
        self.changed = self.rounds = 0
        self._books = books
        self._known: tuple[Shrinking, Progress] | None = None
        self._ended: list[int] = []

    @property
    def next_end(self) -> float:
        """When the first of them will have sent everything [s]; infinite when none ever has."""
        return self._known[1].next_end if self._known else math.inf

    def due(self, until: float) -> list[Flow]:
        """Those that have sent everything by then [s]."""
        return self._known[1].due(until) if self._known else []

    def end(self, flow: Flow) -> bool:
        """One of them ends and is brought up to date; ``False`` when it is none of them."""
        if self._known is None or flow not in self._known[1]:
            return False
        self._ended.append(self._known[1].give_back(flow))
        return True

    def forget(self) -> list[Flow]:
        """A flow has begun or a link has changed: all that are left, brought up to date."""
        if self._known is None:
            return []
        self._books.enter(self._known[1].booked())
        left = self._known[1].give_back_all()
        self._known, self._ended = None, []
        return left

    def show(self) -> None:
        """Bring all flows up to date for somebody who looks at them."""
        if self._known is not None:
            self._books.enter(self._known[1].booked())
            self._known[1].show()

    def solve(self, flows: Sequence[Flow], capacity: Floats, tightest: Callable[[Ids], Ids], now: float) -> None:
        """Divide the links among flows that share them, from ``now`` [s] on."""
        self._known = Shrinking(flows, capacity, tightest), Progress(flows, now)
        self._take(self._known[0].all(), now)

    def answer(self, now: float) -> bool:
        """Divide anew now that some have ended; ``False`` when none has."""
        ended, self._ended = np.array(self._ended, np.int64), []
        if self._known is None or not len(ended):
            return False
        self._take(self._known[0].without(ended), now)
        return True

    def _take(self, changes: Changes, now: float) -> None:
        assert self._known is not None
        shrinking, progress = self._known
        progress.change(*changes, now)
        self.changed, self.rounds, shrinking.rounds = len(changes[0]), shrinking.rounds, 0
