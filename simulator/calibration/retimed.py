"""Some kernels of a profile timed once more when it is verified: how far the machine has moved since it was measured.

The same benchmark runs the same kernels, so the difference is measured against measured: what the profile itself is off
by on this machine now, whatever is predicted from it.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simulator.calibration.caches import Kernel
from simulator.calibration.cases import Case, all_cases
from simulator.calibration.runner import time_case
from simulator.cost.kernel_table import Row, load_rows
from simulator.hardware.types import Accelerator

__all__ = ["Retimed", "by_group", "chosen", "compare_kernels", "retime"]

KERNELS = 30
"""How many are timed again."""
SECONDS = 0.03
"""For one of them in one pass, apart from its set-up."""


@dataclass(frozen=True)
class Retimed:
    """One kernel: its time in the profile and now [s]."""

    group: str
    profile: float
    now: float

    @property
    def ratio(self) -> float:
        """Relative difference now."""
        return self.now / self.profile - 1


def chosen(accelerator: Accelerator, device: str, count: int = KERNELS) -> list[tuple[Case, Row]]:
    """Kernels of the profile's table that the benchmarks of ``device`` have, evenly over their order; none without."""
    if not accelerator.kernel_table:
        return []
    known = {Case("", row.work, _nothing).label: row for row in load_rows(accelerator.kernel_table)}
    both = [(case, known[case.label]) for case in all_cases(device) if case.label in known]
    return [both[i * len(both) // count] for i in range(count)] if len(both) > count else both


def _nothing(device: str) -> Kernel:
    raise AssertionError("a row of a table cannot be run")


def retime(kernels: Sequence[tuple[Case, Row]], device: str, clock: Callable[[], float]) -> list[float]:
    """Seconds of each kernel now."""
    return [time_case(case, device, SECONDS, clock).seconds for case, _ in kernels]


def compare_kernels(kernels: Sequence[tuple[Case, Row]], passes: Sequence[Sequence[float]]) -> list[Retimed]:
    """The median of the passes beside the profile."""
    return [
        Retimed(case.group, row.seconds, statistics.median(seconds))
        for (case, row), *seconds in zip(kernels, *passes, strict=True)
    ]


def by_group(kernels: Sequence[Retimed]) -> dict[str, tuple[float, float]]:
    """Group, and ``all`` of them → median of the ratios and of their sizes."""
    groups: dict[str, list[float]] = defaultdict(list)
    for one in kernels:
        groups["all"].append(one.ratio)
        groups[one.group].append(one.ratio)
    return {name: (statistics.median(r), statistics.median(map(abs, r))) for name, r in groups.items()}
