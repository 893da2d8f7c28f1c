"""The seam of power: who yields when what runs behind a feeder would draw more than it can bring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["FeederView", "Levels", "PowerSharing"]

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
