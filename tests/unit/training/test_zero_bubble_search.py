"""The search for zero-bubble orders tries what can differ, and finds what trying everything finds."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.strategies.pipeline import zero_bubble_search
from simulator.strategies.pipeline.zero_bubble_search import StageTimes, _Actions, _Builder, search

build = _Builder.build


def built_of(times: StageTimes, microbatches: int, limit: float, extra: bool, skip: bool, fill: bool) -> _Builder:
    made = _Builder(times, microbatches, limit, _Actions.of(microbatches))
    made.build(made.begin(extra), skip, fill)
    return made


seconds = st.floats(0.3, 2.0).map(lambda x: round(x, 2))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(seconds, seconds, seconds), min_size=1, max_size=6), st.integers(1, 20),
    st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([1.0, 1.5, 2.0]),
)  # fmt: skip
def test_it_finds_the_best_of_all_eight(
    stages: list[tuple[float, float, float]], microbatches: int, p2p: float, share: float, room: float
) -> None:
    times, limit = StageTimes(*zip(*stages, strict=True), p2p, share), room * len(stages)  # type: ignore[arg-type]
    every = [built_of(times, microbatches, limit, *choice) for choice in product((True, False), repeat=3)]
    best = min(every, key=lambda made: made.cost())
    assert search(times, microbatches, limit) == best.tasks


def test_choices_that_never_come_up_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank waits for nobody: one order is all there is. Equal stages never wait but at the ends."""
    tries = list[tuple[bool, bool]]()
    monkeypatch.setattr(
        zero_bubble_search._Builder, "build",
        lambda self, warmup, *choice: tries.append(choice) or build(self, warmup, *choice),
    )  # fmt: skip
    search(StageTimes((1.0,), (1.0,), (1.0,), 0.0, 0.5), 8, 1.0)
    assert len(tries) == 1
    tries.clear()
    search(StageTimes((1.0,) * 8, (1.0,) * 8, (1.0,) * 8, 0.0, 0.5), 32, 16.0)
    assert len(tries) <= 4
