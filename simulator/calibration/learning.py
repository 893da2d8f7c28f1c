"""What own runs teach about the constants that predict them.

Every constant c is a factor exp(x) on its value with prior x ~ N(0, σ²), σ being its stated relative sigma. Runs add
log(measured) = log(predicted(x)) + noise. The most probable x is found by Gauss-Newton, its covariance is
(JᵀJ/σ_noise² + diag(1/σ²))⁻¹: so constants that the runs say nothing about keep their sigma, and those they do shrink.
What one run cannot tell apart is known in sum only, which the covariance keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simulator.constants import Constant
from simulator.cost.sensitivity import Z80

__all__ = ["LogFit", "Observation", "learn"]

NOISE = 0.03
"""Relative spread of a step time from run to run on one machine; published pairs of equal runs differ by 1-5 %."""

ROUNDS = 4


@dataclass(frozen=True)
class Observation:
    """A measured time [s] or peak of memory [B] and a function that predicts it under factors on constants by id."""

    name: str
    measured: float
    predict: Callable[[Mapping[str, float]], float]
    unit: str = "s"


@dataclass
class LogFit:
    """What was learnt.

    Attributes
    ----------
    constants
        Moved constants with their new value and sigma, by id.
    prior
        The same before.
    correlations
        Of the errors that are left, by id and id.
    points
        (run, measured, predicted before, predicted after) [s].
    width_before, width_after
        Median half width of the 80 % interval of the runs' predicted times, relative.
    memory
        The same as ``points`` in bytes, where the log says.
    written
        Files.
    """

    constants: dict[str, Constant] = field(default_factory=dict)
    prior: dict[str, Constant] = field(default_factory=dict)
    points: list[tuple[str, float, float, float]] = field(default_factory=list)
    width_before: float = math.nan
    width_after: float = math.nan
    memory: list[tuple[str, float, float, float]] = field(default_factory=list)
    correlations: dict[str, dict[str, float]] = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)

    def errors(self, after: bool) -> float:
        """Median |error| of the runs."""
        return float(np.median([abs((new if after else old) / got - 1) for _, got, old, new in self.points]))

    def rows(self) -> dict[str, Any]:
        """For JSON."""
        moved = {
            i: {
                "before": self.prior[i].value,
                "after": c.value,
                "sigma_before": self.prior[i].sigma,
                "sigma_after": c.sigma,
            }
            for i, c in self.constants.items()
        }
        names, bytes_ = ("run", "measured_s", "before_s", "after_s"), ("run", "measured_B", "before_B", "after_B")
        return {
            "runs": [dict(zip(names, p, strict=True)) for p in self.points], "constants": moved,
            "memory": [dict(zip(bytes_, p, strict=True)) for p in self.memory],
            "interval_before": self.width_before, "interval_after": self.width_after,
            "written": [str(path) for path in self.written],
        }  # fmt: skip

    def described(self, node: str, framework: str) -> str:
        """One line for a source."""
        return f"{len(self.points)} own runs on {node} with {framework}: fmsim fit"

    def lines(self) -> list[str]:
        """For people: the constants that moved or narrowed most first."""
        found = [
            f"{len(self.points)} runs: median error {self.errors(False):.1%} before, {self.errors(True):.1%} after; "
            f"80 % interval ±{self.width_before:.1%} before, ±{self.width_after:.1%} after"
        ]
        narrowed = sorted(self.constants, key=lambda i: self.constants[i].sigma / max(self.prior[i].sigma, 1e-12))
        for name in narrowed[:8]:
            old, new = self.prior[name], self.constants[name]
            found.append(
                f"  {name}: {old.value:.4g} → {new.value:.4g} {new.unit} (sigma {old.sigma:.0%} → {new.sigma:.0%})"
            )
        found += [
            f"  {run}: {got / 2**30:.2f} GiB of memory measured, {old / 2**30:.2f} predicted before "
            f"({old / got - 1:+.0%}), {new / 2**30:.2f} after ({new / got - 1:+.0%})"
            for run, got, old, new in self.memory
        ]
        return [*found, *(f"wrote {path}" for path in self.written)]


Array = np.ndarray[Any, Any]


def learn(observations: Sequence[Observation], constants: Mapping[str, Constant], noise: float = NOISE) -> LogFit:
    """Most probable constants and what remains uncertain.

    Where the runs scatter by more than ``noise`` around the fit, what they scatter by takes its place: then the model
    misses something that no constant explains, and two such runs narrow the interval less.
    """
    names = sorted(i for i, c in constants.items() if c.sigma > 0 and c.value > 0)
    prior = np.array([constants[i].sigma for i in names])
    measured = np.log([o.measured for o in observations])

    def predicted(x: Array) -> Array:
        factors = dict(zip(names, np.exp(x).tolist(), strict=True))
        return np.log([o.predict(factors) for o in observations])

    # A share of a datasheet rate ends at 1: with more, times would fall below the roofline.
    shares = np.array([i.rpartition(".")[2] in ("compute", "memory") and constants[i].value <= 1 for i in names])
    most = np.where(shares, -np.log([constants[i].value for i in names]), np.inf)
    start = predicted(np.zeros(len(names)))
    first = _slopes(predicted, np.zeros(len(names)), start, prior)
    spread = np.full(len(observations), noise)
    x, here, slopes = _most_probable(predicted, measured, prior, spread, most)
    scatter = _scatter(observations, measured - here, noise)
    if (scatter > spread).any():
        spread = scatter
        x, here, slopes = _most_probable(predicted, measured, prior, spread, most)
    covariance = np.linalg.inv((slopes.T / spread**2) @ slopes + np.diag(1 / prior**2))
    result = LogFit(prior={i: constants[i] for i in names}, correlations=_correlations(names, covariance))
    for name, factor, variance in zip(names, np.exp(x), np.diag(covariance), strict=True):
        old, sigma = constants[name], float(math.sqrt(variance))
        source = f"{old.source}; updated from own runs"
        result.constants[name] = Constant(name, old.value * float(factor), old.unit, sigma, old.trust, source)
    for o, a, b in zip(observations, start, here, strict=True):
        point = (o.name, o.measured, float(np.exp(a)), float(np.exp(b)))
        (result.points if o.unit == "s" else result.memory).append(point)
    timed = [index for index, o in enumerate(observations) if o.unit == "s"]
    first, slopes = first[timed], slopes[timed]
    result.width_before = float(Z80 * np.median(np.sqrt(((first * prior) ** 2).sum(axis=1))))
    result.width_after = float(Z80 * np.median(np.sqrt(np.einsum("ij,jk,ik->i", slopes, covariance, slopes))))
    return result


def _most_probable(
    predicted: Callable[[Array], Array], measured: Array, prior: Array, noise: Array, most: Array
) -> tuple[Array, Array, Array]:
    """Logarithms of the factors, what they predict, and the slopes there."""
    x = np.zeros(len(prior))
    here = predicted(x)
    slopes = np.zeros((len(measured), len(prior)))
    for _ in range(ROUNDS):
        slopes = _slopes(predicted, x, here, prior)
        weighted = slopes.T / noise**2
        moved = np.linalg.solve(weighted @ slopes + np.diag(1 / prior**2), weighted @ (measured - here + slopes @ x))
        step = np.clip(moved - x, -1.0, 1.0)
        x = np.minimum(x + step, most)
        here = predicted(x)
        if np.abs(step / prior).max(initial=0.0) < 0.05:
            break
    return x, here, slopes


def _scatter(observations: Sequence[Observation], left: Array, least: float) -> Array:
    """What the observations of each unit miss the fit by (root mean square), and not below ``least``."""
    found = np.full(len(left), least)
    for unit in {o.unit for o in observations}:
        mine = np.array([o.unit == unit for o in observations])
        found[mine] = max(least, float(np.sqrt((left[mine] ** 2).mean())))
    return found


def _correlations(names: Sequence[str], covariance: Array) -> dict[str, dict[str, float]]:
    size = np.sqrt(np.diag(covariance))
    shares = covariance / np.outer(size, size)
    return {a: {b: float(shares[i, j]) for j, b in enumerate(names) if i != j} for i, a in enumerate(names)}


def _slopes(
    predicted: Callable[[Array], Array],
    x: Array,
    here: Array,
    prior: Array,
) -> Array:
    columns = []
    for index in range(len(x)):
        step = 0.2 * prior[index]
        moved = x.copy()
        moved[index] += step
        columns.append((predicted(moved) - here) / step)
    return np.array(columns).T
