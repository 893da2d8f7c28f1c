"""Runs microbenchmarks within a time budget; can be interrupted and resumed, and says what it left out.

What disturbs one repeat of a short kernel disturbs the next ones as well. Kernels that never had the machine to
themselves, or whose repeats disagree, are therefore timed again when all others have been, as far as the budget goes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from simulator.calibration.caches import Kernel
from simulator.calibration.cases import Case
from simulator.calibration.timing import Timing, measure
from simulator.calibration.torch_setup import synchronize
from simulator.cost.kernel_table import Row, read_rows, write_rows

__all__ = ["Outcome", "run_cases"]

CASE_SECONDS = 0.25
"""Seconds for one case at most, however large the budget."""
FIRST_SHARE = 0.85
"""Share of the budget for timing everything once; the rest is for what was disturbed."""
DOUBTFUL = 0.10
"""Relative spread above which a kernel is timed again."""
SETUP_SHARE = 0.5
"""Share of a case's time that goes to making its tensors and warming up, as seen on CPUs and GPUs."""


@dataclass
class Outcome:
    """What a run measured and what it did not.

    Attributes
    ----------
    rows
        Measured kernels.
    skipped
        Cases without a time, by group.
    disturbed
        Kernels that were timed while other processes ran, however often they were tried.
    failed
        Label → why a kernel could not run here (a type or shape that the device does not have).
    interrupted
        Whether the user stopped it.
    """

    rows: list[Row] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    disturbed: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    def report(self) -> list[str]:
        """What is missing, one line each; empty when all was measured."""
        lines = [f"skipped {n} of group {group}: the time budget ran out" for group, n in self.skipped.items() if n]
        reasons = Counter(self.failed.values())
        if self.disturbed:
            lines.append(
                f"{self.disturbed} of {len(self.rows)} kernels were timed while other processes ran: expect more error"
            )
        return lines + [f"{n} kernels do not run here: {reason}" for reason, n in reasons.most_common(5)]


def run_cases(
    cases: Sequence[Case],
    device: str,
    budget: float,
    partial: Path | None = None,
    resume: bool = False,
    progress: Callable[[int, int, str], None] = lambda done, all_, what: None,
    timer: Callable[[], float] = time.perf_counter,
) -> Outcome:
    """Time ``cases`` on ``device``.

    Parameters
    ----------
    budget
        Seconds in all. A case costs what is left divided by the cases that are left, within limits.
    partial
        Where rows are kept while it runs, so that an interrupted run loses nothing.
    resume
        Start from what ``partial`` holds.
    progress
        Told (cases done, all cases, what runs now).
    timer
        What kernels are timed with; the budget is always one of wall time.
    """
    run = _Run(device, budget, partial, timer)
    known: set[str] = set()
    if resume and partial is not None and partial.is_file():
        run.known = read_rows(partial)
        known = {_label(row) for row in run.known}
    pending = [case for case in cases if case.label not in known]
    done, whole = len(cases) - len(pending), len(cases)
    try:
        run.once(pending, lambda index, what: progress(done + index, whole, what))
        run.again(lambda what: progress(whole, whole, what))
    except KeyboardInterrupt:
        run.interrupted = True
    run.save()
    timed = {case.label for case, _ in run.timings}
    skipped = Counter(c.group for c in pending if c.label not in timed and c.label not in run.failed)
    disturbed = sum(not timing.quiet for _, timing in run.timings)
    return Outcome(run.rows(), skipped, disturbed, run.failed, run.interrupted)


class _Run:
    """What was timed so far, and the time that is left."""

    def __init__(self, device: str, budget: float, partial: Path | None, timer: Callable[[], float]) -> None:
        self.device, self.budget, self.partial, self.timer = device, budget, partial, timer
        self.start = time.perf_counter()
        self.known: list[Row] = []
        self.timings: list[tuple[Case, Timing]] = []
        self.failed: dict[str, str] = {}
        self.interrupted = False

    def left(self, share: float = 1.0) -> float:
        """Seconds left of this share of the budget."""
        return share * self.budget - (time.perf_counter() - self.start)

    def rows(self) -> list[Row]:
        """Rows of an earlier run, and of this one."""
        return [*self.known, *(Row(case.work, timing.seconds, timing.spread) for case, timing in self.timings)]

    def save(self) -> None:
        """Keep the rows for a later run."""
        if self.partial is not None:
            write_rows(self.partial, self.rows())

    def once(self, pending: Sequence[Case], told: Callable[[int, str], None]) -> None:
        """Time every case, as many as fit."""
        for index, case in enumerate(pending):
            if self.left(FIRST_SHARE) <= 0:
                return
            told(index, f"{case.group} {case.work.operator} {case.work.dtype}")
            found = self.time(case, self.left(FIRST_SHARE) / (len(pending) - index))
            if found is not None:
                self.timings.append((case, found))
            if index % 50 == 49:
                self.save()

    def again(self, told: Callable[[str], None]) -> None:
        """Time those that were disturbed once more, the worst first; what comes out better is kept."""
        doubtful = _doubtful(self.timings)
        for number, place in enumerate(doubtful):
            if self.left() <= 0:
                return
            case, first = self.timings[place]
            told(f"again {case.group} {case.work.operator} {case.work.dtype}")
            second = self.time(case, self.left() / (len(doubtful) - number))
            if second is not None:
                self.timings[place] = (case, max(first, second, key=lambda t: (t.quiet, -t.spread)))

    def time(self, case: Case, share: float) -> Timing | None:
        """Time a case in ``share`` seconds with its set-up; None if it does not run here."""
        try:
            return _time(case, self.device, min(CASE_SECONDS, share * (1 - SETUP_SHARE)), self.timer)
        except (RuntimeError, NotImplementedError, TypeError, MemoryError) as error:
            self.failed[case.label] = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
            return None


def _doubtful(timings: Sequence[tuple[Case, Timing]]) -> list[int]:
    """Places of the timings to be repeated: the disturbed ones first, then those whose repeats disagree most."""
    places = [i for i, (_, timing) in enumerate(timings) if not timing.quiet or timing.spread > DOUBTFUL]
    return sorted(places, key=lambda i: (timings[i][1].quiet, -timings[i][1].spread))


def _time(case: Case, device: str, share: float, timer: Callable[[], float]) -> Timing:
    kernel = case.build(device)
    return measure(kernel.run, lambda: synchronize(device), budget=share, clock=timer, prepare=kernel.prepare)


def _label(row: Row) -> str:
    return Case("", row.work, _never).label


def _never(device: str) -> Kernel:
    raise AssertionError("a row of a table cannot be run")
