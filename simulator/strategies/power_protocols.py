"""The seam of power: who yields when what runs behind a feeder would draw more than it can bring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["FeederView", "Levels", "PowerSharing", "check_power_sharing"]

Levels = NDArray[np.int64]
"""Highest clock of every load, in percent of the rated one."""


@dataclass(frozen=True)
class FeederView:
    """What a policy sees of one feeder.

    Attributes
    ----------
    limit
        Most that may be drawn [W].
    lowest, highest
        Clocks there are, in percent; ``highest`` per load, as other feeders leave it.
    urgency
        Of every load: higher ones yield later.
    draw
        Levels → what everything behind the feeder then draws [W]; it never falls when a level rises.
    device
        Levels → what one device of each load then draws [W].
    """

    limit: float
    lowest: int
    highest: Levels
    urgency: NDArray[np.int64]
    draw: Callable[[Levels], float]
    device: Callable[[Levels], NDArray[np.float64]]


@runtime_checkable
class PowerSharing(Protocol):
    """Who yields behind a feeder that has too little power."""

    name: str

    def levels(self, view: FeederView) -> Levels:
        """Highest clock of every load, such that the feeder keeps its limit if any clocks there are keep it."""


def check_power_sharing(policy: PowerSharing) -> None:
    """Raise ``AssertionError`` where a policy breaks the seam.

    Loads whose draw is a straight line in their level, behind limits from plenty to far too little: levels there are,
    the limit kept if the lowest clocks keep it, no more than a level of every load left unused, equal again.
    """
    assert policy.name, "a policy has a name"
    watts, urgency = np.array([400.0, 200.0, 300.0]), np.array([0, 1, 0])
    lowest, full = 20, np.full(3, 100)

    def device(levels: Levels) -> NDArray[np.float64]:
        found: NDArray[np.float64] = watts * levels / 100
        return found

    def draw(levels: Levels) -> float:
        return float(device(levels).sum())

    for limit in (1000.0, 900.0, 700.0, 400.0, 250.0, 10.0):
        view = FeederView(limit, lowest, full, urgency, draw, device)
        levels = policy.levels(view)
        assert ((levels >= lowest) & (levels <= full)).all(), f"{policy.name} gave levels {levels}"
        assert (policy.levels(view) == levels).all(), f"{policy.name} changed its answer to the same question"
        if limit < draw(np.full(3, lowest)):
            assert (levels == lowest).all(), f"{policy.name} left clocks up at {limit} W"
            continue
        assert draw(levels) <= limit, f"{policy.name} draws {draw(levels)} of {limit} W"
        assert limit >= draw(full) or draw(levels) > limit - watts.sum() / 100, (
            f"{policy.name} wastes power at {limit} W"
        )
        assert limit < draw(full) or (levels == full).all(), f"{policy.name} lowers clocks though there is power"
