"""The table that validation makes: one row per published figure, with prediction, error and baseline."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from simulator.validation.cases import Case, Measurement, Skipped

__all__ = ["RowRecord", "read_rows", "rows_of", "write_rows", "write_skipped"]


@dataclass(frozen=True)
class RowRecord:
    """One comparison.

    Attributes
    ----------
    id, file, split, kind, quantity
        Which figure of which record.
    predicted, published
        In SI units (seconds, bytes, tokens/s; 1 or 0 for ``fits``; seconds of difference for replays).
    error
        predicted / published − 1; for ``fits`` and ``bubble`` predicted − published.
    baseline, baseline_error
        The naive model's answer: constant utilisation for training, plain roofline for serving.
    assumed
        What the record left out and what it was filled with.
    configuration
        Equal for repeated measurements of one configuration, which count as one point.
    sweep
        Rows that differ in layout only.
    load
        Kind of load, for TTFT.
    degree, setting
        Ranks of one replica, and what was asked of the run besides device, degree and precision.
    note
        Why there is no prediction; of a replay that differs, which ties it differs at.
    low, high
        Ends of the central 80 % interval of the prediction, where it has one.
    """

    id: str
    file: str
    split: str
    kind: str
    quantity: str
    source: str
    gpu: str
    model: str
    family: str
    framework: str
    precision: str
    scale: str
    strategy: str
    grade: str
    load: str
    predicted: float
    published: float
    error: float
    baseline: float
    baseline_error: float
    assumed: str
    configuration: str
    sweep: str
    note: str = ""
    degree: str = ""
    setting: str = ""
    low: float = math.nan
    high: float = math.nan

    @property
    def held(self) -> bool:
        """Whether the interval holds the published figure."""
        return self.low <= self.published <= self.high

    @property
    def answered(self) -> bool:
        """Whether there is a prediction."""
        return not math.isnan(self.predicted)


ABSOLUTE = ("fits", "bubble", "bound", "request_replay")
"""Kinds whose error is a difference, not a ratio."""


def rows_of(case: Case, prediction: Mapping[str, float], note: str, configuration: str) -> list[RowRecord]:
    """The rows of one case; without a prediction they keep the reason."""
    return [_row(case, m, prediction, note, configuration) for m in case.measured]


def _row(case: Case, m: Measurement, prediction: Mapping[str, float], note: str, configuration: str) -> RowRecord:
    name = m.quantity or m.kind
    asked = (name, f"baseline.{name}", f"low.{name}", f"high.{name}")
    predicted, naive, low, high = (prediction.get(k, math.nan) for k in asked)
    labels = case.labels
    return RowRecord(
        case.id, case.file, case.split, m.kind, m.quantity, labels.source, labels.gpu, labels.model, labels.family,
        labels.framework, labels.precision, labels.scale, labels.strategy, m.grade or labels.grade, m.load, predicted,
        m.value, _error(m, predicted), naive, _error(m, naive), "; ".join(case.assumed),
        labels.configuration or configuration, labels.sweep,
        note if math.isnan(predicted) or m.kind == "request_replay" else "", labels.degree, labels.setting,
        low, high,
    )  # fmt: skip


def _error(m: Measurement, predicted: float) -> float:
    if m.kind in ABSOLUTE:
        return predicted - m.value
    return predicted / m.value - 1 if m.value else math.nan


def write_rows(rows: Sequence[RowRecord], path: Path) -> None:
    """``rows.csv``; numbers with six significant digits so that reruns are byte-identical."""
    names = [f.name for f in fields(RowRecord)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            values = (getattr(row, n) for n in names)
            writer.writerow([("" if math.isnan(v) else f"{v:.6g}") if isinstance(v, float) else v for v in values])


def read_rows(path: Path) -> list[RowRecord]:
    """Rows of a former validation."""
    kinds = {f.name: f.type for f in fields(RowRecord)}
    with path.open(newline="", encoding="utf-8") as file:
        return [
            RowRecord(**{k: (float(v or "nan") if kinds[k] == "float" else v) for k, v in row.items() if k in kinds})  # type: ignore[arg-type]
            for row in csv.DictReader(file)
        ]


def write_skipped(skipped: Iterable[Skipped], path: Path) -> None:
    """``skipped.csv``: records that were not simulated, with the reason."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "file", "split", "source", "section", "reason"))
        writer.writerows((s.id, s.file, s.split, s.source, s.section, s.reason) for s in skipped)
