"""What draws power behind feeders: devices of a workload that share one clock, and what slowing them does.

A load is described at the rated clock and by how much longer its work takes at a lower one. At a clock of share c
whose work takes s(c) times as long, devices are at work for min(1, busy·s) of the time and use compute/(s·c) of what
is left of their peak: what waits for memory, messages or requests draws less and loses less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["FULL", "LOWEST", "REST", "Activity", "Load", "PowerSource", "stretch_table"]

FULL = 100
"""Levels are percent of the rated clock."""

LOWEST = 20
"""Lowest level: an assumption. The relation of power and clock was not measured below about 60 %."""

_KNOTS = (20, 25, 30, 40, 50, 60, 70, 80, 90, 100)
"""Levels at which work is priced; between them its time is interpolated over 1/clock, in which compute is linear."""


class Activity(NamedTuple):
    """What devices do at the rated clock: share of the time at work, and of peak FLOP/s and bandwidth while at it."""

    busy: float
    compute: float
    memory: float


REST = Activity(0.0, 0.0, 0.0)


@dataclass
class Load:
    """Devices that run one thing at one clock: a training job, a gang of a queue, a replica.

    Attributes
    ----------
    workload
        Who pays.
    nodes, devices
        Its nodes in the whole cluster, and how many devices it has on each.
    stretch
        Level → how many times longer its work takes; asked only when a feeder has too little.
    follow
        Called with the level it runs at from now on, also when that is the one it had.
    activity, level
        As of now.
    """

    workload: str
    nodes: NDArray[np.int64]
    devices: NDArray[np.float64]
    stretch: Callable[[], NDArray[np.float64]]
    follow: Callable[[int], object]
    activity: Activity = REST
    level: int = FULL


class PowerSource(Protocol):
    """A tenant's loads."""

    workload: str
    metered: bool
    """Whether its activity is only known afterwards, by reading counters."""

    def loads(self) -> Sequence[Load]:
        """Those there are now."""

    def read(self, now: float) -> Mapping[int, Activity]:
        """Of a metered source: what each load (by its place in :meth:`loads`) did since the last reading, at the level
        it had; :meth:`loads` say from now on what is to be expected of it."""


def stretch_table(seconds: Callable[[int], float]) -> NDArray[np.float64]:
    """Times at every level of 0 .. 100 over that at the rated clock, from those at a few; NaN below the lowest."""
    levels = np.arange(FULL + 1, dtype=np.float64)
    taken = np.array([seconds(level) for level in _KNOTS])
    with np.errstate(divide="ignore"):
        found: NDArray[np.float64] = np.interp(-1.0 / levels, -1.0 / np.array(_KNOTS, np.float64), taken / taken[-1])
    found[:LOWEST] = np.nan
    return found
