"""The books of a job queue: what was at work, what lay idle beside waiting jobs, and how both went over time."""

from __future__ import annotations

from array import array

__all__ = ["QueueBooks"]

_KEPT = 4096
"""Samples that are kept at most: when there are as many, every second one is dropped."""


class QueueBooks:
    """Integrals over time, and samples whose number does not grow with it.

    Attributes
    ----------
    busy, available, fragmented
        Accelerator-seconds at work; there; and free while a job waited that needed no more than those.
    samples
        (time [s], jobs waiting, jobs running, accelerators at work, there, and asked for by waiting jobs), flat.
    """

    def __init__(self, now: float = 0.0) -> None:
        self.busy = self.available = self.fragmented = 0.0
        self.since = self.begin = now
        self.samples = array("d")
        self._every = self._seen = 1

    def integrate(self, now: float, busy: int, available: int, blocked: bool) -> None:
        """The time since the last call went by with these numbers."""
        elapsed = now - self.since
        if elapsed > 0.0:
            self.busy += busy * elapsed
            self.available += available * elapsed
            if blocked:
                self.fragmented += (available - busy) * elapsed
            self.since = now

    def sample(self, now: float, waiting: int, running: int, busy: int, available: int, asked: int) -> None:
        """Note the state, unless too many have been noted since the last one."""
        self._seen -= 1
        if self._seen > 0:
            return
        self._seen = self._every
        self.samples.extend((now, waiting, running, busy, available, asked))
        if len(self.samples) >= 6 * _KEPT:
            rows = [self.samples[i : i + 6] for i in range(0, len(self.samples), 12)]
            self.samples = array("d", (value for row in rows for value in row))
            self._every *= 2

    def rows(self) -> list[tuple[float, ...]]:
        """The samples."""
        return [tuple(self.samples[i : i + 6]) for i in range(0, len(self.samples), 6)]
