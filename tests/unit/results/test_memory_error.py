"""How sure it is that a plan fits: a distribution, and what recommendations make of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.results.memory_error import CHANCES, RATIOS, fits_chance, peak_interval
from simulator.scenario.recommend import recommend

GB = 1e9
SEARCH = ("workloads.pretrain.batch.global_batch_size=64", "what_if={}")


def test_quantiles_are_a_distribution() -> None:
    assert len(CHANCES) == len(RATIOS)
    assert list(CHANCES) == sorted(set(CHANCES)) and list(RATIOS) == sorted(set(RATIOS))


def test_ends_of_the_interval_are_the_tenth_and_ninetieth_percentile() -> None:
    low, high = peak_interval(40 * GB)
    assert fits_chance(40 * GB, low) == pytest.approx(0.1)
    assert fits_chance(40 * GB, high) == pytest.approx(0.9)


def test_no_peak_always_fits_and_nothing_is_quite_certain() -> None:
    assert fits_chance(0.0, 80 * GB) == 1.0
    assert fits_chance(1.0, 80 * GB) == CHANCES[-1]
    assert fits_chance(800 * GB, 80 * GB) == CHANCES[0]


@given(st.floats(1e9, 1e12), st.floats(1e9, 1e12), st.floats(1.0, 2.0))
def test_more_memory_never_fits_less_likely(peak: float, capacity: float, more: float) -> None:
    assert fits_chance(peak, capacity * more) >= fits_chance(peak, capacity)
    assert fits_chance(peak * more, capacity) <= fits_chance(peak, capacity)


def test_a_recommendation_can_be_asked_for_room() -> None:
    tight = recommend("how-to-split-a-70b", SEARCH, objective="time")
    roomy = recommend("how-to-split-a-70b", SEARCH, objective="time", limits=("memory_fits_chance=0.9",))
    assert tight.best is not None and roomy.best is not None
    assert tight.best.row["memory_fits_chance"] < 0.9 <= roomy.best.row["memory_fits_chance"]
    assert roomy.best.objective > tight.best.objective
    assert any("memory_fits_chance" in note for note in tight.notes)
    assert not any("memory_fits_chance" in note for note in roomy.notes)
