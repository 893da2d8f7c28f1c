"""When which node fails of what: drawn from laws, or replayed from a record."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from simulator.workload.failures.model import FailureKind, FailureModel, NodeEvents, Repair

__all__ = ["Failure", "failures_of", "repair_time"]


class Failure(NamedTuple):
    """At ``time`` [s] ``node`` fails; it is back after ``repair`` seconds, or as drawn where that is NaN."""

    time: float
    node: int
    kind: FailureKind
    repair: float = math.nan


def failures_of(model: FailureModel, sizes: Sequence[int], random: np.random.Generator) -> Iterator[Failure]:
    """Failures in time order, without end (without any at all if the model has none).

    Parameters
    ----------
    sizes
        Accelerators of each node of the cluster: rates grow with them.
    """
    if model.trace is not None:
        return _replayed(model.trace, len(sizes), random)
    if not model.kinds:
        return iter(())
    return _poisson(model, sizes, random) if model.shape == 1.0 else _renewal(model, sizes, random)


def _poisson(model: FailureModel, sizes: Sequence[int], random: np.random.Generator) -> Iterator[Failure]:
    """All exponential clocks of all nodes as one: the time from their sum, then the kind, then the node."""
    rates = np.array([1.0 / kind.mtbf for kind in model.kinds])
    kinds, nodes = np.cumsum(rates) / rates.sum(), np.cumsum(sizes) / sum(sizes)
    mean, now = 1.0 / (rates.sum() * sum(sizes)), 0.0
    while True:
        gap, kind, node = random.exponential(mean), random.random(), random.random()
        now += gap
        number = min(int(np.searchsorted(kinds, kind, "right")), len(kinds) - 1)
        yield Failure(now, min(int(np.searchsorted(nodes, node, "right")), len(sizes) - 1), model.kinds[number])


def _renewal(model: FailureModel, sizes: Sequence[int], random: np.random.Generator) -> Iterator[Failure]:
    """A Weibull renewal process per node and kind, in its steady state from the start.

    The first failure follows the law of the residual life: a uniform part of a gap drawn by its length, whose k-th
    power is a gamma variable with shape 1 + 1/k.
    """
    k = model.shape
    stretch = math.gamma(1.0 + 1.0 / k)
    queue: list[tuple[float, int, int, float]] = []
    for number, kind in enumerate(model.kinds):
        scale = kind.mtbf / np.asarray(sizes, np.float64) / stretch
        first = random.random(len(sizes)) * scale * random.gamma(1.0 + 1.0 / k, 1.0, len(sizes)) ** (1.0 / k)
        queue += [(t, node, number, s) for node, (t, s) in enumerate(zip(first.tolist(), scale.tolist(), strict=True))]
    heapq.heapify(queue)
    while True:
        now, node, number, scale_ = queue[0]
        yield Failure(now, node, model.kinds[number])
        heapq.heapreplace(queue, (now + scale_ * float(random.weibull(k)), node, number, scale_))


def _replayed(trace: NodeEvents, nodes: int, random: np.random.Generator) -> Iterator[Failure]:
    """The record, over and over; each node of the cluster repeats one recorded node.

    Recorded nodes are dealt out at random. Where the cluster has more nodes than the record, a recorded node is used
    again, shifted by a random part of the record's length, so that copies do not fail together.
    """
    dealt = random.permutation(trace.nodes)
    uses: dict[int, list[tuple[int, float]]] = {}
    for node in range(nodes):
        shift = 0.0 if node < trace.nodes else float(random.random()) * trace.span
        uses.setdefault(int(dealt[node % trace.nodes]), []).append((node, shift))
    kinds = {name: FailureKind(name, math.inf) for name in set(trace.kind)}
    rows: list[tuple[float, int, str, float]] = []
    for number, start, end, name in zip(trace.node, trace.start, trace.end, trace.kind, strict=True):
        rows += [((start + shift) % trace.span, node, name, end - start) for node, shift in uses.get(number, ())]
    rows.sort()
    lap = 0
    while rows:
        for time, node, name, repair in rows:
            yield Failure(time + lap * trace.span, node, kinds[name], repair)
        lap += 1


def repair_time(repair: Repair, random: np.random.Generator) -> float:
    """One draw [s]."""
    return repair.median * math.exp(repair.sigma * float(random.standard_normal())) if repair.median else 0.0
