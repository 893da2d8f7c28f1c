"""Training jobs on shared links: what the steps of a job send over its real placement, and how they stretch.

A job that is alone keeps its step time, in which the links of its placement are priced. Its messages between scale-up
domains are put on the network as phases of a period (:mod:`simulator.network.periodic`); when links are shared with
other jobs, checkpoints or transfers, the step is executed again with slower messages, so what was hidden behind
computation stays hidden until it no longer fits.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Final

import numpy as np

from simulator.network.detours import NoWayError
from simulator.network.periodic import Phase
from simulator.training.link_phases import job_phases
from simulator.training.moves import Moves
from simulator.training.pipelined import PipelinedJob

if TYPE_CHECKING:
    from simulator.network.fabric import Fabric
    from simulator.results.tables import Columns

__all__ = ["SharedSteps", "contention_table", "step_stretch"]

_SLOWER: Final = tuple((1 + quarter / 4) * 2.0**octave for octave in range(11) for quarter in range(4))
"""Slow-downs at which a step is executed; between them its time, convex and piecewise linear, is interpolated."""


def step_stretch(pipeline: PipelinedJob, axes: Sequence[str]) -> Callable[[Sequence[float]], float]:
    """Step time over the undisturbed one as a function of the slow-down of the messages of each of ``axes``."""

    @cache
    def executed(at: tuple[int, ...]) -> float:
        alone = pipeline.slow
        slow = {**alone, **{axis: alone.get(axis, 1.0) * _SLOWER[i] for axis, i in zip(axes, at, strict=True)}}
        job = PipelinedJob(pipeline.job, pipeline.cluster, pipeline.scale, settled=True, slow=slow) if any(at) else None
        return (job or pipeline).run().seconds

    def stretch(slow: Sequence[float]) -> float:
        if any(math.isinf(s) for s in slow):
            return math.inf
        seconds = sum(weight * executed(corner) for corner, weight in _corners(slow))
        return seconds / executed((0,) * len(axes))

    return stretch


def _corners(slow: Sequence[float]) -> Iterator[tuple[tuple[int, ...], float]]:
    """Corners of the cell of the grid around a point and their weights; beyond the grid the last cell goes on."""
    below = [max(0, min(bisect_right(_SLOWER, s) - 1, len(_SLOWER) - 2)) for s in slow]
    share = [(s - _SLOWER[i]) / (_SLOWER[i + 1] - _SLOWER[i]) for s, i in zip(slow, below, strict=True)]
    for corner in product(*((0, 1) if s else (0,) for s in share)):
        weight = math.prod(s if up else 1 - s for s, up in zip(share, corner, strict=True))
        yield tuple(i + up for i, up in zip(below, corner, strict=True)), weight


class SharedSteps:
    """The steps of one job on the shared network; both a periodic load there and the links of its process.

    Parameters
    ----------
    tag
        The job's name, for the books.
    pipeline
        The job and its step.
    fabric
        The shared network.
    accelerators
        Those it runs on, in the order of its ranks.
    told
        Called with how many times longer a step takes, whenever that changes.

    Attributes
    ----------
    reason, since
        Why there is no way between its ranks, and since when [s]; empty when there is.
    """

    def __init__(
        self,
        tag: str,
        pipeline: PipelinedJob,
        fabric: Fabric,
        accelerators: Sequence[int],
        told: Callable[[float], None],
    ) -> None:
        self.tag, self.fabric, self._told = tag, fabric, told
        self._pipeline, self._accelerators = pipeline, np.array(accelerators, np.int64)
        home = fabric.topology.nodes.node_of[self._accelerators]
        self._position = home - home.min(initial=0)
        self._local = self._accelerators - fabric.topology.nodes.first_rank[home]
        self._moves = Moves(len(np.unique(home)))
        self._seconds = pipeline.run().seconds
        self._pace: float | None = None
        self.reason, self.since = "", math.nan
        self.phases: list[Phase] = []
        self._find_ways()
        self._stretch = step_stretch(pipeline, [phase.name for phase in self.phases])

    def _find_ways(self) -> None:
        fabric, capacity = self.fabric, self.fabric.capacity if self.fabric.changes else None
        try:
            found = job_phases(self._pipeline, fabric.topology, self._accelerators, capacity)
            self.phases, self.reason = [phase for _, phase in found], ""
        except NoWayError as error:
            self.phases, self.reason, self.since = [], str(error), fabric.clock.now

    def reroute(self) -> None:
        """Links have changed: the ways are found again. Where there is none, the steps stand still."""
        pace = self._pace
        self.leave()
        self._find_ways()
        if pace is not None:
            self.enter(pace)

    def move(self, position: int, node: int) -> None:
        """See :class:`~simulator.training.survival.Links`: the ways of its rings are found again."""
        moved = self._position == position
        self._accelerators[moved] = self.fabric.topology.accelerator(node, 0) + self._local[moved]
        if self._moves.due():
            self.reroute()

    def enter(self, pace: float) -> None:
        """See :class:`~simulator.training.survival.Links`."""
        if pace != self._pace:
            self._pace = pace
            if self.phases:
                self.fabric.enter(self)
            elif self.reason:
                self._told(math.inf)

    def leave(self) -> None:
        """See :class:`~simulator.training.survival.Links`."""
        if self._pace is not None:
            self._pace = None
            self.fabric.leave(self)

    @property
    def key(self) -> float:
        """See :class:`~simulator.network.periodic.Periodic`: the pace of what is computed."""
        return self._pace or 1.0

    def idle(self, slow: Sequence[float]) -> float:
        """See :class:`~simulator.network.periodic.Periodic`; messages that overlap in the step count in turn."""
        stretch = self._stretch(slow)
        if math.isinf(stretch):
            return 0.0
        busy = sum(phase.seconds * s for phase, s in zip(self.phases, slow, strict=True))
        return max(0.0, self._seconds * stretch * self.key - busy)

    def settled(self, slow: Sequence[float]) -> None:
        """See :class:`~simulator.network.periodic.Periodic`."""
        self._told(self._stretch(slow))


def contention_table(fabric: Fabric, tag: str) -> Columns:
    """Links that held up the messages of a job, longest first, and who else used them; empty when none did."""
    links, held = fabric.topology.links, fabric.held_up(tag)
    return {
        "workload": [tag] * len(held),
        "link": [links.name(link) for link, _, _ in held],
        "parallel": [links.parallel(link) for link, _, _ in held],
        "bandwidth": [float(fabric.capacity[link]) for link, _, _ in held],
        "seconds": [float(seconds) for _, seconds, _ in held],
        "shared_with": [", ".join(sorted(met)) for _, _, met in held],
    }
