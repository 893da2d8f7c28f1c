"""The sketch keeps its stated error and merges exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.results.sketch import QuantileSketch

VALUES = st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1e9)), min_size=1, max_size=200)


@given(VALUES, st.floats(0, 1), st.sampled_from([0.001, 0.01, 0.1]))
def test_quantiles_are_within_the_stated_error_of_the_sample(values: list[float], q: float, error: float) -> None:
    sketch = QuantileSketch(error)
    sketch.add(values)
    exact = float(np.quantile(values, q, method="lower"))
    assert sketch.quantile(q) == pytest.approx(exact, rel=error * (1 + 1e-9), abs=1e-12)
    assert (sketch.count, sketch.min, sketch.max) == (len(values), min(values), max(values))
    assert sketch.mean == pytest.approx(float(np.mean(values)), rel=1e-12, abs=1e-12)


@given(VALUES, VALUES, VALUES)
def test_merging_is_the_sketch_of_the_union_in_any_order(a: list[float], b: list[float], c: list[float]) -> None:
    def sketch(*parts: list[float]) -> QuantileSketch:
        made = QuantileSketch(0.01)
        for part in parts:
            made.add(part)
        return made

    left, right, whole = sketch(a), sketch(c), sketch(a, b, c)
    left.merge(sketch(b))
    left.merge(sketch(c))
    right.merge(sketch(b))
    right.merge(sketch(a))
    for q in np.linspace(0, 1, 11):
        assert left.quantile(q) == right.quantile(q) == whole.quantile(q)
    assert left.count == right.count == whole.count


def test_memory_is_bounded_by_the_range_not_by_the_count() -> None:
    sketch = QuantileSketch(0.01)
    rng = np.random.Generator(np.random.PCG64(1))
    for _ in range(20):
        sketch.add(10 ** rng.uniform(-6, np.log10(3600), 50_000))
    assert sketch.count == 1_000_000
    assert len(sketch.to_dict()["counts"]) <= math.ceil(math.log(3600e6) / math.log(1.01 / 0.99)) + 1


def test_round_trip() -> None:
    for values in ([], [0.0, 1.5, 7e3]):
        sketch = QuantileSketch(0.02)
        sketch.add(values)
        again = QuantileSketch.from_dict(sketch.to_dict())
        assert again.to_dict() == sketch.to_dict()


def test_empty_and_wrong_use() -> None:
    sketch = QuantileSketch()
    assert math.isnan(sketch.quantile(0.5))
    assert math.isnan(sketch.mean)
    for wrong in ([-1.0], [math.nan], [math.inf]):
        with pytest.raises(ValueError, match="finite values"):
            sketch.add(wrong)
    with pytest.raises(ValueError, match="between 0 and 1"):
        sketch.quantile(1.5)
    with pytest.raises(ValueError, match="do not merge"):
        sketch.merge(QuantileSketch(0.1))
    with pytest.raises(ValueError, match="between 0 and 1"):
        QuantileSketch(1.0)
