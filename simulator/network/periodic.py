"""Traffic that repeats: phases of a job's steps as standing flows, and what they get beside everything else.

A job that repeats one step sends in bursts: an all-reduce now, nothing for a while, an activation later. Between two
changes of the network such a period returns many times, and bursts of different jobs meet at every offset. So each
job is taken as a chain of states: its phases one after another, then nothing. In every joint state of all jobs the
links are divided max-min fairly among what is under way; a phase ends at a rate of what it gets over its bytes. The
stationary distribution of that chain is what a long run sees. On one link it is a closed network with a
processor-sharing server, where the mean times do not depend on how the single times are distributed (Baskett, Chandy,
Muntz, Palacios, JACM 1975). Longer phases may leave less time with nothing under way (what is hidden behind
computation), which changes the chain: the answer is the fixed point. Nothing is simulated burst by burst, so equal
steps are still jumped over.

Exact, whatever the offsets: a phase that meets nobody runs as if it were alone, and jobs that do nothing but
communicate divide their links max-min fairly.
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

MOST_STATES: Final = 512
"""Joint states up to which the chain is solved. Beyond, every phase is judged by :data:`DRAWS` states of the others,
each drawn by its share of time and independent of the phase."""
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
    def key(self) -> float:
        """What, beside its phases, decides its idle time: as long as it is the same, so are the answers."""

    @property
    def phases(self) -> Sequence[Phase]:
        """What it sends; constant while it is on the network."""

    def idle(self, slow: Sequence[float]) -> float:
        """Seconds of a period with nothing under way when the phases take ``slow`` times as long as undisturbed."""

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
        self.sizes = [np.array([phase.size for phase in load.phases]) for load, _ in parties]
        self.seconds = [np.array([phase.seconds for phase in load.phases]) for load, _ in parties]
        self.exact = math.prod(len(flows) + 1 for _, flows in parties) <= MOST_STATES
        self.known: dict[tuple[int, ...], Allocation] = {}

    def solve(self) -> Steady:
        """Rates and shares at the fixed point."""
        slow = [np.ones(len(flows)) for _, flows in self.parties]
        mean = self._by_chain if self.exact else self._by_draws
        for _ in range(_MOST_ROUNDS if self.exact else _MOST_ROUNDS // 20):
            idle = [float(load.idle(s.tolist())) for (load, _), s in zip(self.parties, slow, strict=True)]
            rates, limits = mean(idle, slow)
            after = [self._slow(flows, rates) for _, flows in self.parties]
            moved = max((float(np.abs(1 / a - 1 / b).max()) for a, b in zip(after, slow, strict=True)), default=0.0)
            slow = after
            if moved <= _CLOSE:
                break
        active = np.ones(len(self.peaks))
        for (load, flows), s, taken in zip(self.parties, slow, self.seconds, strict=True):
            active[list(flows)] = _shares(taken * s, float(load.idle(s.tolist())))[:-1]
        return Steady(rates, active, limits, len(self.known))

    def _slow(self, flows: Sequence[int], rates: Floats) -> Floats:
        return np.array([slow_down(float(self.peaks[f]), float(rates[f])) for f in flows])

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

    def _by_chain(self, idle: list[float], slow: list[Floats]) -> tuple[Floats, tuple[dict[int, float], ...]]:
        """Mean rates under the stationary distribution of the joint chain."""
        options = [self._options(i, idle[i], slow[i]) for i in range(len(self.parties))]
        states = list(product(*options))
        found = [self._allocation(state) for state in states]
        chance = self._stationary(states, options, found, idle)
        rates, limits = np.zeros(len(self.peaks)), [dict[int, float]() for _ in self.peaks]
        under_way = [(party, o, f) for party, (_, flows) in enumerate(self.parties) for o, f in enumerate(flows)]
        for party, option, flow in [*under_way, *((-1, 0, f) for f in self.standing)]:
            mine = [i for i, state in enumerate(states) if party < 0 or state[party] == option]
            whole = sum(chance[i] for i in mine)
            for i in mine:
                share = chance[i] / whole if whole > 0 else 1.0 / len(mine)
                rates[flow] += share * found[i].rates[flow]
                link = int(found[i].bottleneck[flow])
                limits[flow][link] = limits[flow].get(link, 0.0) + share
        return rates, tuple(limits)

    def _options(self, party: int, idle: float, slow: Floats) -> list[int]:
        """States one party can be in: its phases and none; only the one it is stuck in where a phase gets nothing."""
        stuck = np.flatnonzero(np.isinf(slow)).tolist()
        phases = list(range(len(slow)))
        return stuck[:1] or ([*phases, len(slow)] if idle > _CLOSE * float(self.seconds[party].sum()) else phases)

    def _stationary(
        self, states: list[tuple[int, ...]], options: list[list[int]], found: list[Allocation], idle: list[float]
    ) -> Floats:
        """Share of time in every joint state: each party leaves its state for its next one at a rate of its own."""
        place = {state: i for i, state in enumerate(states)}
        flow_out = np.zeros((len(states), len(states)))
        for i, state in enumerate(states):
            for party, (_, flows) in enumerate(self.parties):
                at, mine = state[party], options[party]
                to = mine[(mine.index(at) + 1) % len(mine)]
                if to == at:
                    continue
                speed = found[i].rates[flows[at]] / self.sizes[party][at] if at < len(flows) else 1.0 / idle[party]
                flow_out[i, place[(*state[:party], to, *state[party + 1 :])]] += speed
        return _balance(flow_out)

    def _by_draws(self, idle: list[float], slow: list[Floats]) -> tuple[Floats, tuple[dict[int, float], ...]]:
        """Rates over independent states of the others; the same uniform numbers for every phase and round.

        What begins sees the others as if it were not there (arrival theorem of closed networks), so the times of a
        phase are averaged, not its rates; that the others would be elsewhere without it is left out (P. Schweitzer's
        approximation of mean value analysis, whose times are a few per cent too long).
        """
        rng = np.random.default_rng(0)  # stratified: in one party's column every share of DRAWS occurs once
        columns = [(rng.permutation(DRAWS) + rng.random(DRAWS)) / DRAWS for _ in self.parties]
        draws = np.stack(columns, axis=1)
        shares = [_shares(t * s, i) for t, s, i in zip(self.seconds, slow, idle, strict=True)]
        ends = [np.minimum(np.cumsum(share), 1.0) for share in shares]
        drawn = np.stack([np.searchsorted(e[:-1], d, "right") for e, d in zip(ends, draws.T, strict=True)], axis=1)
        rates, limits = np.zeros(len(self.peaks)), [dict[int, float]() for _ in self.peaks]

        def found(flow: int, rows: NDArray[np.int64]) -> Floats:
            every = [self._allocation(tuple(row)) for row in rows.tolist()]
            for link in (int(known.bottleneck[flow]) for known in every):
                limits[flow][link] = limits[flow].get(link, 0.0) + 1.0 / DRAWS
            return np.array([known.rates[flow] for known in every])

        for party, (_, flows) in enumerate(self.parties):
            for option, flow in enumerate(flows):
                rows = drawn.copy()
                rows[:, party] = option
                got = found(flow, rows)
                rates[flow] = 1.0 / (1.0 / got).mean() if (got > 0).all() else 0.0
        for flow in self.standing:
            rates[flow] = found(flow, drawn).mean()
        return rates, tuple(limits)


def _shares(seconds: Floats, idle: float) -> Floats:
    """Share of a period in each phase and in none [phases + 1]; all of it in one that never ends."""
    stuck = np.isinf(seconds)
    if stuck.any():
        return np.append(stuck / stuck.sum(), 0.0)
    every: Floats = np.append(seconds, max(0.0, idle))
    return every / float(every.sum())


def _balance(speed: Floats) -> Floats:
    """Stationary distribution of a chain with these transition rates: Grassmann, Taksar, Heyman, Oper. Res. 1985.

    Nothing is subtracted, so rates that differ by many orders of magnitude do no harm.
    """
    chain = speed.copy()
    for n in range(len(chain) - 1, 0, -1):
        out = chain[n, :n].sum()
        if out > 0:
            chain[:n, n] /= out
            chain[:n, :n] += np.outer(chain[:n, n], chain[n, :n])
        else:  # never left: all time is spent here
            chance = np.zeros(len(chain))
            chance[n] = 1.0
            return chance
    chance = np.ones(len(chain))
    for n in range(1, len(chain)):
        chance[n] = chance[:n] @ chain[:n, n]
    found: Floats = chance / float(chance.sum())
    return found
