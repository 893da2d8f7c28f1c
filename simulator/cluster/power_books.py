"""What feeders brought: energy by workload, power over time, and whose clocks were kept down for how long."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.cluster.power_loads import FULL, Load
from simulator.cluster.power_model import NodePower
from simulator.hardware.feeders import Feeder
from simulator.results.tables import Columns
from simulator.strategies.power_protocols import Levels
from simulator.units import format_quantity

__all__ = ["FeederBooks", "Held"]

_MOST_ROWS = 16_384
"""Of the series of all feeders together; then two neighbours become one."""

_SLACK = 1e-9


@dataclass
class Held:
    """A workload whose clocks a feeder lowered: for how long, the integral of their level, and beside whom."""

    seconds: float
    level_time: float
    others: set[str]


class FeederBooks:
    """Integrals over time.

    Parameters
    ----------
    feeders, nodes, begin
        What is fed, and since when [s].

    Attributes
    ----------
    energy
        Workload → what its devices drew beyond idling [J].
    """

    def __init__(self, feeders: Sequence[Feeder], nodes: NodePower, begin: float) -> None:
        self.feeders, self.nodes = feeders, nodes
        self.energy: dict[str, float] = defaultdict(float)
        self.held: dict[tuple[str, int], Held] = {}
        self._any_held: dict[str, float] = defaultdict(float)
        self._clock: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._binding: list[tuple[int, dict[str, float], set[str]]] = []
        self._devices: dict[str, tuple[float, float]] = {}
        self._floor = [FULL] * len(feeders)
        self._begin = self._noted = begin
        self._joules = np.zeros(len(nodes.idle))
        self._capped = np.zeros(len(feeders))
        self._over = np.zeros(len(feeders))
        self._most = np.zeros(len(feeders))
        self._total = np.zeros(len(feeders))
        self._rows: list[tuple[float, float, NDArray[np.float64], NDArray[np.float64], list[int]]] = []
        self._down: list[int] = [FULL] * len(feeders)

    def add(self, nodes: NDArray[np.int64], workload: str, joules: NDArray[np.float64]) -> None:
        """Devices of a workload drew so much beyond idling on these nodes."""
        np.add.at(self._joules, nodes, joules)
        self.energy[workload] += float(joules.sum())

    def set(
        self, loads: Sequence[Load], held: Sequence[tuple[int, Sequence[int]]], lowest: Levels, floor: list[int]
    ) -> None:
        """From now on these loads run at these levels; ``held`` are feeders with the loads they keep down."""
        self._floor = floor
        self._binding = []
        for number, kept in held:
            nodes = self.feeders[number].nodes
            behind = {
                x.workload
                for x in loads
                if x.activity.busy and ((x.nodes >= nodes.start) & (x.nodes < nodes.stop)).any()
            }
            levels: dict[str, float] = {}
            for i in kept:
                name, level = loads[i].workload, float(lowest[i])
                if loads[i].activity.busy:
                    levels[name] = min(levels.get(name, FULL), level)
            self._binding.append((number, levels, behind))
        found: dict[str, tuple[float, float]] = {}
        for load, level in zip(loads, lowest.tolist(), strict=True):
            if load.activity.busy:
                count, clocks = found.get(load.workload, (0.0, 0.0))
                devices = float(load.devices.sum())
                found[load.workload] = (count + devices, clocks + devices * level / FULL)
        self._devices = found

    def pass_by(self, span: float) -> None:
        """Things stayed as they are for ``span`` [s]."""
        self._down = [min(a, b) for a, b in zip(self._down, self._floor, strict=True)]
        for workload, (devices, clocks) in self._devices.items():
            books = self._clock[workload]
            books[0] += devices * span
            books[1] += clocks * span
        for number, levels, behind in self._binding:
            self._capped[number] += span
            for workload, level in levels.items():
                held = self.held.setdefault((workload, number), Held(0.0, 0.0, set()))
                held.seconds += span
                held.level_time += level * span
                held.others |= behind - {workload}
        for workload in {name for _, levels, _ in self._binding for name in levels}:
            self._any_held[workload] += span

    def held_up(self, workload: str) -> float:
        """Time in which any feeder kept clocks of it down [s]."""
        return self._any_held.get(workload, 0.0)

    def mean_clock(self, workload: str) -> float:
        """Over its devices and the time they had work, as share of the rated clock."""
        time, clocks = self._clock.get(workload, (0.0, 0.0))
        return clocks / time if time else 1.0

    def note(self, now: float) -> None:
        """A row of the series: the mean since the last one."""
        span, begin = now - self._noted, self._noted
        if span <= 0.0:
            return
        self._noted = now
        drawn = self._joules / span + self.nodes.idle
        watts = np.array([float(drawn[f.nodes.start : f.nodes.stop].sum()) for f in self.feeders])
        limits = np.array([f.limit for f in self.feeders])
        self._over += np.where(watts > limits * (1 + _SLACK), span, 0.0)
        self._most = np.maximum(self._most, watts)
        self._total += watts * span
        self._joules[:] = 0.0
        self._rows.append((begin, now, watts, watts, self._down))
        self._down = [FULL] * len(self.feeders)
        if len(self._rows) * len(self.feeders) > _MOST_ROWS:
            self._merge()

    def _merge(self) -> None:
        rows = self._rows
        merged = [_together(a, b) for a, b in zip(rows[::2], rows[1::2], strict=False)]
        self._rows = merged + rows[2 * len(merged) :]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Feeders that drew more than they may."""
        found = []
        for number, feeder in enumerate(self.feeders):
            if self._over[number]:
                over, most = format_quantity(self._over[number], "time"), format_quantity(self._most[number], "power")
                found.append(
                    f"{feeder.name}: above its limit of {format_quantity(feeder.limit, 'power')} for {over}, up to "
                    f"{most}: clocks were at their lowest, or deployments drew more than at their last reading"
                )
        return tuple(found)

    def tables(self) -> dict[str, Columns]:
        """``feeders``, ``power`` over time and ``power_caps``."""
        span = self._noted - self._begin
        feeders, count = self.feeders, len(self.feeders)
        rated = [float(self.nodes.rating[f.nodes.start : f.nodes.stop].sum()) for f in feeders]
        mean = (self._total / span if span else np.full(count, np.nan)).tolist()
        found: dict[str, Columns] = {
            "feeders": {
                "feeder": [f.name for f in feeders], "nodes": [len(f.nodes) for f in feeders],
                "limit": [f.limit for f in feeders], "rating": rated, "power_mean": mean,
                "power_peak": self._most.tolist(), "energy": self._total.tolist(),
                "capped_time": self._capped.tolist(), "over_time": self._over.tolist(),
            },
            "power": {
                "time": [begin for begin, *_ in self._rows for _ in feeders],
                "until": [end for _, end, *_ in self._rows for _ in feeders],
                "feeder": [f.name for _ in self._rows for f in feeders],
                "power": [w for row in self._rows for w in row[2].tolist()],
                "power_peak": [w for row in self._rows for w in row[3].tolist()],
                "limit": [f.limit for _ in self._rows for f in feeders],
                "clock": [level / FULL for row in self._rows for level in row[4]],
            },
        }  # fmt: skip
        if self.held:
            rows = sorted(self.held.items(), key=lambda item: -item[1].seconds)
            found["power_caps"] = {
                "workload": [workload for (workload, _), _ in rows],
                "feeder": [feeders[number].name for (_, number), _ in rows],
                "limit": [feeders[number].limit for (_, number), _ in rows],
                "seconds": [held.seconds for _, held in rows],
                "clock": [held.level_time / held.seconds / FULL for _, held in rows],
                "shared_with": [", ".join(sorted(held.others)) for _, held in rows],
            }
        return found


_Row = tuple[float, float, NDArray[np.float64], NDArray[np.float64], list[int]]


def _together(a: _Row, b: _Row) -> _Row:
    """Two neighbours of the series as one."""
    begin, middle, end = a[0], a[1], b[1]
    mean = (a[2] * (middle - begin) + b[2] * (end - middle)) / (end - begin)
    return begin, end, mean, np.maximum(a[3], b[3]), [min(x, y) for x, y in zip(a[4], b[4], strict=True)]
