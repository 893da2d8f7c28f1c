"""Repeats on a machine that others use too: what waited is known, taken off, and set aside where it can be."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from simulator.calibration import timing
from simulator.calibration.timing import alone, measure, summary
from simulator.calibration.waiting import Waiting


def scripted(monkeypatch: pytest.MonkeyPatch, calls: list[tuple[float, float]]) -> Any:
    """A call that takes and waits what ``calls`` says, one after the other, and the clock that sees it."""
    now, waited, left = [0.0], [0.0], list(calls)

    class Told:
        def __init__(self, length: float = 0.0, watch: bool = True) -> None:
            pass

        def __enter__(self) -> Told:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def seconds(self) -> float:
            return waited[0]

    def call() -> None:
        took, lost = left.pop(0)
        now[0] += took
        waited[0] += lost

    monkeypatch.setattr(timing, "Waiting", Told)
    return call, lambda: now[0]


def test_repeats_that_waited_are_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [(0.1, 0.0), (0.1, 0.0), (0.9, 0.5), (0.1, 0.0), (0.8, 0.4), (0.1, 0.0)]
    call, clock = scripted(monkeypatch, calls)
    found = measure(call, budget=1.0, repeats=3, least=3, clock=clock)
    assert found.seconds == pytest.approx(0.1) and found.quiet
    assert (found.repeats, found.disturbed) == (3, 2)


def test_where_none_was_quiet_the_waiting_is_taken_off_the_least_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [(0.2, 0.1), (0.15, 0.05), (0.2, 0.1), (0.14, 0.04), (0.3, 0.2), (0.13, 0.03), (0.4, 0.2)]
    call, clock = scripted(monkeypatch, calls)
    found = measure(call, budget=1.0, repeats=3, least=3, clock=clock)
    assert found.seconds == pytest.approx(0.1) and not found.quiet
    assert (found.repeats, found.disturbed) == (3, 6)  # twice the number wanted is tried, not more


def test_waiting_never_takes_off_more_than_half() -> None:
    assert alone(1.0, 0.2) == pytest.approx(0.8)
    assert alone(1.0, 3.0) == pytest.approx(0.5)  # two threads that waited at the same time


def test_a_single_repeat_has_no_spread() -> None:
    assert summary([(2.0, 0.0)], [2.0], 1).spread == 0.0


@pytest.mark.skipif(not Path("/proc/self/schedstat").is_file(), reason="this system does not count waiting")
def test_threads_that_share_one_processor_wait_for_each_other() -> None:
    allowed = os.sched_getaffinity(0)
    stop = threading.Event()
    data = os.urandom(1 << 22)

    def busy() -> None:
        import hashlib

        while not stop.is_set():
            hashlib.sha256(data).digest()  # releases the interpreter's lock

    thread = threading.Thread(target=busy)
    os.sched_setaffinity(0, {min(allowed)})
    thread.start()
    try:
        with Waiting() as waiting:
            before = waiting.seconds()
            for _ in range(60):
                import hashlib

                hashlib.sha256(data).digest()
            assert waiting.seconds() > before
    finally:
        stop.set()
        thread.join()
        os.sched_setaffinity(0, allowed)
    with Waiting(watch=False) as nothing:
        assert nothing.seconds() == 0.0


def test_a_busy_machine_is_not_waited_for_longer_than_twice_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    call, clock = scripted(monkeypatch, [(0.4, 0.1)] * 20)
    found = measure(call, budget=0.5, repeats=3, least=3, clock=clock)
    assert (found.repeats, found.disturbed) == (3, 3)
