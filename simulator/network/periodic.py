"""Traffic that repeats: phases of a job's steps as standing flows, and what they get beside everything else.

A job that repeats one step sends in bursts: an all-reduce now, nothing for a while, an activation later. Between two
changes of the network such a period returns many times, and bursts of different jobs meet at every offset. So each
job is taken to be in one of its phases (or in none) with the share of time it spends there, independently of the
others. In every joint state the links are divided max-min fairly among what is under way; a phase's rate is the mean
over the states of the others, and its time is its bytes over that rate. Longer phases mean other shares of time, and
these other rates: the answer is the fixed point. Nothing is simulated burst by burst, so equal steps are still jumped
over.

Where the independence does not matter the answer is exact: a phase that meets nobody runs as if it were alone, and
jobs that do nothing but communicate divide their links max-min fairly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from simulator.network.flows import Way
from simulator.network.maxmin import Allocation

__all__ = ["DRAWS", "MOST_STATES", "Periodic", "Phase", "Steady", "slow_down", "steady_state"]

Floats = NDArray[np.float64]

MOST_STATES: Final = 2048
"""Joint states up to which all are counted; beyond, every phase is judged by :data:`DRAWS` states of the others."""
DRAWS: Final = 64
_CLOSE: Final = 1e-10
_MOST_ROUNDS: Final = 200
_ALONE: Final = 1e-9
"""Relative distance from its own peak up to which a phase counts as undisturbed."""


@dataclass(frozen=True, eq=False)
class Phase:
    """Part of a period.

    Attributes
    ----------
    name
        E.g. ``data_parallel``.
    way
        Links, and the load on each relative to the busiest.
    size
        Bytes on the busiest link per period [B].
    seconds
        How long it is under way in a period when nobody is in its way [s].
    weight
        Its rate rises in proportion where it competes.
    """

    name: str
    way: Way
    size: float
    seconds: float
    weight: float = 1.0

    @property
    def peak(self) -> float:
        """Rate on the busiest link while it runs undisturbed [B/s]."""
        return self.size / self.seconds


class Periodic(Protocol):
    """Something that repeats its phases, one at a time."""

    @property
    def tag(self) -> str:
        """Whom the traffic is booked to."""

    @property
    def phases(self) -> Sequence[Phase]:
        """What it sends; constant while it is on the network."""

    def shares(self, slow: Sequence[float]) -> Sequence[float]:
        """Share of the time each phase is under way when it takes ``slow`` times as long as undisturbed; sum ≤ 1."""

    def settled(self, slow: Sequence[float]) -> None:
        """Told whenever the slow-down of a phase has changed."""


@dataclass(frozen=True, eq=False)
class Steady:
    """What the flows of one component get in the mean.

    Attributes
    ----------
    rates
        [flows], [B/s]: of a phase while it is under way, of any other flow all the time.
    shares
        [flows]: share of the time; 1 for what is no phase.
    limits
        By flow: link → share of its active time in which that link limits it (−1: its own peak).
    states
        How many joint states were divided.
    """

    rates: Floats
    shares: Floats
    limits: tuple[dict[int, float], ...]
    states: int


def slow_down(peak: float, rate: float) -> float:
    """How many times longer something takes at ``rate`` than at its ``peak``; exactly 1 where they agree."""
    if rate >= peak * (1 - _ALONE):
        return 1.0
    return peak / rate if rate > 0 else math.inf


Allocate = Callable[[tuple[int, ...]], Allocation]


def steady_state(
    parties: Sequence[tuple[Periodic, Sequence[int]]], peaks: Floats, standing: Sequence[int], allocate: Allocate
) -> Steady:
    """Mean rates of phases and standing flows that share links.

    Parameters
    ----------
    parties
        Each periodic load with the numbers of its flows, one per phase.
    peaks
        [flows], [B/s].
    standing
        Numbers of the flows that are always under way.
    allocate
        Max-min fair division among the flows given by number, in their order.
    """
    return _States(parties, peaks, standing, allocate).solve()


class _States:
    """Joint states of the parties: which phase each is in, and what everybody gets then."""

    def __init__(
        self, parties: Sequence[tuple[Periodic, Sequence[int]]], peaks: Floats, standing: Sequence[int], ask: Allocate
    ) -> None:
        self.parties, self.peaks, self.standing, self.ask = parties, peaks, tuple(standing), ask
        self.options = [len(flows) + 1 for _, flows in parties]  # the last one: in no phase
        self.exact = math.prod(self.options) <= MOST_STATES
        self.known: dict[tuple[int, ...], Allocation] = {}
        if self.exact:
            self.every = np.array(list(product(*map(range, self.options))), np.int64).reshape(-1, len(parties))
        else:
            self.draws = np.random.default_rng(0).random((DRAWS, len(parties)))

    def solve(self) -> Steady:
        slow = [[1.0] * len(flows) for _, flows in self.parties]
        shares = [np.array(load.shares(s), np.float64) for (load, _), s in zip(self.parties, slow, strict=True)]
        for _ in range(_MOST_ROUNDS if self.exact else _MOST_ROUNDS // 20):
            rates, limits = self._means(shares)
            slow = [[slow_down(float(self.peaks[f]), float(rates[f])) for f in flows] for _, flows in self.parties]
            after = [np.array(load.shares(s), np.float64) for (load, _), s in zip(self.parties, slow, strict=True)]
            moved = max((float(np.abs(a - b).max()) for a, b in zip(after, shares, strict=True) if len(a)), default=0.0)
            shares = after
            if moved <= _CLOSE:
                break
        active = np.ones(len(self.peaks))
        for (_, flows), share in zip(self.parties, shares, strict=True):
            active[list(flows)] = share
        return Steady(rates, active, limits, len(self.known))

    def _allocation(self, state: tuple[int, ...]) -> Allocation:
        """What everybody gets in a joint state; flows that are not under way get nothing."""
        if state not in self.known:
            under_way = [flows[o] for (_, flows), o in zip(self.parties, state, strict=True) if o < len(flows)]
            active = (*under_way, *self.standing)
            part = self.ask(active)
            rates, limit = np.zeros(len(self.peaks)), np.full(len(self.peaks), -1, np.int64)
            rates[list(active)], limit[list(active)] = part.rates, part.bottleneck
            self.known[state] = Allocation(rates, limit, part.rounds)
        return self.known[state]

    def _means(self, shares: list[Floats]) -> tuple[Floats, tuple[dict[int, float], ...]]:
        """Mean rate of every flow over the states of all others, and what limits it for which share of its time."""
        chances = [np.append(share, max(0.0, 1.0 - share.sum())) for share in shares]
        rates = np.zeros(len(self.peaks))
        limits: list[dict[int, float]] = [{} for _ in range(len(self.peaks))]
        for party, (_, flows) in enumerate(self.parties):
            for option, flow in enumerate(flows):
                self._mean(flow, self._others(chances, party, option), rates, limits)
        for flow in self.standing:
            self._mean(flow, self._others(chances, None, 0), rates, limits)
        return rates, tuple(limits)

    def _mean(
        self, flow: int, states: list[tuple[tuple[int, ...], float]], rates: Floats, limits: list[dict[int, float]]
    ) -> None:
        for state, chance in states:
            known = self._allocation(state)
            rates[flow] += chance * known.rates[flow]
            link = int(known.bottleneck[flow])
            limits[flow][link] = limits[flow].get(link, 0.0) + chance

    def _others(self, chances: list[Floats], party: int | None, option: int) -> list[tuple[tuple[int, ...], float]]:
        """States with ``party`` at ``option`` and the chance of what the others do; impossible ones are left out."""
        if self.exact:
            rows = self.every if party is None else self.every[self.every[:, party] == option]
            weight = np.ones(len(rows))
            for other, chance in enumerate(chances):
                if other != party:
                    weight *= chance[rows[:, other]]
            keep = np.flatnonzero(weight > 0)
            return [(tuple(rows[i].tolist()), float(weight[i])) for i in keep]
        ends = [np.cumsum(chance) for chance in chances]
        rows = np.stack([np.searchsorted(e, d * e[-1]) for e, d in zip(ends, self.draws.T, strict=True)], axis=1)
        if party is not None:
            rows[:, party] = option
        return [(tuple(row), 1.0 / DRAWS) for row in rows.tolist()]
