"""Ties of a replay on a server with closed form: it takes whoever is there every 0.1 s."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from simulator.validation.vidur_ties import settle

SLOT = 0.1
Times = NDArray[np.float64]


def begins(arrivals: Times, drift: float = 0.0) -> Times:
    """The next multiple of the slot at or after the arrival, on a clock that is ``drift`` late."""
    return np.ceil((arrivals - drift) / SLOT - 1e-12) * SLOT + drift


def replay_of(reference: Times, given_: Times):  # type: ignore[no-untyped-def]
    def replay(arrivals: Times) -> tuple[Times, Times]:
        late = begins(arrivals) - reference
        return late, late + 0.0 * given_

    return replay


def test_a_request_at_the_end_of_a_slot_is_named() -> None:
    """Their clock is 50 us late, so a request 30 us after ours ends its slot still gets in with them."""
    arrivals = np.array([0.02, 0.10003, 0.17, 0.30002, 0.55])
    moved, left = settle(replay_of(begins(arrivals, 5e-5), arrivals), arrivals)
    assert sorted(moved) == [1, 3]
    assert all(-1e-4 <= shift < 0 for shift in moved.values())
    assert left == pytest.approx(5e-5, abs=1e-5)


def test_another_policy_is_no_tie() -> None:
    """Who waits for the slot after the next without reason stays a difference."""
    arrivals = np.array([0.02, 0.15, 0.27])
    reference = begins(arrivals) + np.array([0.0, SLOT, 0.0])
    assert settle(replay_of(reference, arrivals), arrivals) == ({}, pytest.approx(SLOT))


@given(st.lists(st.floats(0.0, 5.0), min_size=1, max_size=20).map(sorted))
def test_what_agrees_needs_no_tie(times: list[float]) -> None:
    arrivals = np.array(times)
    assert settle(replay_of(begins(arrivals), arrivals), arrivals) == ({}, 0.0)
