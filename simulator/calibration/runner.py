"""Runs microbenchmarks within a time budget; can be interrupted and resumed, and says what it left out.

What disturbs one repeat of a kernel disturbs the next ones as well, and a machine shared with others is slower for
seconds at a time. So kernels are timed in several passes over all of them, each time built anew, in another order: the
moments of one kernel lie a third of the budget apart. Its time is the median of its passes, its spread how far they
lie apart; those that were disturbed, or whose passes disagree, get more passes in the time that is left
(:mod:`simulator.calibration.passes`).
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from simulator.calibration.caches import Kernel
from simulator.calibration.cases import Case
from simulator.calibration.passes import PASSES, Machine, Taken, Verdict, unsettled, verdict
from simulator.calibration.timing import Timing, measure
from simulator.calibration.torch_setup import synchronize
from simulator.cost.kernel_table import Row, read_rows, write_rows

__all__ = ["Outcome", "run_cases", "time_case"]

CASE_SECONDS = 0.25
"""Seconds for one pass of one case at most, however large the budget."""
ROUNDS_SHARE = 0.8
"""Share of the budget for the passes over everything; the rest is for what is not settled then."""
SETUP_SHARE = 0.5
"""Share of a case's time that goes to making its tensors and warming up, as seen on CPUs and GPUs."""
REPEATS, LEAST = 11, 3
"""Repeats of a kernel in one pass, wanted and needed."""
SAVE_EVERY = 100
"""Passes of kernels after which everything is kept for a later run."""


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
    passes
        Timings by number of passes that count.
    set_aside
        Passes that do not count, because the machine was disturbed.
    drift
        How much slower the reference kernel was at the end than at the beginning, relative.
    """

    rows: list[Row] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    disturbed: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    passes: Counter[int] = field(default_factory=Counter)
    set_aside: int = 0
    drift: float = 0.0

    def report(self) -> list[str]:
        """What is missing, one line each; empty when all was measured."""
        lines = [f"skipped {n} of group {group}: the time budget ran out" for group, n in self.skipped.items() if n]
        reasons = Counter(self.failed.values())
        few = sum(n for passes, n in self.passes.items() if passes < PASSES)
        if few:
            lines.append(
                f"{few} of {len(self.rows)} kernels were timed in fewer than {PASSES} passes: give more --budget"
            )
        if self.disturbed:
            lines.append(
                f"{self.disturbed} of {len(self.rows)} kernels were timed while other processes ran: expect more error"
            )
        return lines + [f"{n} kernels do not run here: {reason}" for reason, n in reasons.most_common(5)]

    def how(self) -> str:
        """How it was measured, in one line."""
        counted = ", ".join(f"{n} in {passes}" for passes, n in sorted(self.passes.items()))
        return (
            f"kernels by passes: {counted}; {self.set_aside} passes set aside; the reference kernel took "
            f"{1 + self.drift:.2f} times as long at the end as at the beginning"
        )


def run_cases(
    cases: Sequence[Case],
    device: str,
    budget: float,
    partial: Path | None = None,
    resume: bool = False,
    progress: Callable[[int, int, str], None] = lambda done, all_, what: None,
    timer: Callable[[], float] = time.perf_counter,
    seed: int = 0,
    meet: Callable[[], object] | None = None,
    machine: Machine | None = None,
) -> Outcome:
    """Time ``cases`` on ``device``.

    Parameters
    ----------
    budget
        Seconds in all. A case costs what is left of a pass divided by the cases that are left, within limits.
    partial
        Where timings are kept while it runs, so that an interrupted run loses nothing.
    resume
        Start from what ``partial`` holds.
    progress
        Told (passes of cases done, all of them, what runs now).
    timer
        What kernels are timed with; the budget is always one of wall time.
    seed
        Of the orders of the passes. The first goes in the order of ``cases``.
    meet
        Done last before every run of a kernel: ranks that run it at the same time wait for each other.
    machine
        Reference that was looked at before.
    """
    run = _Run(cases, device, budget, partial, timer, meet, machine or Machine(device))
    if resume and partial is not None and partial.is_file():
        run.know(read_rows(partial))
    whole = PASSES * len(cases)
    try:
        run.rounds(lambda done, what: progress(done, whole, what), seed)
        run.settle(lambda what: progress(whole, whole, what))
    except KeyboardInterrupt:
        run.interrupted = True
    run.save()
    return run.outcome()


class _Run:
    """What was timed so far, and the time that is left."""

    def __init__(
        self,
        cases: Sequence[Case],
        device: str,
        budget: float,
        partial: Path | None,
        timer: Callable[[], float],
        meet: Callable[[], object] | None,
        machine: Machine,
    ) -> None:
        self.cases, self.device, self.budget, self.partial = cases, device, budget, partial
        self.timer, self.meet, self.machine = timer, meet, machine
        self.start = time.perf_counter()
        self.taken: dict[str, list[Taken]] = {case.label: [] for case in cases}
        self.failed: dict[str, str] = {}
        self.interrupted = False
        self._unsaved = 0

    def know(self, rows: Sequence[Row]) -> None:
        """Start from the passes of an earlier run."""
        for row in rows:
            self.taken.setdefault(_label(row), []).append(Taken(row.seconds, row.spread))

    def left(self, share: float = 1.0) -> float:
        """Seconds left of this share of the budget."""
        return share * self.budget - (time.perf_counter() - self.start)

    def save(self) -> None:
        """Keep every pass for a later run."""
        self._unsaved = 0
        if self.partial is not None:
            works = {case.label: case.work for case in self.cases}
            passes = ((works[label], one) for label, some in self.taken.items() for one in some if label in works)
            write_rows(self.partial, [Row(work, one.seconds, one.spread) for work, one in passes])

    def rounds(self, told: Callable[[int, str], None], seed: int) -> None:
        """Time every case once in each pass; a pass begins when the one before has ended."""
        for number in range(PASSES):
            pending = [case for case in self.cases if len(self.taken[case.label]) <= number]
            if number:
                random.Random(f"{seed} {number}").shuffle(pending)
            until = ROUNDS_SHARE * (number + 1) / PASSES
            for index, case in enumerate(pending):
                if self.left(ROUNDS_SHARE) <= 0:
                    return
                told((number + 1) * len(self.cases) - len(pending) + index, _named(case))
                self.time(case, self.left(until) / (len(pending) - index))

    def settle(self, told: Callable[[str], None]) -> None:
        """Time those that were disturbed or whose passes disagree once more, the worst first, as often as fits."""
        while self.left() > 0:
            usual = self.machine.usual
            doubtful = [c for c in self.cases if self.taken[c.label] and unsettled(self.taken[c.label], usual)]
            doubtful.sort(key=lambda c: -verdict(self.taken[c.label], usual).doubt)
            if not doubtful:
                return
            for index, case in enumerate(doubtful):
                if self.left() <= 0:
                    return
                told(f"again {_named(case)}")
                self.time(case, self.left() / (len(doubtful) - index))

    def time(self, case: Case, share: float) -> None:
        """Time a case in about ``share`` seconds with its set-up, the reference kernel before and after."""
        if case.label in self.failed:
            return
        seconds = min(CASE_SECONDS, share * (1 - SETUP_SHARE))
        try:
            run = partial(time_case, case, self.device, seconds, self.timer, self.meet)
            found = Taken.of(*self.machine.beside(run))
        except (RuntimeError, NotImplementedError, TypeError, MemoryError) as error:
            self.failed[case.label] = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
            return
        self.taken[case.label].append(found)
        self._unsaved += 1
        if self._unsaved >= SAVE_EVERY:
            self.save()

    def verdicts(self) -> Iterator[tuple[Case, Verdict]]:
        """What the passes of every timed case say."""
        usual = self.machine.usual
        for case in self.cases:
            if self.taken[case.label]:
                yield case, verdict(self.taken[case.label], usual)

    def outcome(self) -> Outcome:
        """What was measured and what was not."""
        found = list(self.verdicts())
        timed = {case.label for case, _ in found}
        skipped = Counter(c.group for c in self.cases if c.label not in timed and c.label not in self.failed)
        rows = [Row(case.work, one.seconds, one.spread) for case, one in found]
        return Outcome(
            rows, skipped, sum(not one.quiet for _, one in found), self.failed, self.interrupted,
            Counter(one.counted for _, one in found), sum(one.set_aside for _, one in found), self.machine.drift,
        )  # fmt: skip


def time_case(
    case: Case,
    device: str,
    seconds: float,
    timer: Callable[[], float] = time.perf_counter,
    meet: Callable[[], object] | None = None,
) -> Timing:
    """One pass of one case, built anew."""
    kernel = case.build(device)
    prepare = kernel.prepare if meet is None else _then(kernel.prepare, meet)
    with kernel.mode():
        return measure(kernel.run, lambda: synchronize(device), seconds, REPEATS, LEAST, clock=timer, prepare=prepare)


def _then(first: Callable[[], object] | None, second: Callable[[], object]) -> Callable[[], None]:
    def both() -> None:
        if first is not None:
            first()
        second()

    return both


def _named(case: Case) -> str:
    return f"{case.group} {case.work.operator} {case.work.dtype}"


def _label(row: Row) -> str:
    return Case("", row.work, _never).label


def _never(device: str) -> Kernel:
    raise AssertionError("a row of a table cannot be run")
