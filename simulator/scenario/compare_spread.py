"""How far the figures of merit spread when everything that is not certain is drawn at once.

A draw has a seed of its own, which gives other requests and other failures, and one draw of the constants that times
rest on and of prices. The simulation runs with the constants drawn, so that a slower kernel lengthens queues and breaks
limits as it would. All variants have the same draws, so what they share moves them together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from simulator.errors import ConfigError
from simulator.scenario.axes import Point
from simulator.scenario.compare_draws import COSTS, Side, factors_of_constants, odds_against, price_factors
from simulator.scenario.sweep import compute_points
from simulator.scenario.sweep_points import Answer, Recipe

__all__ = ["FIRST_SEED", "SPREAD", "redrawn"]

FIRST_SEED = 1000
"""Of the requests and failures that are drawn anew."""

SPREAD = (
    "seconds", "training_seconds", "effective_time_ratio", "ttft_p90", "tpot_p90", "slo_attainment", "slo_goodput",
    "usd", "usd_per_million_tokens", "energy_per_token",
)  # fmt: skip
"""Columns of a summary whose spread is given where they are known."""

OVER = "requests, failures, constants, prices"
"""What is drawn."""


def redrawn(
    recipes: Sequence[Recipe],
    sides: Sequence[Side],
    names: Sequence[str],
    workloads: Sequence[str],
    count: int,
    seed: int,
    jobs: int | None,
) -> list[dict[str, Any]]:
    """p10, p50 and p90 of every variant over ``count`` draws.

    Raises
    ------
    ConfigError
        If a variant cannot be computed under some draw.
    """
    drawn: list[list[dict[str, Any]]] = []
    for recipe, side, workload in zip(recipes, sides, workloads, strict=True):
        answers = _answers(recipe, list(draws_of(side, count, seed)), jobs)
        rows = [row for answer in answers for row in answer["rows"] if row["workload"] == workload]
        if len(rows) < count:
            raise ConfigError(f"'{workload}' cannot be computed under every draw of its requests and failures")
        drawn.append(rows)
    table: list[dict[str, Any]] = []
    for metric in SPREAD:
        values = [np.array([_number(row.get(metric)) for row in rows]) for rows in drawn]
        if metric in COSTS:
            prices = [price_factors(side, count, seed) for side in sides]
            values = [v * f for v, f in zip(values, prices, strict=True)]
        for name, mine in zip(names, values, strict=True):
            if np.isnan(mine).all():
                continue
            low, middle, high = np.nanquantile(mine, (0.1, 0.5, 0.9))
            beats = odds_against(mine, values[0], metric) if name != names[0] else None
            spread = {"p10": float(low), "p50": float(middle), "p90": float(high)}
            table.append({"name": name, "metric": metric, **spread, "draws": count, "over": OVER, "beats_first": beats})
    return sorted(table, key=lambda row: (list(names).index(row["name"]), SPREAD.index(row["metric"])))


def draws_of(side: Side, count: int, seed: int) -> Iterator[Point]:
    """What each draw changes in a scenario: its seed, and the constants its times rest on."""
    moved = factors_of_constants(side, count, seed)
    for i in range(count):
        yield {"seed": FIRST_SEED + i, "constants": {name: float(factors[i]) for name, factors in moved.items()}}


def _answers(recipe: Recipe, points: list[Point], jobs: int | None) -> list[Answer]:
    answers: dict[int, Answer] = {}

    def keep(_: int, index: int, answer: Answer) -> None:
        answers[index] = answer

    compute_points(recipe, points, keep, jobs)
    return [answers[i] for i in range(len(points))]


def _number(value: Any) -> float:
    known = value is not None and not isinstance(value, str) and np.isfinite(value)
    return float(value) if known else float("nan")
