"""Watts of many devices at once, by the relation of :mod:`simulator.hardware.power`, at any clocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from simulator.cluster.power_loads import FULL, Activity, Load
from simulator.hardware.limits import node_rating
from simulator.hardware.power import VOLTAGE_FLOOR, node_power
from simulator.hardware.types import Cluster
from simulator.strategies.power_protocols import Levels

__all__ = ["Behind", "NodePower", "Slots"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class NodePower:
    """Of every node of a cluster, what its draw depends on.

    Attributes
    ----------
    idle, room
        Draw without work [W], and what may come on top of it before the node's rating [W].
    reach, active, compute, memory
        Of one of its devices: peak minus idle [W], and what of it work draws at all, per share of peak FLOP/s and per
        share of memory bandwidth.
    clock, pace
        Rated clock as share of the profile's, and share of its speed that other burdens leave.
    base
        Draw of one device without work [W].
    """

    def __init__(self, cluster: Cluster) -> None:
        nodes = [group.node for group in cluster.groups for _ in range(group.count)]
        devices = [node.accelerator for node in nodes]
        self.idle = np.array([node_power(node, 0.0, active=0) for node in nodes])
        self.rating = np.array([node_rating(node) for node in nodes])
        self.room = np.maximum(0.0, self.rating - self.idle)
        self.reach = np.array([d.power.peak - d.power.idle for d in devices])
        self.base = np.array([d.power.idle for d in devices])
        shares = np.array([d.power.shares for d in devices], np.float64).reshape(-1, 3)
        self.active, self.compute, self.memory = shares.T
        self.clock, self.pace = np.array([d.clock for d in devices]), np.array([d.pace for d in devices])


def _dynamic_share(clock: Floats) -> Floats:
    return np.where(clock >= VOLTAGE_FLOOR, clock**3, VOLTAGE_FLOOR**2 * clock)


class Slots:
    """Devices by load and node, in the order of the loads.

    Attributes
    ----------
    of, node, devices
        Load, node and number of devices of every slot.
    """

    def __init__(self, loads: Sequence[Load], nodes: NodePower) -> None:
        self._loads, self._nodes = loads, nodes
        counts = [len(load.nodes) for load in loads]
        self.of = np.repeat(np.arange(len(loads)), counts)
        self.node: Ints = np.concatenate([load.nodes for load in loads]) if loads else np.zeros(0, np.int64)
        self.devices: Floats = np.concatenate([load.devices for load in loads]) if loads else np.zeros(0)
        self._starts = np.concatenate([[0], np.cumsum(counts)])[:-1].astype(np.int64)
        self._activity = np.array([load.activity for load in loads], np.float64).reshape(-1, 3).T

    @cached_property
    def _stretches(self) -> Floats:
        return np.array([load.stretch() for load in self._loads])

    def lowest(self, levels: Levels) -> Levels:
        """Lowest level of every load: all its devices go at the pace of the slowest."""
        return np.minimum.reduceat(levels, self._starts) if len(levels) else levels

    def per_device(self, slots: Ints, levels: Levels, pace: Levels) -> Floats:
        """Draw beyond idling of one device [W].

        Parameters
        ----------
        slots, levels
            Which, and their own clocks.
        pace
            Level of the slowest device of each one's load.
        """
        loads = self.of[slots]
        busy, compute, memory = self._activity[:, loads]
        if (pace < FULL).any():
            slow = self._stretches[loads, pace]
            busy, compute, memory = np.minimum(1.0, busy * slow), compute / slow, memory / slow
        return self._watts(slots, levels, busy, compute, memory)

    def _watts(self, slots: Ints, levels: Levels, busy: Floats, compute: Floats, memory: Floats) -> Floats:
        nodes, node = self._nodes, self.node[slots]
        clock = nodes.clock[node] * levels / FULL
        used = nodes.active[node] + nodes.compute[node] * compute / (clock * nodes.pace[node])
        used = np.clip(used + nodes.memory[node] * memory, 0.0, 1.0)
        found: Floats = nodes.reach[node] * busy * used * _dynamic_share(clock)
        return found

    def watts(self, levels: Levels, lowest: Levels) -> Floats:
        """Draw beyond idling of every slot [W]; what would exceed a node's rating is taken off all of it alike."""
        everything = np.arange(len(self.of))
        drawn = self.devices * self.per_device(everything, levels, lowest[self.of])
        total = np.bincount(self.node, drawn, len(self._nodes.idle)).astype(np.float64)  # of whole numbers if empty
        within = np.minimum(1.0, np.divide(self._nodes.room, total, out=np.ones_like(total), where=total > 0))
        found: Floats = drawn * within[self.node]
        return found

    def drawn(self, slots: NDArray[np.bool_], did: Activity, levels: Levels) -> Floats:
        """What slots of one load have drawn beyond idling while they did this at these levels [W]."""
        chosen = np.flatnonzero(slots)
        busy, compute, memory = (np.full(len(chosen), value) for value in did)
        watts = self.devices[chosen] * self._watts(chosen, levels, busy, compute, memory)
        found: Floats = np.minimum(watts, self._nodes.room[self.node[chosen]])
        return found

    def behind(self, nodes: range, levels: Levels) -> Behind | None:
        """What is behind a feeder of these nodes, ``None`` where nothing is."""
        inside = (self.node >= nodes.start) & (self.node < nodes.stop)
        slots = np.flatnonzero(inside)
        if not len(slots):
            return None
        loads, starts, of = np.unique(self.of[slots], return_index=True, return_inverse=True)
        elsewhere = self.lowest(np.where(inside, FULL, levels))[loads]
        top = np.maximum.reduceat(levels[slots], starts)
        return Behind(self, self._nodes, nodes, slots, loads, of, starts, levels[slots], elsewhere, top)


@dataclass(frozen=True)
class Behind:
    """Slots behind one feeder.

    Attributes
    ----------
    slots, loads, of
        Which slots, which loads these are of, and the place among ``loads`` of every slot's.
    top
        Highest level of every load there, as other feeders leave it.
    """

    everything: Slots
    power: NodePower
    nodes: range
    slots: Ints
    loads: Ints
    of: Ints
    starts: Ints
    levels: Levels
    elsewhere: Levels
    top: Levels

    def _per_device(self, wanted: Levels) -> Floats:
        levels = np.minimum(self.levels, wanted[self.of])
        pace = np.minimum(self.elsewhere, np.minimum.reduceat(levels, self.starts))
        return self.everything.per_device(self.slots, levels, pace[self.of])

    def draw(self, wanted: Levels) -> float:
        """Of all its nodes, with loads at no more than these levels [W]."""
        first, count = self.nodes.start, len(self.nodes)
        drawn = self.everything.devices[self.slots] * self._per_device(wanted)
        total = np.bincount(self.everything.node[self.slots] - first, drawn, count)
        here = slice(first, first + count)
        return float(np.minimum(total, self.power.room[here]).sum() + self.power.idle[here].sum())

    def device(self, wanted: Levels) -> Floats:
        """Of one device of every load [W]."""
        first = self.starts
        found: Floats = self.power.base[self.everything.node[self.slots[first]]] + self._per_device(wanted)[first]
        return found
