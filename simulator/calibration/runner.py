"""Runs microbenchmarks within a time budget; can be interrupted and resumed, and says what it left out."""

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
    failed
        Label → why a kernel could not run here (a type or shape that the device does not have).
    interrupted
        Whether the user stopped it.
    """

    rows: list[Row] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    def report(self) -> list[str]:
        """What is missing, one line each; empty when all was measured."""
        lines = [f"skipped {n} of group {group}: the time budget ran out" for group, n in self.skipped.items() if n]
        reasons = Counter(self.failed.values())
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
    outcome = Outcome()
    known: set[str] = set()
    if resume and partial is not None and partial.is_file():
        outcome.rows = read_rows(partial)
        known = {_label(row) for row in outcome.rows}
    pending = [case for case in cases if case.label not in known]
    start, done = time.perf_counter(), len(cases) - len(pending)
    for index, case in enumerate(pending):
        left = budget - (time.perf_counter() - start)
        if left <= 0:
            outcome.skipped.update(c.group for c in pending[index:])
            break
        progress(done + index, len(cases), f"{case.group} {case.work.operator} {case.work.dtype}")
        share = min(CASE_SECONDS, left / (len(pending) - index) * (1 - SETUP_SHARE))
        try:
            timing = _time(case, device, share, timer)
        except KeyboardInterrupt:
            outcome.interrupted = True
            outcome.skipped.update(c.group for c in pending[index:])
            break
        except (RuntimeError, NotImplementedError, TypeError, MemoryError) as error:
            outcome.failed[case.label] = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
            continue
        outcome.rows.append(Row(case.work, timing.seconds, timing.spread))
        if partial is not None and index % 50 == 49:
            write_rows(partial, outcome.rows)
    if partial is not None:
        write_rows(partial, outcome.rows)
    return outcome


def _time(case: Case, device: str, share: float, timer: Callable[[], float]) -> Timing:
    kernel = case.build(device)
    return measure(kernel.run, lambda: synchronize(device), budget=share, clock=timer, prepare=kernel.prepare)


def _label(row: Row) -> str:
    return Case("", row.work, _never).label


def _never(device: str) -> Kernel:
    raise AssertionError("a row of a table cannot be run")
