"""Machines that come and go on the clock: by a list of changes, or each after a random life."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from simulator.workload.fleets import Instances

if TYPE_CHECKING:
    from simulator.engine.clock import Clock

__all__ = ["Machines"]


def _nothing(_: object) -> None:
    return None


class Machines:
    """Which machines of a deployment are there.

    Parameters
    ----------
    clock
        The one clock.
    asked
        What happens to them.
    count, accelerators
        Machines there may be, numbered from 0, and accelerators of each.
    seed
        Of which of them leave, and when.

    Attributes
    ----------
    staying
        Those that serve and have had no notice, sorted.
    leaving
        Those that serve and have, and when they go [s on the clock].
    on_change
        Called with what happened after a machine has become usable or has had its notice.
    on_gone
        Called with a machine that is gone.
    log
        (time since the start [s], machine, event, detail).
    """

    def __init__(self, clock: Clock, asked: Instances, count: int, accelerators: int, seed: int) -> None:
        self.clock, self.asked, self.count, self.accelerators = clock, asked, count, accelerators
        self.staying: list[int] = []
        self.leaving: dict[int, float] = {}
        self.on_change: Callable[[str], object] = _nothing
        self.on_gone: Callable[[int], object] = _nothing
        self.log: list[tuple[float, int, str, str]] = []
        self.revoked = 0
        self._random = np.random.Generator(np.random.PCG64([seed, 5]))
        self._coming: set[int] = set()
        self._since: dict[int, float] = {}
        self._paid = 0.0
        self._origin = clock.now

    def start(self) -> None:
        """The first ones are there; the others come and go from now on."""
        self._origin = self.clock.now
        for node in range(self.asked.initial):
            self._since[node] = self._origin
            self._usable(node)
        for time, change in self.asked.changes:
            self.clock.at(self._origin + time, lambda change=change: self._happens(change))  # type: ignore[misc]

    def paid(self, end: float) -> float:
        """Machine seconds from coming to going, up to ``end`` [s since the start]."""
        return self._paid + sum(max(0.0, end - (since - self._origin)) for since in self._since.values())

    def _happens(self, change: int) -> None:
        if change > 0:
            for _ in range(change):
                self._comes()
        else:
            count = min(-change, len(self.staying))
            chosen = self._random.choice(len(self.staying), count, replace=False) if count else ()
            self._notice([self.staying[i] for i in sorted(chosen)])

    def _comes(self) -> None:
        free = next((n for n in range(self.count) if n not in self._since), None)
        if free is None:
            return
        self._since[free] = self.clock.now
        self._coming.add(free)
        self._note(free, "instance ordered" if self.asked.startup else "instance there")
        self.clock.after(self.asked.startup, lambda: self._joined(free))

    def _joined(self, node: int) -> None:
        self._coming.discard(node)
        self._usable(node)
        if self.asked.startup:
            self._note(node, "instance there")
        self.on_change("instances joined")

    def _usable(self, node: int) -> None:
        self.staying = sorted([*self.staying, node])
        if self.asked.mean_life:
            life = float(self._random.exponential(self.asked.mean_life))
            self.clock.after(life, lambda: self._notice([node] if node in self.staying else []))

    def _notice(self, nodes: list[int]) -> None:
        end = self.clock.now + self.asked.grace
        for node in nodes:
            self.staying.remove(node)
            self.leaving[node] = end
            self.revoked += 1
            self._note(node, "instance revoked", f"{self.asked.grace:.6g} s of grace")
            self.clock.at(end, lambda node=node: self._goes(node))  # type: ignore[misc]
        if nodes:
            self.on_change("instances revoked")
        if self.asked.mean_life:
            for _ in nodes:
                self._comes()

    def _goes(self, node: int) -> None:
        del self.leaving[node]
        self._paid += self.clock.now - self._since.pop(node)
        self._note(node, "instance taken away")
        self.on_gone(node)

    def _note(self, node: int, event: str, detail: str = "") -> None:
        self.log.append((self.clock.now - self._origin, node, event, detail))
