"""Times of one callable: warmed up, repeated, as median and spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from simulator.errors import ConfigError, unknown_name

__all__ = ["CLOCKS", "Timing", "measure", "the_clock"]

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


@dataclass(frozen=True)
class Timing:
    """Median seconds of one call, relative spread (half the interquartile range over the median), and calls timed."""

    seconds: float
    spread: float
    repeats: int


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
    batch = max(1, min(200, round(50e-6 / once))) if prepare is None else 1
    wanted = max(least, min(repeats, int(budget / (whole * batch))))
    samples = []
    for _ in range(wanted):
        if prepare is not None:
            prepare()
        start = clock()
        for _ in range(batch):
            call()
        synchronize()
        samples.append((clock() - start) / batch)
    middle = statistics.median(samples)
    low, _, high = statistics.quantiles(samples, n=4) if len(samples) > 1 else (middle, middle, middle)
    return Timing(middle, (high - low) / 2 / middle if middle > 0 else 0.0, wanted)
