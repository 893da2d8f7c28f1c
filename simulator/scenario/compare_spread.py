"""How far the figures of merit spread when everything that is not certain is drawn at once.

A draw has a seed of its own, which gives other requests and other failures, and one draw of the constants and prices
that the times and costs rest on. All variants have the same draws, so what they share moves them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simulator.errors import ConfigError
from simulator.scenario.compare_draws import Floats, Side, draw, odds_against
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

    A metric that no constant is known to move (a share of requests that keep a limit) is spread by requests and
    failures alone; ``over`` says which.

    Raises
    ------
    ConfigError
        If a variant cannot be computed under some draw.
    """
    drawn: list[list[dict[str, Any]]] = []
    for recipe, workload in zip(recipes, workloads, strict=True):
        rows = [
            row for answer in _answers(recipe, count, jobs) for row in answer["rows"] if row["workload"] == workload
        ]
        if len(rows) < count:
            raise ConfigError(f"'{workload}' cannot be computed under every draw of its requests and failures")
        drawn.append(rows)
    table: list[dict[str, Any]] = []
    for metric in SPREAD:
        values = [np.array([_number(row.get(metric)) for row in rows]) for rows in drawn]
        factors = _factors(sides, metric, count, seed)
        moved = values if factors is None else [v * f for v, f in zip(values, factors, strict=True)]
        over = "requests, failures" + ("" if factors is None else ", constants, prices")
        for name, mine in zip(names, moved, strict=True):
            if np.isnan(mine).all():
                continue
            low, middle, high = np.nanquantile(mine, (0.1, 0.5, 0.9))
            beats = odds_against(mine, moved[0], metric) if name != names[0] else None
            spread = {"p10": float(low), "p50": float(middle), "p90": float(high)}
            table.append({"name": name, "metric": metric, **spread, "draws": count, "over": over, "beats_first": beats})
    return sorted(table, key=lambda row: (list(names).index(row["name"]), SPREAD.index(row["metric"])))


def _factors(sides: Sequence[Side], metric: str, count: int, seed: int) -> list[Floats] | None:
    """By what constants and prices move a metric of each variant [draw]."""
    found = draw(sides, metric, count, seed)
    if found is None:
        return None
    own = [_number(side.row.get(metric)) for side in sides]
    return [values / value if value else np.ones(count) for values, value in zip(found, own, strict=True)]


def _answers(recipe: Recipe, count: int, jobs: int | None) -> list[Answer]:
    """Answers of a scenario under other seeds, the same for every scenario."""
    answers: dict[int, Answer] = {}

    def keep(_: int, index: int, answer: Answer) -> None:
        answers[index] = answer

    compute_points(recipe, [{"seed": FIRST_SEED + i} for i in range(count)], keep, jobs)
    return [answers[i] for i in range(count)]


def _number(value: Any) -> float:
    known = value is not None and not isinstance(value, str) and np.isfinite(value)
    return float(value) if known else float("nan")
