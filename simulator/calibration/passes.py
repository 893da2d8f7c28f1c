"""Several timings of one thing at different moments: which of them count, and what they say together.

Before and after every timing a reference kernel runs: one product and one sum, of the same size every time. A timing
counts if the reference took at most a fifth longer than usual (the lower quartile of what it took so far) on both sides
and the threads of the process did not wait for a processor. Where fewer than two count, those with the fastest
references do. Nothing is scaled by the reference: it only says when the machine was disturbed, and how far it drifted.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from simulator.calibration.timing import Timing
from simulator.calibration.torch_setup import require_torch, synchronize

__all__ = ["PASSES", "Machine", "Taken", "Verdict", "half_range", "unsettled", "verdict"]

Result = TypeVar("Result")

PASSES = 3
"""Timings of everything."""
MOST = 9
"""Timings of one thing at most, however much they disagree."""
FEW = 2
"""Timings that count at least, disturbed or not."""
SLOWER = 1.2
"""Time of the reference over its usual one above which the machine counts as disturbed; where nobody else runs, nine of
ten are within 1.08."""
SETTLED = 0.05
"""Relative spread of the passes up to which no more are needed."""
SIDE, STREAM = 384, 1 << 22
"""Sizes of the reference: a product of that side in fp32 (0.4 ms at 300 GFLOP/s), a sum over so many numbers (0.7 ms at
24 GB/s)."""


@dataclass(frozen=True)
class Taken:
    """One timing: median and spread of its repeats, whether its threads did not wait, and the reference around it [s].

    The reference is NaN where nobody looked (a timing of an earlier, interrupted run).
    """

    seconds: float
    spread: float = 0.0
    quiet: bool = True
    reference: float = math.nan

    @classmethod
    def of(cls, timing: Timing, reference: float) -> Taken:
        """A timing with the reference around it."""
        return cls(timing.seconds, timing.spread, timing.quiet, reference)

    def disturbed(self, usual: float) -> bool:
        """Whether the machine was visibly slower than usual."""
        return not self.quiet or self.reference > SLOWER * usual


@dataclass(frozen=True)
class Verdict:
    """What the timings of one thing say together.

    Attributes
    ----------
    seconds, spread
        Median of those that count, and half their interquartile range over it (of one: that of its repeats).
    kept
        Those that count [s].
    set_aside
        How many do not.
    quiet
        Whether those that count were undisturbed.
    """

    seconds: float
    spread: float
    kept: tuple[float, ...]
    set_aside: int
    quiet: bool

    @property
    def counted(self) -> int:
        """How many timings count."""
        return len(self.kept)

    @property
    def doubt(self) -> float:
        """Larger for what should be timed again sooner."""
        return self.spread + (not self.quiet) + (self.counted < PASSES)


def verdict(taken: Sequence[Taken], usual: float) -> Verdict:
    """Median of the undisturbed timings; of fewer than two, that of the two with the fastest references."""
    counted = [one for one in taken if not one.disturbed(usual)]
    quiet = len(counted) >= min(FEW, len(taken))
    if not quiet:
        counted = sorted(taken, key=lambda one: (not one.quiet, one.reference))[:FEW]
    seconds = tuple(one.seconds for one in counted)
    middle = statistics.median(seconds)
    spread = counted[0].spread if len(counted) == 1 else half_range(seconds) / middle
    return Verdict(middle, spread, seconds, len(taken) - len(counted), quiet)


def half_range(values: Sequence[float]) -> float:
    """Half the interquartile range; of two values half their difference."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 if len(values) > 2 else (max(values) - min(values)) / 2


def unsettled(taken: Sequence[Taken], usual: float) -> bool:
    """Whether one more timing would help."""
    found = verdict(taken, usual)
    return len(taken) < MOST and (not found.quiet or found.counted < PASSES or found.spread > SETTLED)


class Machine:
    """The reference kernel on one device, and what it took so far."""

    def __init__(self, device: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self._device, self._clock = device, clock
        self._seen: list[float] = []
        self._run: Callable[[], object] | None = None

    def look(self) -> float:
        """Seconds of the reference now."""
        if self._run is None:
            self._run = _reference(self._device)
            self._run()
        start = self._clock()
        self._run()
        synchronize(self._device)
        self._seen.append(self._clock() - start)
        return self._seen[-1]

    def beside(self, run: Callable[[], Result]) -> tuple[Result, float]:
        """What ``run`` answers, and the reference before or after it, whichever took longer."""
        before = self.look()
        return run(), max(before, self.look())

    @property
    def usual(self) -> float:
        """Lower quartile of everything seen [s]; NaN before anything was."""
        if len(self._seen) < 2:
            return self._seen[0] if self._seen else math.nan
        return statistics.quantiles(self._seen, n=4, method="inclusive")[0]

    @property
    def drift(self) -> float:
        """Relative change of its median from the first third of what was seen to the last."""
        part = len(self._seen) // 3
        if not part:
            return 0.0
        return statistics.median(self._seen[-part:]) / statistics.median(self._seen[:part]) - 1


def _reference(device: str) -> Callable[[], object]:
    torch = require_torch()
    square, line = torch.ones(SIDE, SIDE, device=device), torch.ones(STREAM, device=device)
    return lambda: (square @ square, line.sum())
