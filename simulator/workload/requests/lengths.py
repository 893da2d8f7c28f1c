"""Laws of length: how many tokens a prompt or an answer has.

Every law draws real numbers that are rounded and clipped to [``min``, ``max``] tokens. Clipping (not resampling)
because that is what engines do: a length cap shows as a spike at the cap in every published trace.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.errors import ConfigError

__all__ = ["LENGTHS", "Empirical", "Fixed", "LengthSpec", "LogNormal", "Mixture", "Quantiles", "Uniform"]

Tokens = NDArray[np.int32]

_LARGEST = 2**31 - 1


def _round(values: NDArray[np.float64], low: float, high: float) -> Tokens:
    return np.clip(np.rint(values), low, min(high, _LARGEST)).astype(np.int32)


class LengthSpec(ABC):
    """Base of the laws of length.

    Attributes
    ----------
    law
        Name in a YAML file.
    """

    law: ClassVar[str]

    @abstractmethod
    def sample(self, rng: np.random.Generator, count: int) -> Tokens:
        """``count`` lengths [tokens], each at least 1."""

    @abstractmethod
    def mean(self) -> float:
        """Expected length [tokens], before rounding to whole tokens."""


@dataclass(frozen=True)
class Fixed(LengthSpec):
    """Always ``tokens``."""

    law: ClassVar[str] = "fixed"
    tokens: int = field(metadata={"dimension": "count"})

    def __post_init__(self) -> None:
        if not 1 <= self.tokens <= _LARGEST:
            raise ConfigError(f"a request has 1 to {_LARGEST} tokens, not {self.tokens}")

    def sample(self, rng: np.random.Generator, count: int) -> Tokens:
        """See :meth:`LengthSpec.sample`."""
        return np.full(count, self.tokens, dtype=np.int32)

    def mean(self) -> float:
        """See :meth:`LengthSpec.mean`."""
        return float(self.tokens)


@dataclass(frozen=True)
class Uniform(LengthSpec):
    """Every whole number of tokens from ``min`` to ``max``, both included."""

    law: ClassVar[str] = "uniform"
    min: int = field(metadata={"dimension": "count"})
    max: int = field(metadata={"dimension": "count"})

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.max <= _LARGEST:
            raise ConfigError(f"a uniform length needs 1 <= min <= max <= {_LARGEST}, not {self.min} and {self.max}")

    def sample(self, rng: np.random.Generator, count: int) -> Tokens:
        """See :meth:`LengthSpec.sample`."""
        return rng.integers(self.min, self.max, size=count, dtype=np.int32, endpoint=True)

    def mean(self) -> float:
        """See :meth:`LengthSpec.mean`."""
        return (self.min + self.max) / 2


@dataclass(frozen=True)
class LogNormal(LengthSpec):
    """exp(N(ln ``median``, ``sigma``²)), clipped to [``min``, ``max``] tokens."""

    law: ClassVar[str] = "lognormal"
    median: float = field(metadata={"dimension": "count"})
    sigma: float = field(metadata={"dimension": "count"})
    min: int = field(default=1, metadata={"dimension": "count"})
    max: int = field(default=_LARGEST, metadata={"dimension": "count"})

    def __post_init__(self) -> None:
        if not (self.median > 0 and self.sigma >= 0 and math.isfinite(self.median + self.sigma)):
            raise ConfigError(f"a log-normal length needs median > 0 and sigma >= 0, not {self.median}, {self.sigma}")
        if not 1 <= self.min <= self.max:
            raise ConfigError(f"a log-normal length needs 1 <= min <= max, not {self.min} and {self.max}")

    @classmethod
    def from_mean(cls, mean: float, sigma: float, max: int = _LARGEST) -> LogNormal:
        """With the given mean before clipping: median = mean · exp(−sigma²/2)."""
        return cls(mean * math.exp(-(sigma**2) / 2), sigma, max=max)

    @classmethod
    def from_mean_and_median(cls, mean: float, median: float, max: int = _LARGEST) -> LogNormal:
        """With the given median, and the sigma that gives ``mean`` *after* clipping at ``max`` (by bisection).

        Raises
        ------
        ConfigError
            If no sigma up to 5 does: the mean must lie between the median and what the cap allows.
        """
        grid = [i / 1000 for i in range(5001)]
        place = bisect_left(grid, mean, key=lambda sigma: cls(median, sigma, max=max).mean())
        if mean < median or place == len(grid):
            raise ConfigError(f"no log-normal length has median {median}, cap {max} and mean {mean}")
        return cls(median, grid[place], max=max)

    def sample(self, rng: np.random.Generator, count: int) -> Tokens:
        """See :meth:`LengthSpec.sample`."""
        return _round(np.exp(math.log(self.median) + self.sigma * rng.standard_normal(count)), self.min, self.max)

    def mean(self) -> float:
        """Closed form: E[clip(X)] = min·P(X<min) + max·P(X>max) + the partial expectation between them."""
        if self.sigma == 0:
            return float(min(max(self.median, self.min), self.max))
        low = (math.log(self.min) - math.log(self.median)) / self.sigma
        high = (math.log(self.max) - math.log(self.median)) / self.sigma
        inner = _normal_cdf(high - self.sigma) - _normal_cdf(low - self.sigma)
        whole = self.median * math.exp(self.sigma**2 / 2)
        return self.min * _normal_cdf(low) + self.max * _normal_cdf(-high) + whole * inner


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


@dataclass(frozen=True)
class Mixture(LengthSpec):
    """One of several laws, chosen by weight for each request."""

    law: ClassVar[str] = "mixture"
    weights: tuple[float, ...] = field(metadata={"dimension": "numbers"})
    components: tuple[LengthSpec, ...] = field(metadata={"dimension": "lengths"})

    def __post_init__(self) -> None:
        if not self.components or len(self.weights) != len(self.components):
            raise ConfigError(
                f"a mixture of {len(self.components)} laws has {len(self.weights)} weights: give one for each"
            )
        if not all(w >= 0 and math.isfinite(w) for w in self.weights) or sum(self.weights) <= 0:
            raise ConfigError(f"the weights of a mixture are not negative and not all zero: {self.weights}")

    def sample(self, rng: np.random.Generator, count: int) -> Tokens:
        """See :meth:`LengthSpec.sample`."""
        choice, *streams = rng.spawn(1 + len(self.components))
        shares = np.cumsum(self.weights) / sum(self.weights)
        shares[-1] = 1.0
        chosen = np.searchsorted(shares, choice.random(count), side="right")
        result = np.empty(count, dtype=np.int32)
        for i, (law, stream) in enumerate(zip(self.components, streams, strict=True)):
            rows = chosen == i
            result[rows] = law.sample(stream, int(rows.sum()))
        return result

    def mean(self) -> float:
        """See :meth:`LengthSpec.mean`."""
        parts = (w * law.mean() for w, law in zip(self.weights, self.components, strict=True))
        return sum(parts) / sum(self.weights)


@dataclass(frozen=True)
class Quantiles(LengthSpec):
    """The law through published percentiles: log-linear between them, nothing beyond the first and the last.

    Attributes
    ----------
    levels
        Cumulative probabilities [percent], from 0 to 100, ascending.
    tokens
        Length at each level [tokens], not descending.
    """

    law: ClassVar[str] = "quantiles"
    levels: tuple[float, ...] = field(metadata={"dimension": "numbers"})
    tokens: tuple[float, ...] = field(metadata={"dimension": "numbers"})

    GRID: ClassVar[tuple[float, ...]] = (
        0, 1, 2, 5, *range(10, 100, 5), 98, 99, 99.5, 99.9, 100,
    )  # fmt: skip
    """Levels at which the shipped workloads are tabulated."""

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.tokens) or len(self.levels) < 2:
            raise ConfigError(f"{len(self.levels)} levels and {len(self.tokens)} token counts: give equally many, >= 2")
        if self.levels[0] != 0 or self.levels[-1] != 100 or any(np.diff(self.levels) <= 0):
            raise ConfigError("the levels of a quantile table ascend from 0 to 100 percent")
        if self.tokens[0] < 1 or any(np.diff(self.tokens) < 0):
            raise ConfigError("the token counts of a quantile table start at 1 or more and do not descend")

    @classmethod
    def from_values(cls, values: ArrayLike, levels: Sequence[float] = GRID) -> Quantiles:
        """The table of the given lengths, at whole tokens."""
        return cls(tuple(map(float, levels)), tuple(np.rint(np.percentile(np.asarray(values), levels)).tolist()))

    def sample(self, rng: np.random.Generator, count: int) -> Tokens:
        """See :meth:`LengthSpec.sample`."""
        logs = np.interp(100 * rng.random(count), self.levels, np.log(self.tokens))
        return _round(np.exp(logs), 1, _LARGEST)

    def mean(self) -> float:
        """Closed form: between two levels the mean of a log-uniform variable, (b − a) / ln(b / a)."""
        total = 0.0
        for i, width in enumerate(np.diff(self.levels)):
            a, b = self.tokens[i], self.tokens[i + 1]
            total += float(width) / 100 * (a if a == b else (b - a) / math.log(b / a))
        return total


@dataclass(frozen=True)
class Empirical(LengthSpec):
    """Lengths drawn with replacement from those of a trace file.

    Attributes
    ----------
    trace
        Path of a trace that :func:`~simulator.workload.requests.read_requests` reads.
    column
        Which of its lengths.
    format
        Its format, ``auto`` to recognise it.
    """

    law: ClassVar[str] = "empirical"
    trace: str = field(metadata={"dimension": "path"})
    column: Literal["input_tokens", "output_tokens"] = field(metadata={"dimension": "text"})
    format: str = field(default="auto", metadata={"dimension": "text"})

    def __post_init__(self) -> None:
        if self.column not in ("input_tokens", "output_tokens"):
            raise ConfigError(f"column is 'input_tokens' or 'output_tokens', not '{self.column}'")

    @cached_property
    def values(self) -> Tokens:
        """The lengths of the trace [tokens]."""
        from simulator.workload.requests.readers import read_requests

        found: Tokens = getattr(read_requests(Path(self.trace), format=self.format), self.column)
        return found

    def sample(self, rng: np.random.Generator, count: int) -> Tokens:
        """See :meth:`LengthSpec.sample`."""
        return self.values[rng.integers(0, len(self.values), count)]

    def mean(self) -> float:
        """See :meth:`LengthSpec.mean`."""
        return float(self.values.mean())


LENGTHS: dict[str, type[LengthSpec]] = {
    spec.law: spec for spec in (Fixed, Uniform, LogNormal, Mixture, Quantiles, Empirical)
}
"""Laws of length by their name in a YAML file."""
