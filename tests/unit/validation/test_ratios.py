"""Errors of ratios, by rows whose ratios follow from their figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.validation.ratios import ratio_errors, ratio_summaries
from simulator.validation.rows import RowRecord


def row(name: str, predicted: float, published: float, gpu: str = "A", degree: str = "tp8", **more: str) -> RowRecord:
    given = {"setting": "isl=1", "precision": "fp8", "source": "paper", **more}
    return RowRecord(
        id=name, file="f", split="dev", kind="serving_tpot", quantity="tpot_mean", gpu=gpu, model="m", family="llama",
        framework="x", scale="1 node", strategy="tp", grade="A", load="", predicted=predicted, published=published,
        error=predicted / published - 1, baseline=1.0, baseline_error=0.0, assumed="", configuration=name, sweep="",
        degree=degree, **given,
    )  # fmt: skip


def test_an_error_that_both_share_leaves_the_ratio_right() -> None:
    rows = [row("a", 2.0, 1.0, gpu="A"), row("b", 6.0, 3.0, gpu="B")]
    [(_, error)] = ratio_errors(rows, "gpu")
    assert error == pytest.approx(0.0)


def test_the_ratio_is_of_the_larger_published_figure_over_the_smaller() -> None:
    rows = [row("a", 1.0, 1.0, gpu="A"), row("b", 3.0, 2.0, gpu="B")]
    for order in (rows, rows[::-1]):
        [(_, error)] = ratio_errors(order, "gpu")
        assert error == pytest.approx(3.0 / 2.0 - 1)


def test_rows_that_differ_in_two_factors_or_in_the_load_are_no_pair() -> None:
    first = row("a", 1.0, 1.0)
    for other in (
        row("b", 1.0, 2.0, gpu="B", degree="tp4"),
        row("b", 1.0, 2.0, gpu="B", setting="isl=2"),
        row("b", 1.0, 2.0, gpu="B", setting=""),
        row("b", 1.0, 2.0, gpu="B", source="other"),
        row("b", float("nan"), 2.0, gpu="B"),
    ):
        assert not ratio_errors([first, other], "gpu")
    assert len(ratio_errors([first, row("b", 1.0, 2.0, degree="tp4")], "degree")) == 1


def test_rows_of_grade_c_are_in_no_pair() -> None:
    rows = [row("a", 1.0, 1.0), row("b", 3.0, 2.0, gpu="B")]
    assert ratio_errors(rows, "gpu")
    assert not ratio_errors([rows[0], replace(rows[1], grade="C")], "gpu")


def test_summary_by_factor() -> None:
    rows = [row("a", 1.0, 1.0), row("b", 2.2, 2.0, gpu="B"), row("c", 0.5, 1.0, degree="tp4")]
    found = {(s.factor, s.source): s for s in ratio_summaries(rows)}
    assert set(found) == {("gpu", "paper"), ("degree", "paper")}
    assert found["gpu", "paper"].bias == pytest.approx(0.1)
    assert found["degree", "paper"].median == pytest.approx(1.0)  # equal figures: either way round counts
