"""Times of one callable: warmed up, repeated, as median and spread.

A repeat in which a thread of this process had to wait for a processor says how busy the machine is, not how long the
call takes: with two threads, the one that runs spins at the next barrier until the other is back. What the threads
waited is taken off every repeat, and repeats that waited more than a little are set aside as long as there are others.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simulator.calibration.waiting import LONG, Waiting
from simulator.errors import ConfigError, unknown_name

__all__ = ["CLOCKS", "QUIET", "WOKEN", "Timing", "alone", "measure", "summary", "the_clock"]

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""``cpu`` counts the seconds that the process ran: on a busy machine, what a quiet one would take. One thread only."""


def the_clock(name: str, threads: int) -> Callable[[], float]:
    """A clock by name.

    Raises
    ------
    ConfigError
        If there is no such clock, or it would add up the time of several threads.
    """
    if name not in CLOCKS:
        raise ConfigError(unknown_name("clock", name, CLOCKS))
    if name == "cpu" and threads != 1:
        raise ConfigError("--clock cpu adds up the seconds of all threads: use it with --threads 1")
    return CLOCKS[name]


QUIET = 0.02
"""Share of a call's time that its threads may have waited for a processor."""
WOKEN = 30e-6
"""Seconds that may pass beside it until a sleeping thread runs again, as on an idle machine."""

MOST_TRIES = 2
"""Repeats and seconds at most, of those wanted: a machine that is never free is not waited for."""


@dataclass(frozen=True)
class Timing:
    """What repeats of one call took.

    Attributes
    ----------
    seconds, spread
        Median of those that count, and half their interquartile range over it.
    repeats
        How many count.
    disturbed
        How many had to wait.
    quiet
        Whether enough did not, so that those that had to were set aside.
    """

    seconds: float
    spread: float
    repeats: int
    disturbed: int = 0
    quiet: bool = True


def measure(
    call: Callable[[], object],
    synchronize: Callable[[], None] = lambda: None,
    budget: float = 0.15,
    repeats: int = 15,
    least: int = 5,
    clock: Callable[[], float] = time.perf_counter,
    prepare: Callable[[], object] | None = None,
) -> Timing:
    """Time ``call``.

    Parameters
    ----------
    call
        What to time; it is called once or twice before anything counts.
    synchronize
        Waits for work that ``call`` only started (a GPU's queue).
    budget
        Seconds to spend at most, apart from the least number of repeats.
    repeats, least
        Samples wanted and needed. Calls shorter than 50 µs are timed in batches, so that the clock does not count.
    clock
        Seconds; for tests.
    prepare
        Done before each call and not counted, but part of the budget; calls are then timed one by one.
    """
    once, whole = _warmed(call, synchronize, clock, prepare)
    batch = max(1, min(200, round(50e-6 / once))) if prepare is None else 1
    wanted = max(least, min(repeats, int(budget / (whole * batch))))
    samples: list[tuple[float, float]] = []  # seconds, and the share of them that was waited
    quiet: list[float] = []
    begin, most = clock(), MOST_TRIES * wanted
    with Waiting(once * batch, clock is not time.process_time) as waiting:
        while len(quiet) < wanted and len(samples) < (most if clock() - begin < MOST_TRIES * budget else wanted):
            if prepare is not None:
                prepare()
            before, start = waiting.seconds(), clock()
            for _ in range(batch):
                call()
            synchronize()
            took, waited = clock() - start, waiting.seconds() - before
            samples.append((alone(took, waited) / batch, waited / took))
            if waited <= QUIET * took + WOKEN:
                quiet.append(samples[-1][0])
    return summary(samples, quiet, least)


def _warmed(
    call: Callable[[], object],
    synchronize: Callable[[], None],
    clock: Callable[[], float],
    prepare: Callable[[], object] | None,
) -> tuple[float, float]:
    """Seconds of the second call, alone and with what prepares it; a long one is warm after the first."""
    once, whole = 0.0, 0.0
    for _ in range(2):
        begin = clock()
        if prepare is not None:
            prepare()
        start = clock()
        call()
        synchronize()
        end = clock()
        once, whole = max(end - start, 1e-9), max(end - begin, 1e-9)
        if once > LONG:
            break
    return once, whole


def alone(took: float, waited: float) -> float:
    """Seconds that a call would have taken if none of its threads had waited; at least half of what it took.

    60 steps of a GPT at a load of 10: 125 to 190 ms, without what their threads waited (20 to 52 ms) half of them
    between 131 and 137 ms.
    """
    return max(took - waited, took / 2)


def summary(samples: Sequence[tuple[float, float]], quiet: Sequence[float], least: int) -> Timing:
    """Median of the quiet samples; of too few of them, that of the ``least`` that waited the smallest share.

    Parameters
    ----------
    samples
        Seconds of each repeat, and what it waited as a share.
    quiet
        Seconds of the repeats that did not wait.
    """
    counted, enough = list(quiet), len(quiet) >= least
    if not enough:
        counted = [seconds for seconds, _ in sorted(samples, key=lambda s: s[1])[:least]]
    middle = statistics.median(counted)
    low, _, high = statistics.quantiles(counted, n=4) if len(counted) > 1 else (middle, middle, middle)
    spread = (high - low) / 2 / middle if middle > 0 else 0.0
    return Timing(middle, spread, len(counted), len(samples) - len(quiet), enough)
