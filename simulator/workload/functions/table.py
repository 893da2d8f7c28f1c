"""Calls of functions by time of arrival."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError

__all__ = ["FunctionTable"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FunctionTable:
    """Calls in order of arrival, and the functions that are called.

    Attributes
    ----------
    arrival
        [calls], [s] from the begin of the table.
    function
        [calls], number of the function.
    duration
        [calls], execution without a cold start [s].
    names, owners
        [functions], name, and who pays.
    memory
        [functions], [B]; 0 where it is not known.
    source
        Where the calls are from.
    """

    arrival: Floats
    function: Ints
    duration: Floats
    names: tuple[str, ...]
    owners: tuple[str, ...]
    memory: Floats
    source: str = ""

    def __post_init__(self) -> None:
        if not len(self.arrival) == len(self.function) == len(self.duration):
            raise ValueError("arrival, function and duration are of different lengths")
        if len(self.arrival) and (np.diff(self.arrival) < 0).any():
            raise ValueError("calls are not in order of arrival")

    def __len__(self) -> int:
        return len(self.arrival)

    @property
    def span(self) -> float:
        """Time of the last arrival [s]."""
        return float(self.arrival[-1]) if len(self) else 0.0

    def head(self, count: int | None = None, until: float | None = None) -> FunctionTable:
        """The first calls, by number or up to a time [s]."""
        kept = len(self) if count is None else min(count, len(self))
        if until is not None:
            kept = min(kept, int(np.searchsorted(self.arrival, until, side="right")))
        cut = slice(kept)
        return replace(self, arrival=self.arrival[cut], function=self.function[cut], duration=self.duration[cut])


def by_arrival(
    arrival: Floats, function: Ints, duration: Floats, names: list[str], owners: list[str], memory: Floats, source: str
) -> FunctionTable:
    """A table of calls in any order; ties keep the order that they come in.

    Raises
    ------
    ConfigError
        If there are none.
    """
    if not len(arrival):
        raise ConfigError(f"{source or 'the trace'} has no calls")
    order = np.argsort(arrival, kind="stable")
    return FunctionTable(arrival[order], function[order], duration[order], tuple(names), tuple(owners), memory, source)
