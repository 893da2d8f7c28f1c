"""Feeders on the clock: what everything behind them draws, whose clocks yield, and what it came to.

Whenever work starts, stops or is read, the clocks are found anew from the rated ones: feeder by feeder, the smallest
first, the registered policy lowers clocks until the feeder keeps its limit. So power that becomes free is given out
again at once. Draw is that of the nodes; the network between them has feeders of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.cluster.power_books import FeederBooks
from simulator.cluster.power_loads import FULL, LOWEST, Activity, Load, PowerSource
from simulator.cluster.power_model import NodePower, Slots
from simulator.hardware.feeders import PowerBudgets
from simulator.hardware.types import Cluster
from simulator.registry import lookup
from simulator.results.tables import Columns
from simulator.strategies.power_protocols import FeederView, Levels, PowerSharing

if TYPE_CHECKING:
    from simulator.engine.clock import Clock

__all__ = ["PowerGrid"]


class PowerGrid:
    """Keeps the limits of feeders.

    Parameters
    ----------
    clock, cluster, budgets
        The one clock, the nodes, and what they are fed by.
    """

    def __init__(self, clock: Clock, cluster: Cluster, budgets: PowerBudgets) -> None:
        self.clock, self.budgets = clock, budgets
        self.nodes = NodePower(cluster)
        self.sharing: PowerSharing = lookup("power_sharing", budgets.sharing)()
        self.books = FeederBooks(budgets.feeders, self.nodes, clock.now)
        self._sources: list[PowerSource] = []
        self._loads: list[Load] = []
        self._slots = Slots([], self.nodes)
        self._levels: Levels = np.zeros(0, np.int64)
        self._watts: NDArray[np.float64] = np.zeros(0)
        self._metered: NDArray[np.bool_] = np.zeros(0, bool)
        self._of_workload: dict[str, NDArray[np.bool_]] = {}
        self._looking = False
        self._since = clock.now
        self._read_at: dict[int, float] = {}

    # -- what others tell it -----------------------------------------------------------------------------------------

    def add(self, source: PowerSource) -> None:
        """From now on a tenant draws power."""
        self._sources.append(source)
        self._read_at[id(source)] = self.clock.now

    def start(self) -> None:
        """Look for the first time, and from then on read what has to be read."""
        self.changed()
        if any(source.metered for source in self._sources):
            self.clock.after(self.budgets.interval, self._tick)

    def changed(self) -> None:
        """Something has begun or ended: look once at everything that happens at this instant."""
        if not self._looking:
            self._looking = True
            self.clock.after(0.0, self._look, late=True)

    def metered(self, workload: str) -> float | None:
        """What the devices of a workload drew beyond idling [J]; ``None`` where no feeder ever slowed it.

        What was never slowed is billed as without feeders.
        """
        self.close()
        return self.books.energy[workload] if self.books.held_up(workload) else None

    def columns(self, workload: str) -> dict[str, float]:
        """Of its row of the summary."""
        self.close()
        return {"capped_time": self.books.held_up(workload), "clock_mean": self.books.mean_clock(workload)}

    def close(self) -> None:
        """Bring the books up to now."""
        self._integrate()
        self._meter()
        self.books.note(self.clock.now)

    def tables(self) -> dict[str, Columns]:
        """Feeders, their power over time, and who was held up by which."""
        self.close()
        return self.books.tables()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Limits that were not kept."""
        return self.books.warnings

    # -- readings ----------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self.clock.after(0.0, self._read, late=True)

    def _read(self) -> None:
        """What deployments drew since the last reading says what they will draw until the next."""
        self._look(read=True)
        if self.clock.next_time < np.inf:
            self.clock.after(self.budgets.interval, self._tick)

    def _meter(self) -> None:
        now = self.clock.now
        for source in self._sources:
            span = now - self._read_at[id(source)]
            if not source.metered or span <= 0.0:
                continue
            self._read_at[id(source)] = now
            mine = [i for i, load in enumerate(self._loads) if load.workload == source.workload]
            for place, did in source.read(now).items():
                self._book_metered(mine[place], did, span)

    def _book_metered(self, load: int, did: Activity, span: float) -> None:
        slots = self._slots
        mine = slots.of == load
        watts = slots.drawn(mine, did, self._levels[mine])
        self.books.add(slots.node[mine], self._loads[load].workload, watts * span)

    # -- clocks ------------------------------------------------------------------------------------------------------

    def _look(self, read: bool = False) -> None:
        self._looking = False
        self._integrate()
        if read:
            self._meter()
        if read or not any(source.metered for source in self._sources):
            self.books.note(self.clock.now)
        everyone = [(source, load) for source in self._sources for load in source.loads()]
        loads = [load for _, load in everyone]
        slots = Slots(loads, self.nodes)
        levels, held = self._share(slots, loads)
        lowest = slots.lowest(levels)
        if any(s.metered and load.level != level for (s, load), level in zip(everyone, lowest.tolist(), strict=True)):
            self._meter()  # what was drawn so far was drawn at the old clocks
        self._loads, self._slots, self._levels = loads, slots, levels
        self._metered = np.array([source.metered for source, _ in everyone], bool)[slots.of]
        names = np.array([load.workload for load in loads])[slots.of]
        self._of_workload = {source.workload: names == source.workload for source in self._sources}
        for load, level in zip(loads, lowest.tolist(), strict=True):
            load.level = level
            load.follow(level)
        self._watts = slots.watts(levels, lowest)
        self.books.set(loads, held, lowest, self._floor_of(slots))

    def _floor_of(self, slots: Slots) -> list[int]:
        """Lowest level behind every feeder."""
        found = []
        for feeder in self.budgets.feeders:
            behind = (slots.node >= feeder.nodes.start) & (slots.node < feeder.nodes.stop)
            found.append(int(self._levels[behind].min(initial=FULL)))
        return found

    def _share(self, slots: Slots, loads: list[Load]) -> tuple[Levels, list[tuple[int, list[int]]]]:
        """Level of every slot, and for every feeder that had too little the loads whose clocks it lowered."""
        levels = np.full(len(slots.of), FULL, np.int64)
        held: list[tuple[int, list[int]]] = []
        urgency = np.array([self._urgency(load) for load in loads], np.int64)
        for number, feeder in enumerate(self.budgets.feeders):
            behind = slots.behind(feeder.nodes, levels)
            if behind is None or behind.draw(behind.top) <= feeder.limit * (1 + 1e-12):
                continue
            view = FeederView(
                feeder.limit * (1 + 1e-12), LOWEST, behind.top, urgency[behind.loads], behind.draw, behind.device
            )
            chosen = self.sharing.levels(view)
            held.append((number, behind.loads[chosen < behind.top].tolist()))
            levels[behind.slots] = np.minimum(levels[behind.slots], chosen[behind.of])
        return levels, held

    def _urgency(self, load: Load) -> int:
        serving = any(s.workload == load.workload and s.metered for s in self._sources)
        return self.budgets.urgency.get(load.workload, int(serving))

    def _integrate(self) -> None:
        """Book what was drawn since the last look, but for what is read."""
        span, self._since = self.clock.now - self._since, self.clock.now
        if span <= 0.0:
            return
        known = ~self._metered
        joules = self._watts * span
        for workload in dict.fromkeys(load.workload for load in self._loads):
            mine = known & self._of_workload[workload]
            if mine.any():
                self.books.add(self._slots.node[mine], workload, joules[mine])
        self.books.pass_by(span)
