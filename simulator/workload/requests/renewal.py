"""Laws of arrival whose gaps are independent and alike: Poisson, gamma, deterministic; and the base of all laws.

Gaps are drawn one after the other from one stream, so that asking for more time or more requests never moves the
arrivals already there.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError

__all__ = ["CHUNK", "ArrivalSpec", "Deterministic", "Gamma", "Poisson", "Times", "renewal_times", "require_positive"]

Times = NDArray[np.float64]

CHUNK = 1 << 14
"""Gaps drawn at a time. Fixed: a chunk that depended on the size asked for would make draws depend on it too."""


def require_positive(law: object, **values: float) -> None:
    """Refuse parameters of a law that are not positive and finite."""
    bad = [f"{name} = {value}" for name, value in values.items() if not (value > 0 and math.isfinite(value))]
    if bad:
        raise ConfigError(f"{type(law).__name__} arrivals need positive finite numbers, not {', '.join(bad)}")


def renewal_times(first: float, gaps: Callable[[int], Times], end: float, count: int | None) -> Times:
    """Times of a renewal process: ``first``, then one gap after the other, until ``end`` or ``count``."""
    parts: list[Times] = [np.array([first])]
    have, last = 1, first
    while last < end and (count is None or have < count):
        part = last + np.cumsum(gaps(CHUNK))
        parts.append(part)
        have, last = have + len(part), float(part[-1])
    times = np.concatenate(parts)
    times = times[: np.searchsorted(times, end)]
    return times if count is None else times[:count]


class ArrivalSpec(ABC):
    """Base of the laws of arrival.

    Attributes
    ----------
    process
        Name in a YAML file.
    """

    process: ClassVar[str]

    @property
    @abstractmethod
    def mean_rate(self) -> float:
        """Long-run arrival rate [req/s]; NaN for a closed loop, where it is a result."""

    @abstractmethod
    def sample(self, rng: np.random.Generator, duration: float = math.inf, count: int | None = None) -> Times:
        """Ascending times [s] in [0, duration), at most ``count`` of them."""

    def with_rate(self, rate: float) -> ArrivalSpec:
        """The same law at a mean of ``rate`` [req/s]; the coefficient of variation of the gaps stays.

        Raises
        ------
        ConfigError
            If it has no rate to set.
        """
        if not any(f.name == "rate" for f in fields(self)):  # type: ignore[arg-type]
            raise ConfigError(f"{self.process} arrivals have no rate to set: it is a result")
        return replace(self, rate=rate)  # type: ignore[type-var]


@dataclass(frozen=True)
class Poisson(ArrivalSpec):
    """Independent arrivals: exponential gaps of mean 1 / ``rate`` [req/s]."""

    process: ClassVar[str] = "poisson"
    rate: float = field(metadata={"dimension": "rate"})

    def __post_init__(self) -> None:
        require_positive(self, rate=self.rate)

    @property
    def mean_rate(self) -> float:
        """See :attr:`ArrivalSpec.mean_rate`."""
        return self.rate

    def sample(self, rng: np.random.Generator, duration: float = math.inf, count: int | None = None) -> Times:
        """See :meth:`ArrivalSpec.sample`."""
        first = rng.standard_exponential() / self.rate
        return renewal_times(first, lambda n: rng.standard_exponential(n) / self.rate, duration, count)


@dataclass(frozen=True)
class Gamma(ArrivalSpec):
    """Renewal process with gamma gaps of mean 1 / ``rate`` [req/s] and coefficient of variation ``cv``.

    Shape 1/cv². ``cv`` 1 is Poisson, below 1 more regular, above 1 bursty (the ``burstiness`` of the vLLM
    benchmark is the shape). A renewal process has no memory beyond one gap: where bursts last, use :class:`OnOff`.
    """

    process: ClassVar[str] = "gamma"
    rate: float = field(metadata={"dimension": "rate"})
    cv: float = field(metadata={"dimension": "ratio"})

    def __post_init__(self) -> None:
        require_positive(self, rate=self.rate, cv=self.cv)

    @property
    def mean_rate(self) -> float:
        """See :attr:`ArrivalSpec.mean_rate`."""
        return self.rate

    def sample(self, rng: np.random.Generator, duration: float = math.inf, count: int | None = None) -> Times:
        """See :meth:`ArrivalSpec.sample`."""
        shape = self.cv**-2
        scale = 1 / (shape * self.rate)
        # The gap around time zero is length-biased (Gamma(shape + 1)), and zero lies uniformly in it.
        first = rng.standard_gamma(shape + 1) * scale * rng.random()
        return renewal_times(first, lambda n: rng.standard_gamma(shape, n) * scale, duration, count)


@dataclass(frozen=True)
class Deterministic(ArrivalSpec):
    """One request every 1 / ``rate`` seconds, the first at time zero."""

    process: ClassVar[str] = "deterministic"
    rate: float = field(metadata={"dimension": "rate"})

    def __post_init__(self) -> None:
        require_positive(self, rate=self.rate)

    @property
    def mean_rate(self) -> float:
        """See :attr:`ArrivalSpec.mean_rate`."""
        return self.rate

    def sample(self, rng: np.random.Generator, duration: float = math.inf, count: int | None = None) -> Times:
        """See :meth:`ArrivalSpec.sample`."""
        in_time = math.ceil(duration * self.rate * (1 - 1e-12)) if math.isfinite(duration) else count
        size = min(n for n in (in_time, count) if n is not None)
        return np.arange(size, dtype=np.float64) / self.rate
