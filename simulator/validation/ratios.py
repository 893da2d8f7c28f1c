"""Relative claims: rows of one source that differ in one factor alone, and the error of their ratio.

What a buyer asks is often not how fast, but how much faster: this accelerator or that, eight ranks or four, fp4 or fp8.
Errors that both runs share cancel in the ratio.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from simulator.validation.rows import RowRecord
from simulator.validation.summary import points, quantile

__all__ = ["FACTORS", "RatioSummary", "ratio_errors", "ratio_summaries"]

FACTORS = {"gpu": "accelerators", "degree": "degrees", "precision": "precisions"}
"""Columns of which one may differ, with the name of what is then compared."""


@dataclass(frozen=True)
class RatioSummary:
    """Errors of ratios of one kind of figure.

    Attributes
    ----------
    factor
        The column that differs inside a pair.
    source
        Of the rows; ``all`` for every source.
    median, p90
        Of the absolute error of the ratio.
    bias
        Median signed error of the larger published figure over the smaller.
    """

    kind: str
    factor: str
    source: str
    pairs: int
    median: float
    p90: float
    bias: float


def ratio_errors(rows: Iterable[RowRecord], factor: str) -> list[tuple[RowRecord, float]]:
    """For every pair of rows equal in all but ``factor``: one of them, and predicted ratio / published ratio − 1.

    The ratio is that of the larger published figure over the smaller. Runs that agree in everything (repeated later,
    say) count with their medians; rows of grade C do not count.
    """
    groups: dict[tuple[str, ...], dict[str, list[RowRecord]]] = {}
    for row in points(rows):
        if row.answered and row.grade != "C" and row.setting and row.published > 0 and row.predicted > 0:
            same = tuple(str(getattr(row, f)) for f in FACTORS if f != factor)
            key = (row.source, row.kind, row.quantity, row.load, row.model, row.framework, row.setting, *same)
            groups.setdefault(key, {}).setdefault(str(getattr(row, factor)), []).append(row)
    found = []
    for values in groups.values():
        for a, b in combinations(values.values(), 2):
            ratio = _middle(a, "predicted") / _middle(b, "predicted")
            published = _middle(a, "published") / _middle(b, "published")
            found.append((a[0], ratio / published - 1 if published >= 1 else published / ratio - 1))
    return found


def _middle(rows: Sequence[RowRecord], column: str) -> float:
    return statistics.median(float(getattr(row, column)) for row in rows)


def ratio_summaries(rows: Sequence[RowRecord]) -> list[RatioSummary]:
    """Errors of ratios by kind and factor, over all sources and by source."""
    found = []
    for factor in FACTORS:
        pairs = ratio_errors(rows, factor)
        for kind in dict.fromkeys(row.kind for row, _ in pairs):
            mine = [(row.source, error) for row, error in pairs if row.kind == kind]
            sources = sorted({source for source, _ in mine})
            for source in ("all", *sources) if len(sources) > 1 else sources:
                errors = [e for s, e in mine if source in ("all", s)]
                sizes = [abs(e) for e in errors]
                middle, high = quantile(sizes, 0.5), quantile(sizes, 0.9)
                found.append(RatioSummary(kind, factor, source, len(errors), middle, high, quantile(errors, 0.5)))
    return sorted(found, key=lambda s: s.kind)
