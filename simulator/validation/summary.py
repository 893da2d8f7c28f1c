"""What the rows say: errors by group, ranking inside sweeps, fits-or-not, and how few sources a figure rests on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from simulator.validation.rows import RowRecord

__all__ = [
    "GROUPS",
    "FitsSummary",
    "GroupSummary",
    "RankSummary",
    "fits_summary",
    "group_summaries",
    "points",
    "rank_summary",
]

GROUPS = ("source", "gpu", "family", "scale", "precision", "framework", "strategy")
"""Columns that errors are grouped by."""

RELATIVE = (
    "training_step_time",
    "training_layer_time",
    "training_memory",
    "step_replay",
    "serving_tpot",
    "serving_ttft",
    "serving_throughput",
    "serving_latency",
    "serving_capacity",
    "kernel",
    "straggler",
    "failures",
    "checkpoint",
    "power",
)
"""Kinds with a relative error."""

SWEEP_POINTS, SWEEP_GAP = 5, 0.03
"""A sweep has at least five points; pairs closer than 3 % are ties and not counted."""


@dataclass(frozen=True)
class GroupSummary:
    """Errors of one group of points.

    Attributes
    ----------
    median, p90
        Of the absolute error; ``inf`` where a point has no answer.
    bias
        Median signed error of the answered points.
    baseline
        Median absolute error of the naive model.
    """

    kind: str
    column: str
    value: str
    points: int
    sources: int
    answered: int
    median: float
    mean: float
    p90: float
    bias: float
    baseline: float


@dataclass(frozen=True)
class RankSummary:
    """Order inside sweeps: Kendall's τ over pairs that differ, and what taking our best instead of the measured best
    loses."""

    kind: str
    value: str
    sweeps: int
    pairs: int
    tau: float
    regret: float
    baseline_tau: float
    baseline_regret: float


@dataclass(frozen=True)
class FitsSummary:
    """Fits or not: recalls of both classes, and their mean (balanced accuracy)."""

    value: str
    ran: int
    false_out_of_memory: int
    failed: int
    recall_out_of_memory: float
    balanced: float


def points(rows: Iterable[RowRecord]) -> list[RowRecord]:
    """One row per configuration, figure and grade: repeated measurements are joined by their median published value."""
    groups: dict[tuple[str, ...], list[RowRecord]] = {}
    for row in rows:
        groups.setdefault((row.configuration, row.kind, row.quantity, row.load, row.source, row.grade), []).append(row)
    return [_middle(group) for group in groups.values()]


def _middle(group: Sequence[RowRecord]) -> RowRecord:
    ordered = sorted(group, key=lambda r: r.published)
    return ordered[(len(ordered) - 1) // 2]


def quantile(values: Sequence[float], share: float) -> float:
    """Quantile by linear interpolation; NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    if math.isinf(ordered[high]):
        return ordered[high] if place > low or math.isinf(ordered[low]) else ordered[low]
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def group_summary(kind: str, column: str, value: str, rows: Sequence[RowRecord]) -> GroupSummary:
    """Errors of these points; those without an answer count as infinitely wrong in the quantiles."""
    known = [r.error for r in rows if r.answered]
    sizes = [abs(e) for e in known] + [math.inf] * (len(rows) - len(known))
    naive = [abs(r.baseline_error) for r in rows if not math.isnan(r.baseline_error)]
    return GroupSummary(
        kind,
        column,
        value,
        len(rows),
        len({r.source for r in rows}),
        len(known),
        quantile(sizes, 0.5),
        statistics.fmean(abs(e) for e in known) if known else math.nan,
        quantile(sizes, 0.9),
        quantile(known, 0.5),
        quantile(naive, 0.5),
    )


def group_summaries(rows: Iterable[RowRecord], columns: Sequence[str] = GROUPS) -> list[GroupSummary]:
    """Errors by kind, then by each column; headline grades A and B together, C apart."""
    joined = [r for r in points(rows) if r.kind in RELATIVE]
    found = []
    for kind in dict.fromkeys(r.kind for r in joined):
        mine = [r for r in joined if r.kind == kind]
        found.append(group_summary(kind, "", "grades A and B", [r for r in mine if r.grade != "C"]))
        if any(r.grade == "C" for r in mine):
            found.append(group_summary(kind, "", "grade C", [r for r in mine if r.grade == "C"]))
        for column in columns:
            values = sorted({getattr(r, column) for r in mine})
            found += [
                group_summary(kind, column, v or "-", [r for r in mine if getattr(r, column) == v]) for v in values
            ]
    return [g for g in found if g.points]


# -- ranking -------------------------------------------------------------------------------------------------------

LOWER_IS_BETTER = ("training_step_time", "serving_tpot", "serving_ttft", "serving_latency")


def rank_summary(rows: Iterable[RowRecord], kind: str, value: str = "all") -> RankSummary:
    """τ pooled over the pairs of all sweeps, and the mean regret of a sweep."""
    sweeps: dict[tuple[str, str, str], list[RowRecord]] = {}
    for row in points(rows):
        if row.kind == kind and row.sweep and row.answered:
            sweeps.setdefault((row.sweep, row.quantity, row.load), []).append(row)
    used = [s for s in sweeps.values() if len(s) >= SWEEP_POINTS]
    counts = [_pairs(s, lambda r: r.predicted) for s in used]
    naive = [_pairs(s, lambda r: r.baseline) for s in used]
    total = sum(n for n, _ in counts)
    return RankSummary(
        kind, value, len(used), total, sum(score for _, score in counts) / total if total else math.nan,
        _mean([_regret(s, lambda r: r.predicted, kind) for s in used]),
        sum(score for _, score in naive) / total if total else math.nan,
        _mean([_regret(s, lambda r: r.baseline, kind) for s in used]),
    )  # fmt: skip


def _pairs(sweep: Sequence[RowRecord], key: Callable[[RowRecord], float]) -> tuple[int, float]:
    """Pairs whose measurements differ by more than the gap, and concordant minus discordant ones."""
    count, score = 0, 0.0
    for a, b in combinations(sweep, 2):
        if abs(a.published - b.published) > SWEEP_GAP * min(a.published, b.published):
            count += 1
            order = (key(a) - key(b)) * (a.published - b.published)
            score += (order > 0) - (order < 0)
    return count, score


def _regret(sweep: Sequence[RowRecord], key: Callable[[RowRecord], float], kind: str) -> float:
    """Share of the best measured speed that is lost by taking the predicted best; ties take the mean of the tied."""
    sign = 1 if kind in LOWER_IS_BETTER else -1
    best = min(sign * key(r) for r in sweep)
    chosen = [r.published for r in sweep if sign * key(r) <= best + 1e-12 * abs(best)]
    values = [r.published for r in sweep]
    if sign > 0:
        return 1 - min(values) / statistics.fmean(chosen)
    return 1 - statistics.fmean(chosen) / max(values)


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


# -- memory --------------------------------------------------------------------------------------------------------


def fits_summary(rows: Iterable[RowRecord], value: str = "all", naive: bool = False) -> FitsSummary:
    """Whether runs that ran are said to fit, and failures to fail."""
    mine = [r for r in points(rows) if r.kind == "fits" and r.answered]

    def said(row: RowRecord) -> float:
        return row.baseline if naive else row.predicted

    ran, failed = [r for r in mine if r.published > 0.5], [r for r in mine if r.published < 0.5]
    wrong = sum(said(r) < 0.5 for r in ran)
    caught = sum(said(r) < 0.5 for r in failed)
    recall = caught / len(failed) if failed else math.nan
    kept = 1 - wrong / len(ran) if ran else math.nan
    return FitsSummary(value, len(ran), wrong, len(failed), recall, (recall + kept) / 2)
