"""Several timings of one thing: which count, what they say, and when one more is wanted."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from simulator.calibration.meeting import Meeting
from simulator.calibration.passes import MOST, PASSES, SLOWER, Taken, half_range, unsettled, verdict

USUAL = 1e-3
CALM, BUSY = USUAL, USUAL * SLOWER * 1.01


def some(*seconds: float, reference: float = CALM) -> list[Taken]:
    return [Taken(s, 0.01, True, reference) for s in seconds]


def test_one_slow_moment_moves_nothing() -> None:
    assert verdict(some(1.0, 1.02, 3.0), USUAL).seconds == pytest.approx(1.02)


def test_timings_beside_a_slow_reference_are_set_aside() -> None:
    found = verdict([*some(1.0, 1.1), *some(2.0, 2.1, 2.2, reference=BUSY)], USUAL)
    assert found.kept == (1.0, 1.1) and found.set_aside == 3 and found.quiet
    assert found.seconds == pytest.approx(1.05)


def test_threads_that_waited_are_set_aside_too() -> None:
    assert verdict([*some(1.0, 1.0), Taken(5.0, 0.0, quiet=False, reference=CALM)], USUAL).kept == (1.0, 1.0)


def test_where_all_were_disturbed_the_fastest_references_count() -> None:
    taken = [Taken(s, 0.0, True, BUSY * r) for s, r in ((4.0, 4.0), (1.0, 1.0), (2.0, 2.0))]
    found = verdict(taken, USUAL)
    assert sorted(found.kept) == [1.0, 2.0] and not found.quiet and found.set_aside == 1


def test_a_timing_of_an_earlier_run_counts() -> None:
    assert verdict([Taken(1.0)], math.nan).kept == (1.0,) and not Taken(1.0).disturbed(USUAL)


def test_spread_is_that_of_the_passes() -> None:
    assert verdict(some(1.0), USUAL).spread == 0.01  # of a single one, that of its repeats
    assert half_range([1.0, 3.0]) == 1.0 and half_range([2.0]) == 0.0
    assert half_range([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(1.0)


def test_more_passes_are_wanted_until_they_agree_or_there_are_enough() -> None:
    assert unsettled(some(1.0, 1.0), USUAL)  # too few
    assert not unsettled(some(*[1.0] * PASSES), USUAL)
    assert unsettled(some(1.0, 1.5, 2.0), USUAL)
    assert unsettled([*some(1.0, 1.0), *some(1.0, reference=BUSY)], USUAL)
    assert not unsettled(some(*(1.0 + i for i in range(MOST))), USUAL)


def test_ranks_meet_and_nobody_waits_for_one_that_has_gone(tmp_path: Path) -> None:
    file = Meeting.prepared(tmp_path / "meeting", 2)
    with Meeting(file, 0, 2) as alone:
        assert not alone.meet()  # the other has not come in time
    with Meeting(file, 1, 2) as late:
        assert late.meet()  # and finds that the first was there


def test_every_case_is_timed_in_every_pass_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from simulator.calibration import runner
    from simulator.calibration.cases import optimizer_cases
    from simulator.calibration.timing import Timing

    cases, seen = list(optimizer_cases([1 << p for p in range(4, 10)])), list[str]()

    def timed(case: Any, *_: object) -> Timing:
        seen.append(case.label)
        # One case is never twice the same, so it is timed again and again; the others are settled.
        return Timing(float(len(seen)) if case is cases[3] else 1.0, 0.0, 3)

    monkeypatch.setattr(runner, "time_case", timed)
    monkeypatch.setattr(runner.Machine, "look", lambda self: 1.0)
    outcome = runner.run_cases(cases, "cpu", 30.0)
    labels = [case.label for case in cases]
    assert seen[: len(cases)] == labels
    passes = [seen[i * len(cases) : (i + 1) * len(cases)] for i in range(PASSES)]
    assert all(sorted(one) == sorted(labels) for one in passes) and passes[1] != labels
    assert seen[PASSES * len(cases) :] == [labels[3]] * (MOST - PASSES)
    assert outcome.passes == Counter({PASSES: len(cases) - 1, MOST: 1}) and not outcome.report()
    again = list(seen)
    seen.clear()
    runner.run_cases(cases, "cpu", 30.0)
    assert seen == again  # the same seed, the same order
