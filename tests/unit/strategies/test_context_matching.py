"""Changes of a fleet's plan: the mapping that moves least, what travels, and which plan is chosen."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.strategies.replanning.base import Layout
from simulator.strategies.replanning.context import STORAGE, Holdings, match, parcels, reuse
from simulator.strategies.replanning.policies import Reroute, Restart, SpotServeReplanner

LAYOUTS = st.builds(Layout, st.integers(1, 2), st.integers(1, 3), st.just(1))
WEIGHTS, CACHE = 6e9, 1e9


def holdings(layout: Layout, gone: int = -1) -> Holdings:
    ranks = {i: i for i in range(layout.accelerators) if i != gone}
    return Holdings(layout, ranks, WEIGHTS, [CACHE] * layout.data)


def follows_of(old: Layout, new: Layout) -> list[int]:
    return [i if i < old.data else -1 for i in range(new.data)]


@settings(max_examples=30, deadline=None)
@given(LAYOUTS, LAYOUTS, st.data())
def test_no_other_mapping_moves_less(old: Layout, new: Layout, data: st.DataObject) -> None:
    """Against all permutations of units of one accelerator."""
    gone = data.draw(st.integers(-1, old.accelerators - 1))
    held, follows = holdings(old, gone), follows_of(old, new)
    units = [(i,) for i in range(max(old.accelerators, new.accelerators)) if i != gone][:6]
    if len(units) < new.accelerators:
        return
    places = match(held, units, new, follows)
    value = reuse(held, [unit[0] for unit in units], new, follows)
    best = max(sum(value[d, j] for j, d in enumerate(p)) for p in permutations(range(len(units)), new.accelerators))
    assert len(set(places)) == new.accelerators
    assert sum(reuse(held, [a], new, follows)[0, j] for j, a in enumerate(places)) == pytest.approx(best)


@settings(max_examples=60, deadline=None)
@given(
    st.builds(Layout, st.integers(1, 2), st.integers(1, 4), st.sampled_from([1, 2, 4])),
    st.builds(Layout, st.integers(1, 2), st.integers(1, 4), st.sampled_from([1, 2, 4])),
)
def test_bytes_in_place_and_bytes_that_travel_are_what_the_plan_needs(old: Layout, new: Layout) -> None:
    """Whole weights for every pipeline, and keys and values of those that go on; every rank gets its part."""
    held, follows = holdings(old), follows_of(old, new)
    count = -(-max(old.accelerators, new.accelerators) // 4) * 4
    units = [tuple(range(i, i + new.tensor)) for i in range(0, count, new.tensor)]
    places = match(held, units, new, follows)
    for pipeline, before in enumerate(follows):
        wanted, kept = parcels(held, new, places, follows, pipeline, WEIGHTS, 4)
        needs = WEIGHTS + (CACHE if before >= 0 else 0.0)
        assert kept + sum(parcel.size for parcel in wanted) == pytest.approx(needs)
        assert all(parcel.source != parcel.target for parcel in wanted)
        assert all(parcel.source in held.ranks for parcel in wanted)


def test_only_what_is_missing_moves() -> None:
    """One pipeline of 2 stages of 2; the accelerator of rank 1 is replaced by an empty one: a quarter of 6 + 1 GB."""
    layout = Layout(1, 2, 2)
    old = Holdings(layout, {0: 0, 1: 1, 2: 2, 3: 3}, WEIGHTS, [CACHE])
    places = match(old, [(0, 4), (2, 3)], layout, [0])
    assert places == (0, 4, 2, 3)
    wanted, kept = parcels(old, layout, places, [0], 0, WEIGHTS, 4)
    assert sum(parcel.size for parcel in wanted) == pytest.approx(7e9 / 4)
    assert {(parcel.source, parcel.target) for parcel in wanted} == {(1, 4)}
    assert kept == pytest.approx(7e9 * 3 / 4)


def test_what_nobody_has_comes_from_storage() -> None:
    layout = Layout(1, 2, 1)
    old = Holdings(layout, {0: 0}, WEIGHTS, [0.0])
    wanted, kept = parcels(old, layout, (0, 1), [-1], 0, WEIGHTS, 4)
    assert (wanted, kept) == ([(STORAGE, 1, WEIGHTS / 2)], WEIGHTS / 2)
    wanted, kept = parcels(None, layout, (0, 1), [-1], 0, WEIGHTS, 4)
    assert (wanted, kept) == ([(STORAGE, 0, WEIGHTS / 2), (STORAGE, 1, WEIGHTS / 2)], 0.0)


def test_the_plan_keeps_up_if_one_can() -> None:
    choices = [Layout(1, 2, 2, 1.0, 3.0), Layout(2, 2, 1, 1.6, 5.0), Layout(1, 2, 1, 0.8, 5.0)]
    for policy in (SpotServeReplanner(), Restart(), Reroute()):
        assert policy.choose(choices, 0.9, None) == choices[0]
        assert policy.choose(choices, 1.5, None) == choices[1]
        assert policy.choose(choices[2:], 0.9, None) == choices[2]
        assert policy.choose([], 0.9, None) is None
    # Rerouting keeps the degrees it began with.
    assert Reroute().choose(choices, 1.5, Layout(3, 2, 2)) == choices[0]
    assert Reroute().choose(choices, 1.5, Layout(3, 8, 2)) is None
