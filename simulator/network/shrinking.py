"""Flows that share links, of which one after another ends: only those that can get more are divided anew.

When a flow ends that had the level λ (rate over weight), every flow below λ keeps its rate: filling goes up to λ as
before, because the links of the flow that ended fill at λ at the earliest. The others share what those leave.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from simulator.network.flows import Flow
from simulator.network.maxmin import max_min_allocation

__all__ = ["LastSolved", "Shrinking", "lone_rate"]

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
Change = tuple[Flow, float, int]

_SAME = 1e-9
"""Relative difference up to which levels count as equal."""
_TIED = 1e-12
"""Relative difference up to which two links count as equally narrow."""


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
        All that are joined by shared links, or more.
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
        self.flows, self.rounds = list(flows), 0
        self._place = {flow.number: i for i, flow in enumerate(flows)}
        every = np.concatenate([f.solved.links for f in flows])
        share = np.concatenate([f.solved.shares for f in flows])
        owner = np.repeat(np.arange(len(flows)), [len(f.solved.links) for f in flows])
        self._used = tightest(every)
        place = np.full(len(capacity), -1, np.int64)
        place[self._used] = np.arange(len(self._used))
        kept = place[every] >= 0
        self._owner, self._link, self._share = owner[kept], place[every[kept]], share[kept]
        self._room = capacity[self._used]
        self._weights, self._caps = np.array([f.weight for f in flows]), np.array([f.cap for f in flows])
        self._rates, self._limits = np.zeros(len(flows)), np.full(len(flows), -2, np.int64)
        self._alive = np.ones(len(flows), bool)

    def __contains__(self, flow: Flow) -> bool:
        return flow.number in self._place

    def all(self) -> Iterator[Change]:
        """Every flow with its rate [B/s] and the link that limits it (−1: its own cap)."""
        return self._divide(np.ones(len(self.flows), bool))

    def without(self, ended: Collection[Flow]) -> Iterator[Change]:
        """Take flows out; those for which something has changed, as :meth:`all` gives them."""
        gone = np.array([self._place[flow.number] for flow in ended], np.int64)
        level = self._rates / self._weights
        lowest = float(level[gone].min())
        self._alive[gone] = False
        if self._alive.sum() < len(self._alive) / 2:
            return self._divide(self._compact(level >= lowest * (1 - _SAME)))
        return self._divide(self._alive & (level >= lowest * (1 - _SAME)))

    def _compact(self, again: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Forget the flows that have ended; returns ``again`` for those that are left."""
        kept = self._alive[self._owner]
        number = np.cumsum(self._alive) - 1
        self._owner, self._link, self._share = number[self._owner[kept]], self._link[kept], self._share[kept]
        self.flows = [flow for flow, alive in zip(self.flows, self._alive.tolist(), strict=True) if alive]
        self._place = {flow.number: i for i, flow in enumerate(self.flows)}
        self._weights, self._caps = self._weights[self._alive], self._caps[self._alive]
        self._rates, self._limits = self._rates[self._alive], self._limits[self._alive]
        again = again[self._alive]
        self._alive = np.ones(len(self.flows), bool)
        return again

    def _divide(self, again: NDArray[np.bool_]) -> Iterator[Change]:
        """What the flows that keep their rates leave, among the others."""
        chosen = np.flatnonzero(again)
        if not len(chosen):
            return
        fixed = (self._alive & ~again)[self._owner]
        load = self._share[fixed] * self._rates[self._owner[fixed]]
        room = np.maximum(self._room - np.bincount(self._link[fixed], load, minlength=len(self._room)), 0.0)
        mine = again[self._owner]
        counts = np.bincount(self._owner[mine], minlength=len(self.flows))[chosen]
        link = self._link[mine]
        crossed = np.zeros(len(room), bool)
        crossed[link] = True
        used = np.flatnonzero(crossed)
        found = max_min_allocation(
            room[used], np.r_[0, np.cumsum(counts)], (np.cumsum(crossed) - 1)[link], self._weights[chosen],
            self._caps[chosen], self._share[mine],
        )  # fmt: skip
        self.rounds += found.rounds
        limits = np.where(found.bottleneck >= 0, self._used[used][found.bottleneck], -1)
        moved = (found.rates != self._rates[chosen]) | (limits != self._limits[chosen])
        self._rates[chosen], self._limits[chosen] = found.rates, limits
        changed = chosen[moved].tolist()
        for i, rate, limit in zip(changed, found.rates[moved].tolist(), limits[moved].tolist(), strict=True):
            yield self.flows[i], rate, limit


class LastSolved:
    """The flows that were solved last, as long as nothing happens but that some of them end.

    Attributes
    ----------
    rounds
        Filling rounds of the latest answer.
    """

    def __init__(self) -> None:
        self.rounds = 0
        self._known: Shrinking | None = None
        self._ended: list[Flow] = []

    def forget(self) -> None:
        """A flow has begun or a link has changed."""
        self._known = None

    def end(self, flow: Flow) -> None:
        """A flow has ended."""
        self._ended.append(flow)

    def solve(self, flows: Sequence[Flow], capacity: Floats, tightest: Callable[[Ids], Ids]) -> list[Change]:
        """Rates of flows that share links; they are remembered."""
        self._known = Shrinking(flows, capacity, tightest)
        changes = list(self._known.all())
        self.rounds = self._known.rounds
        return changes

    def answer(self) -> list[Change] | None:
        """Who gets how much now that some have ended; ``None`` when that is not all that happened."""
        ended, self._ended = self._ended, []
        known = self._known
        if known is None or not ended or not all(flow in known for flow in ended):
            self._known = None
            return None
        before = known.rounds
        changes = list(known.without(ended))
        self.rounds = known.rounds - before
        return changes
