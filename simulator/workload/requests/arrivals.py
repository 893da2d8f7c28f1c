"""Laws of arrival: when requests come. Renewal processes are in :mod:`simulator.workload.requests.renewal`.

Every law is a small value with ``sample(rng, duration, count)``, and draws its gaps one after the other from
one stream, so that asking for more time or more requests never moves the arrivals already there.
Open-loop laws start in their stationary state: the mean count in any interval is exactly rate × time, also
for bursty gaps, where a process that starts with a full gap would deliver (CV² − 1)/2 requests too many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np

from simulator.errors import ConfigError
from simulator.workload.requests.renewal import (
    CHUNK,
    ArrivalSpec,
    Deterministic,
    Gamma,
    Poisson,
    Times,
    renewal_times,
    require_positive,
)

__all__ = [
    "ARRIVALS",
    "ArrivalSpec",
    "ClosedLoop",
    "Deterministic",
    "Diurnal",
    "Gamma",
    "OnOff",
    "Poisson",
    "Superposed",
]


@dataclass(frozen=True)
class OnOff(ArrivalSpec):
    """Bursts of Poisson arrivals at ``burst_rate`` [req/s] between silences.

    ``on_duration`` and ``off_duration`` [s] are the mean lengths of both; ``durations`` says whether they are
    exponential (the interrupted Poisson process) or fixed (then the first burst starts at time zero).
    """

    process: ClassVar[str] = "on-off"
    burst_rate: float = field(metadata={"dimension": "rate"})
    on_duration: float = field(metadata={"dimension": "time"})
    off_duration: float = field(metadata={"dimension": "time"})
    durations: Literal["exponential", "fixed"] = field(default="exponential", metadata={"dimension": "text"})

    def __post_init__(self) -> None:
        require_positive(self, burst_rate=self.burst_rate, on_duration=self.on_duration, off_duration=self.off_duration)
        if self.durations not in ("exponential", "fixed"):
            raise ConfigError(f"durations of on-off arrivals are 'exponential' or 'fixed', not '{self.durations}'")

    @property
    def mean_rate(self) -> float:
        """See :attr:`ArrivalSpec.mean_rate`."""
        return self.burst_rate * self.on_duration / (self.on_duration + self.off_duration)

    @property
    def cv(self) -> float:
        """Coefficient of variation of the gaps with exponential durations: c² = 1 + 2 λ on (off / (on + off))².

        The interrupted Poisson process has hyperexponential gaps (Kuczura, Bell System Technical Journal 1973).
        """
        return math.sqrt(
            1
            + 2 * self.burst_rate * self.on_duration * (self.off_duration / (self.on_duration + self.off_duration)) ** 2
        )

    def sample(self, rng: np.random.Generator, duration: float = math.inf, count: int | None = None) -> Times:
        """See :meth:`ArrivalSpec.sample`."""
        phases, bursts = rng.spawn(2)
        active = renewal_times(
            bursts.standard_exponential() / self.burst_rate,
            lambda n: bursts.standard_exponential(n) / self.burst_rate,
            duration,  # never less active time than wall time
            count,
        )
        starts, active_before = self._bursts(phases, active[-1] if len(active) else 0.0)
        burst = np.searchsorted(active_before, active, side="right") - 1
        times = starts[burst] + (active - active_before[burst])
        return times[: np.searchsorted(times, duration)]

    def with_rate(self, rate: float) -> OnOff:
        """Time scaled as a whole, as :meth:`RequestTable.with_rate` does: shorter bursts and silences too."""
        factor = rate / self.mean_rate
        return replace(
            self,
            burst_rate=self.burst_rate * factor,
            on_duration=self.on_duration / factor,
            off_duration=self.off_duration / factor,
        )

    def _bursts(self, rng: np.random.Generator, active: float) -> tuple[Times, Times]:
        """Start of each burst, and the burst time before it, until ``active`` [s] of burst time are covered."""
        fixed = self.durations == "fixed"
        # Memoryless phases are stationary from the start if time zero lies in a burst with its long-run share.
        silent = not fixed and rng.random() >= self.on_duration / (self.on_duration + self.off_duration)
        start, done = (rng.standard_exponential() * self.off_duration if silent else 0.0), 0.0
        starts, before = [np.array([start])], [np.array([0.0])]
        while done <= active:
            phases = np.ones((CHUNK, 2)) if fixed else rng.standard_exponential((CHUNK, 2))
            on = np.cumsum(phases[:, 0] * self.on_duration)
            before.append(done + on)
            starts.append(start + on + np.cumsum(phases[:, 1] * self.off_duration))
            start, done = float(starts[-1][-1]), float(before[-1][-1])
        return np.concatenate(starts), np.concatenate(before)


@dataclass(frozen=True)
class Diurnal(ArrivalSpec):
    """A rate that follows the hour of the day: a gamma renewal process on a clock that runs with the rate.

    Attributes
    ----------
    rate
        Mean over the day [req/s].
    hourly
        24 relative rates, one per hour from midnight; only their ratios matter.
    cv
        Of the gaps on that clock; 1 is a Poisson process with a time-varying rate.
    start_hour
        Hour of the day at time zero.
    """

    process: ClassVar[str] = "diurnal"
    rate: float = field(metadata={"dimension": "rate"})
    hourly: tuple[float, ...] = field(metadata={"dimension": "numbers"})
    cv: float = field(default=1.0, metadata={"dimension": "ratio"})
    start_hour: float = field(default=0.0, metadata={"dimension": "ratio"})

    def __post_init__(self) -> None:
        require_positive(self, rate=self.rate, cv=self.cv)
        good = all(h >= 0 and math.isfinite(h) for h in self.hourly) and sum(self.hourly) > 0
        if len(self.hourly) != 24 or not good:
            raise ConfigError("diurnal arrivals need 24 relative rates that are not negative and not all zero")
        if not 0 <= self.start_hour < 24:
            raise ConfigError(f"start_hour is an hour of the day in [0, 24), not {self.start_hour}")

    @property
    def mean_rate(self) -> float:
        """See :attr:`ArrivalSpec.mean_rate`."""
        return self.rate

    def expected(self, time: float | Times) -> Times:
        """Expected number of requests in [0, time]."""
        clock = np.asarray(time, dtype=np.float64) / 3600 + self.start_hour
        return self._since_midnight(clock) - self._since_midnight(np.asarray(self.start_hour))

    def sample(self, rng: np.random.Generator, duration: float = math.inf, count: int | None = None) -> Times:
        """See :meth:`ArrivalSpec.sample`."""
        end = float(self.expected(duration)) if math.isfinite(duration) else math.inf
        clock = Gamma(1.0, self.cv).sample(rng, end, count) + float(self._since_midnight(np.asarray(self.start_hour)))
        day = np.floor(clock / self._per_day)
        hours = np.interp(clock - day * self._per_day, self._cumulative, np.arange(25.0))
        times: Times = (day * 24 + hours - self.start_hour) * 3600
        return times[: np.searchsorted(times, duration)]

    @property
    def _cumulative(self) -> Times:
        hourly = np.asarray(self.hourly, dtype=np.float64)
        return np.concatenate(([0.0], np.cumsum(hourly * (self.rate * 3600 / hourly.mean()))))

    @property
    def _per_day(self) -> float:
        return self.rate * 86400

    def _since_midnight(self, hours: Times) -> Times:
        day = np.floor(hours / 24)
        total: Times = day * self._per_day + np.interp(hours - day * 24, np.arange(25.0), self._cumulative)
        return total


@dataclass(frozen=True)
class Superposed(ArrivalSpec):
    """Many clients, each a bursty renewal process of its own, as in ServeGen (arXiv 2505.09999).

    Every client has gamma gaps with the coefficient of variation ``cv``; client i has a share of ``rate`` that falls
    as 1 / i^``skew``. The gaps of the sum are nearer to those of a Poisson process than those of one client, but the
    variance over the mean of counts in long windows is cv² still: bursts last.

    Attributes
    ----------
    rate
        Of all clients together [req/s].
    clients
        How many.
    skew, cv
        Of their rates, and of each one's gaps.
    """

    process: ClassVar[str] = "superposed"
    rate: float = field(metadata={"dimension": "rate"})
    clients: int = field(metadata={"dimension": "count"})
    skew: float = field(default=0.0, metadata={"dimension": "ratio"})
    cv: float = field(default=1.0, metadata={"dimension": "ratio"})

    def __post_init__(self) -> None:
        require_positive(self, rate=self.rate, cv=self.cv, clients=self.clients)
        if not 0 <= self.skew < 10:
            raise ConfigError(f"skew of clients' rates is from 0 (all equal) to 10, not {self.skew}")

    @property
    def mean_rate(self) -> float:
        """See :attr:`ArrivalSpec.mean_rate`."""
        return self.rate

    def rates(self) -> Times:
        """Rate of each client [req/s], the busiest first."""
        shares = np.arange(1, self.clients + 1, dtype=np.float64) ** -self.skew
        rates: Times = shares * (self.rate / shares.sum())
        return rates

    def sample(self, rng: np.random.Generator, duration: float = math.inf, count: int | None = None) -> Times:
        """See :meth:`ArrivalSpec.sample`."""
        seeds = rng.integers(0, 1 << 63, self.clients)
        end = duration if math.isfinite(duration) else 1.1 * (count or 1) / self.rate
        while True:  # a longer horizon only appends: every client draws from a stream of its own
            laws = (Gamma(rate, self.cv) for rate in self.rates())
            times = np.sort(
                np.concatenate([law.sample(np.random.default_rng(s), end) for law, s in zip(laws, seeds, strict=True)])
            )
            if count is None or len(times) >= count or end >= duration:
                return times if count is None else times[:count]
            end *= 1.5


@dataclass(frozen=True)
class ClosedLoop(ArrivalSpec):
    """``concurrency`` requests in flight at any time; the next is sent when one completes.

    What most published benchmarks do (``--max-concurrency``). All times are zero: the engine releases them.
    """

    process: ClassVar[str] = "closed-loop"
    concurrency: int = field(metadata={"dimension": "count"})

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ConfigError(f"a closed loop needs a concurrency of at least 1, not {self.concurrency}")

    @property
    def mean_rate(self) -> float:
        """See :attr:`ArrivalSpec.mean_rate`."""
        return math.nan

    def sample(self, rng: np.random.Generator, duration: float = math.inf, count: int | None = None) -> Times:
        """See :meth:`ArrivalSpec.sample`."""
        if count is None:
            raise ConfigError("a closed loop has no arrival times to end by: give a count of requests")
        return np.zeros(count)


ARRIVALS: dict[str, type[ArrivalSpec]] = {
    law.process: law for law in (Poisson, Gamma, Deterministic, OnOff, Diurnal, Superposed, ClosedLoop)
}
"""Laws of arrival by their name in a YAML file."""
