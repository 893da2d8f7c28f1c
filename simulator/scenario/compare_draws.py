"""How sure a difference is: seeded draws of the constants and prices that two results rest on.

To first order a time moves by Σ s·z, with s its sensitivity to one sigma of a constant and z a standard normal draw.
Draws go by the id of the constant, so that an error which two results share moves both and cancels in their ratio.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from simulator.results.tables import Result

__all__ = [
    "COSTS", "Side", "better_when_higher", "draw", "factors_of_constants", "odds_against", "price_factors",
    "sensitivities",
]  # fmt: skip

Floats = NDArray[np.float64]

COSTS = ("usd", "usd_per_million_tokens")
_TIMES = ("seconds", "training_seconds", "prefill_time", "decode_time_alone")
_LATENCIES = ("ttft", "tpot", "itl", "e2e", "queueing")
_RATES = ("tokens_per_s", "tokens_per_s_per_gpu", "samples_per_s", "mfu", "mfu_causal", "hfu",
          "capacity_requests_per_s", "model_flops_per_s_per_gpu")  # fmt: skip
_HIGHER = (*_RATES, "slo_attainment", "slo_goodput", "requests_per_s", "output_tokens_per_s", "total_tokens_per_s",
           "output_tokens_per_s_per_gpu", "total_tokens_per_s_per_gpu", "effective_time_ratio",
           "memory_fits_chance")  # fmt: skip
LEAST_FACTOR = 0.05
"""A time never falls below this share of itself, however far a linear draw goes."""
LEAST_CONSTANT = 0.1
"""Nor a drawn constant below this share, the same as where intervals move it."""


def better_when_higher(metric: str) -> bool:
    """Whether more of a metric is better; less is better for all others."""
    return metric in _HIGHER


@dataclass(frozen=True)
class Side:
    """One workload of one result, as draws see it.

    Attributes
    ----------
    row
        Its summary row.
    sensitivity
        Relative change of its step or iteration time for one sigma of a constant, by id.
    prices
        (source, low, high) [USD] of each item of its bill.
    sigmas
        Relative standard deviation of every constant it rests on, by id.
    """

    row: Mapping[str, Any]
    sensitivity: Mapping[str, float] = field(default_factory=dict)
    prices: tuple[tuple[str, float, float], ...] = ()
    sigmas: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, result: Result, workload: str) -> Side:
        """The side of one workload of a result."""
        costs = [r for r in result.rows("costs") if r["workload"] == workload]
        prices = tuple((str(r["source"]), float(r["usd_low"]), float(r["usd_high"])) for r in costs)
        rows = [r for r in result.rows("sources") if r["workload"] == workload]
        sigmas = {str(r["constant"]): float(r["sigma"]) for r in rows if r["sigma"] > 0}
        return cls(result.of(workload), sensitivities(result, workload), prices, sigmas)


def sensitivities(result: Result, workload: str) -> dict[str, float]:
    """Relative change of the time of a workload for one sigma of each constant it rests on."""
    rows = [r for r in result.rows("sources") if r["workload"] == workload]
    return {str(r["constant"]): float(r["sensitivity"]) for r in rows if r["sensitivity"]}


def draw(sides: Sequence[Side], metric: str, draws: int, seed: int) -> list[Floats] | None:
    """Values of a metric of every side under the same draws [draw]; None where no uncertainty of it is known.

    Latencies are moved like the iteration they are made of: queueing near saturation moves them more.
    A deployment under a given traffic costs by the hour, so only prices move its cost.
    """
    values = [_number(side.row, metric) for side in sides]
    if any(value is None for value in values):
        return None
    latency = metric.partition("_")[0] in _LATENCIES
    if metric not in (*COSTS, *_TIMES, *_RATES) and not latency:
        return None
    normal = _Named(seed, draws, 0)
    uniform = _Named(seed, draws, 1)
    found: list[Floats] = []
    for side, value in zip(sides, values, strict=True):
        assert value is not None
        factor = np.ones(draws)
        for name, share in sorted(side.sensitivity.items()):
            factor += share * normal[name]
        factor = np.maximum(factor, LEAST_FACTOR)
        if metric in COSTS:
            moved = value * _price_factor(side.prices, uniform, draws)
            found.append(moved * factor if side.row["kind"] == "training" else moved)
        else:
            found.append(value / factor if metric in _RATES else value * factor)
    return found


def factors_of_constants(side: Side, draws: int, seed: int) -> dict[str, Floats]:
    """Factors on every uncertain constant that a side rests on, by id [draw]; the same draws as of :func:`draw`.

    A constant is not drawn below a tenth of itself: near 0 a share of a rate has no meaning.
    """
    normal = _Named(seed, draws, 0)
    return {n: np.maximum(1.0 + s * normal[n], LEAST_CONSTANT) for n, s in sorted(side.sigmas.items())}


def price_factors(side: Side, draws: int, seed: int) -> Floats:
    """Drawn over middle bill of a side [draw]; the same draws as of :func:`draw`."""
    return _price_factor(side.prices, _Named(seed, draws, 1), draws)


def _price_factor(prices: Sequence[tuple[str, float, float]], uniform: _Named, draws: int) -> Floats:
    """Drawn over middle bill: every price is uniform in its range, one draw per source."""
    middle = sum((low + high) / 2 for _, low, high in prices)
    if not middle or not math.isfinite(middle):
        return np.ones(draws)
    drawn = np.zeros(draws)
    for source, low, high in prices:
        drawn += low + (high - low) * uniform[source]
    return drawn / middle


def odds_against(ours: Floats, theirs: Floats, metric: str) -> float:
    """Share of the draws in which the first is better; a tie counts half."""
    wins = ours > theirs if better_when_higher(metric) else ours < theirs
    return float(np.mean(wins) + 0.5 * np.mean(ours == theirs))


class _Named(Mapping[str, Floats]):
    """Draws by name: normal (kind 0) or uniform (kind 1), the same for a name whatever else is drawn."""

    def __init__(self, seed: int, draws: int, kind: int) -> None:
        self.seed, self.draws, self.kind = seed, draws, kind
        self._known: dict[str, Floats] = {}

    def __getitem__(self, name: str) -> Floats:
        if name not in self._known:
            rng = np.random.Generator(np.random.PCG64([self.seed, self.kind, *name.encode()]))
            self._known[name] = rng.random(self.draws) if self.kind else rng.standard_normal(self.draws)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None or isinstance(value, str | bool) or value != value:
        return None
    return float(value)
