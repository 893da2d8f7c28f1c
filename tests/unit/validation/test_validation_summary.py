"""Errors by group, ranking and fits-or-not, by hand-made rows whose answers follow from their definitions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.validation.changes import changes
from simulator.validation.rows import RowRecord, read_rows, write_rows
from simulator.validation.summary import fits_summary, group_summaries, points, quantile, rank_summary


def row(name: str, predicted: float, published: float, **changes: object) -> RowRecord:
    error = predicted / published - 1 if published else predicted
    base = RowRecord(
        id=name, file="f", split="dev", kind="training_step_time", quantity="step", source="paper", gpu="A100",
        model="m", family="gpt", framework="x", precision="bf16", scale="1 node", strategy="tp", grade="A", load="",
        predicted=predicted, published=published, error=error, baseline=1.0, baseline_error=0.5, assumed="",
        configuration=name, sweep="s",
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def test_repeated_measurements_of_one_configuration_are_one_point() -> None:
    rows = [row(str(i), 1.0, published, configuration="same") for i, published in enumerate((0.9, 1.0, 1.2))]
    assert [r.published for r in points(rows)] == [1.0]


def test_a_row_without_an_answer_is_infinitely_wrong() -> None:
    rows = [row("a", 1.1, 1.0), row("b", math.nan, 1.0), row("c", math.nan, 1.0)]
    [summary] = [g for g in group_summaries(rows, ()) if g.value == "grades A and B"]
    assert (summary.points, summary.answered, summary.median) == (3, 1, math.inf)
    assert summary.bias == pytest.approx(0.1)


def test_a_figure_of_another_grade_is_another_point() -> None:
    """The same run measured again where it is worth its grade: the first does not move the headline."""
    rows = [row("a", 1.0, 1.0), row("a", 1.0, 10.0, grade="C")]
    headline = {g.value: g.median for g in group_summaries(rows, ())}
    assert headline == pytest.approx({"grades A and B": 0.0, "grade C": 0.9})


def test_grade_c_stays_out_of_the_headline() -> None:
    rows = [row("a", 1.0, 1.0), row("b", 9.0, 1.0, grade="C")]
    headline = {g.value: g.median for g in group_summaries(rows, ())}
    assert headline == {"grades A and B": 0.0, "grade C": 8.0}


def test_order_of_a_sweep() -> None:
    measured = (1.0, 2.0, 3.0, 4.0, 5.0)
    same = [row(str(m), 10 * m, m) for m in measured]
    upside_down = [row(str(m), -m, m) for m in measured]
    assert (rank_summary(same, "training_step_time").tau, rank_summary(same, "training_step_time").regret) == (1.0, 0.0)
    found = rank_summary(upside_down, "training_step_time")
    assert (found.pairs, found.tau) == (10, -1.0)
    assert found.regret == pytest.approx(1 - 1 / 5)  # takes five times as long as the best


def test_pairs_within_three_percent_and_short_sweeps_do_not_count() -> None:
    near = [row(str(i), 5.0 - i, 1.0 + 0.001 * i) for i in range(5)]
    assert rank_summary(near, "training_step_time").pairs == 0
    assert rank_summary(near[:4], "training_step_time").sweeps == 0


def test_fits_is_balanced_accuracy() -> None:
    ran = [row(f"r{i}", float(i > 0), 1.0, kind="fits") for i in range(4)]  # one of four wrongly out of memory
    failed = [row(f"f{i}", float(i < 1), 0.0, kind="fits") for i in range(2)]  # one of two not noticed
    found = fits_summary([*ran, *failed])
    assert (found.false_out_of_memory, found.recall_out_of_memory, found.balanced) == (1, 0.5, (0.75 + 0.5) / 2)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 1))
def test_quantiles_lie_within_the_values(values: list[float], share: float) -> None:
    assert min(values) <= quantile(values, share) <= max(values)


def test_rows_survive_the_file_and_changes_are_found(tmp_path) -> None:
    old = [row("a", 1.0, 1.0), row("b", 2.0, 1.0), row("c", math.nan, 1.0, note="out of memory")]
    write_rows(old, tmp_path / "rows.csv")
    again = read_rows(tmp_path / "rows.csv")
    assert [(r.id, r.answered, r.note) for r in again] == [
        ("a", True, ""),
        ("b", True, ""),
        ("c", False, "out of memory"),
    ]
    new = [row("a", 1.0, 1.0), row("b", 2.2, 1.0), row("c", 1.0, 1.0)]
    assert [(c.row.id, round(c.moved, 3)) for c in changes(again, new)] == [("c", math.inf), ("b", 0.1)]
