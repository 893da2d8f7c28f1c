"""Elastic queues: every job has as many accelerators as serve the goodput of all best."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from simulator.registry import register
from simulator.strategies.cluster_protocols import QueuedJob, QueueView
from simulator.strategies.job_queue.basic import SCHEDULERS, Fifo

__all__ = ["Pollux", "Sia", "best_sizes"]


def best_sizes(values: Sequence[Mapping[int, float]], room: int) -> list[int]:
    """One size per job, at most ``room`` in all, with the largest sum of values: exact, by dynamic programming.

    Parameters
    ----------
    values
        Per job, accelerators → value; none (0 accelerators) is worth 0 where it is not given.
    """
    full = [{0: 0.0, **options} for options in values]
    first = [max(options, key=lambda size, o=options: (o[size], -size)) for options in full]  # type: ignore[misc]
    if sum(first) <= room:
        return first  # everybody has what suits it best
    best = np.zeros(room + 1)
    choices = np.zeros((len(values), room + 1), np.int64)
    for row, options in enumerate(values):
        grown = best + options.get(0, 0.0)
        for size, value in options.items():
            if not 0 < size <= room:
                continue
            tried = best[: room + 1 - size] + value
            better = tried > grown[size:]
            grown[size:][better] = tried[better]
            choices[row, size:][better] = size
        best = grown
    found, left = [0] * len(values), int(best.argmax())
    for row in range(len(values) - 1, -1, -1):
        found[row] = int(choices[row, left])
        left -= found[row]
    return found


class _Goodput(Fifo, ABC):
    """What the two have in common: sizes to choose from, and the choice."""

    preemptive = True
    passing = True
    dynamic = False

    def __init__(self, interval: float = 60.0) -> None:
        self.interval = interval

    def passes(self, job: QueuedJob, blocked: QueuedJob, view: QueueView) -> bool:
        """Places are given by :meth:`allocate`."""
        return True

    def allocate(self, jobs: Sequence[QueuedJob], room: int, view: QueueView) -> Mapping[int, int]:
        """The sizes that are worth most together."""
        values = [self.values(job, room, view) for job in jobs]
        return {job.number: size for job, size in zip(jobs, best_sizes(values, room), strict=True) if size}

    @abstractmethod
    def values(self, job: QueuedJob, room: int, view: QueueView) -> Mapping[int, float]:
        """Accelerators → what it is worth that the job has them."""


def _sizes(job: QueuedJob, room: int, view: QueueView, inside: Callable[[int], Sequence[int]]) -> list[int]:
    """Those inside one node, and whole nodes beyond; the gang as it is where the job is not elastic."""
    if job.scaling is None:
        return [job.asked] if job.asked <= room else []
    low, high = job.scaling.sizes(job.asked)
    sizes = [*inside(view.per_node), *range(2 * view.per_node, min(high, room) + 1, view.per_node)]
    return [n for n in sizes if low <= n <= min(high, room)]


def _speed(job: QueuedJob, size: int, view: QueueView) -> float:
    return 1.0 if job.scaling is None else job.scaling.speed(size, job.asked, view.per_node)


@register(
    "pollux", kind="policy", area="cluster", family="job_queue",
    cites=("Qiao et al., Pollux, OSDI 2021", "petuum/adaptdl, sched/adaptdl_sched/policy/pollux.py at 0224f7bb"),
    catalogue=(SCHEDULERS,), validated_by="closed_form",
)  # fmt: skip
class Pollux(_Goodput):
    """Most speed-up in sum over all jobs, each relative to one accelerator; restarts count against a change.

    The published scheduler searches by a genetic algorithm; sizes are exact here, and places are the placement's.

    Parameters
    ----------
    interval
        Least time between two allocations [s].
    restart_penalty
        Share of a job's speed-up that a change of its size costs.
    """

    def __init__(self, interval: float = 60.0, restart_penalty: float = 0.1) -> None:
        super().__init__(interval)
        self.restart_penalty = restart_penalty

    def values(self, job: QueuedJob, room: int, view: QueueView) -> Mapping[int, float]:
        """Speed-ups."""
        sizes = _sizes(job, room, view, lambda per_node: range(1, per_node + 1))
        if job.scaling is None:
            return {n: float(n) for n in sizes}
        one = _speed(job, 1, view)
        keep = 1.0 - self.restart_penalty
        return {n: _speed(job, n, view) / one * (1.0 if not job.nodes or n == job.gpus else keep) for n in sizes}


@register(
    "sia", kind="policy", area="cluster", family="job_queue",
    cites=(
        "Jayaram Subramanya et al., Sia, SOSP 2023",
        "siasosp23/artifacts, adaptdl/sched/adaptdl_sched/policy/mip.py at 87ab9610",
    ),
    catalogue=(SCHEDULERS,), validated_by="closed_form",
)  # fmt: skip
class Sia(_Goodput):
    """Least sum of normalised goodputs to the power −½: small jobs are not starved; few sizes, chosen exactly.

    Goodputs are relative to the job's smallest size. A change is worth (age − restarts · S)/(age + S) of it, a job
    without accelerators costs ``waiting``. On one type of accelerator the published integer programme is a knapsack.

    Parameters
    ----------
    interval
        Least time between two allocations [s].
    power
        Of fairness.
    waiting, change
        What a job without accelerators costs, and one whose size changes.
    restart
        Time a restart is taken to cost [s].
    """

    def __init__(
        self, interval: float = 60.0, power: float = -0.5, waiting: float = 1.1, change: float = 0.01,
        restart: float = 30.0,
    ) -> None:  # fmt: skip
        super().__init__(interval)
        self.power, self.waiting, self.change, self.restart = power, waiting, change, restart

    def values(self, job: QueuedJob, room: int, view: QueueView) -> Mapping[int, float]:
        """Minus the terms of the objective."""
        sizes = _sizes(job, room, view, _powers)
        if not sizes:
            return {0: -self.waiting}
        smallest = _speed(job, sizes[0], view)
        age = max(view.now - job.submit, 0.0)
        keep = max(age - job.preemptions * self.restart, 0.0) / (age + self.restart) if job.nodes else 1.0
        found = {0: -self.waiting}
        for n in sizes:
            same = not job.nodes or n == job.gpus
            gain = _speed(job, n, view) / smallest * (1.0 if same else keep)
            # A gain of nothing would cost without limit: the published code cuts the terms off as well.
            term = min(max(gain, 1e-9) ** self.power, 200.0)
            found[n] = -term - (0.0 if same else 2 * self.change)
        return found


def _powers(per_node: int) -> list[int]:
    return [1 << i for i in range(int(math.log2(per_node)) + 1)]
