"""FTPipe: the model in more parts than ranks, each part on the rank that has least to do."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from simulator.registry import register
from simulator.strategies.pipeline.partition import partition_layers
from simulator.strategies.planner.problem import LayerCosts, LayerPricing, PlanProblem, RankedPlans
from simulator.strategies.planner.stage_choice import (
    SHARES,
    Candidate,
    Way,
    microbatch_sizes,
    room_of,
    run_best,
    ways_of,
)
from simulator.workload.plan import Plan
from simulator.workload.stage import Stage

if TYPE_CHECKING:
    from simulator.results.estimate import Estimate

__all__ = ["FTPipePlanner", "best_fit"]

PARTS = (1, 2, 3)
"""Parts of the model per rank that are tried."""


def best_fit(seconds: Sequence[float], held: Sequence[float], ranks: int, room: float) -> list[list[int]] | None:
    """Parts of every rank: the longest part first, each to the rank with least to do that has room; None if none has.

    Parameters
    ----------
    seconds, held
        Time and bytes of every part.

    Notes
    -----
    FTPipe's greedy best fit. Without memory limits the longest rank takes at most 4/3 − 1/(3·ranks) of the best
    possible (Graham 1969, longest processing time first).
    """
    parts: list[list[int]] = [[] for _ in range(ranks)]
    load, used = [0.0] * ranks, [0.0] * ranks
    for part in sorted(range(len(seconds)), key=lambda p: (-seconds[p], p)):
        fitting = [rank for rank in range(ranks) if used[rank] + held[part] <= room]
        if not fitting:
            return None
        rank = min(fitting, key=lambda r: (load[r], r))
        parts[rank].append(part)
        load[rank] += seconds[part]
        used[rank] += held[part]
    return [sorted(mine) for mine in parts]


@register(
    "ftpipe",
    kind="planner",
    area="training",
    family="planner",
    cites=("Eliad et al. 2021 (FTPipe), USENIX ATC 21", "github.com/saareliad/FTPipe autopipe (greedy best fit)"),
    catalogue=("HetPipe, FTPipe, Varuna",),
    validated_by="closed_form",
)
class FTPipePlanner:
    """Mixed pipe: for every number of ranks and parts the balanced parts of the layers, dealt out by best fit.

    A steady pipeline moves at the pace of its busiest rank, m·max load; the plans of the least of it are run under the
    schedule ``mixed-pipe``, which has no flush. Other decisions are those of the problem.
    """

    name: str

    def search(self, problem: PlanProblem, evaluate: Callable[[Plan], Estimate]) -> RankedPlans:
        """The best plans whose ranks hold parts that need not be neighbours."""
        found = RankedPlans()
        if not isinstance(evaluate, LayerPricing):
            found.notes.append("mixed pipes were not searched: the evaluation does not price layers")
            return found
        return run_best(self.candidates(problem, evaluate), evaluate, found, problem.keep)

    def candidates(self, problem: PlanProblem, evaluate: LayerPricing) -> Iterator[Candidate]:
        """Every way to run a rank with every number of parts."""
        node = problem.cluster.groups[0].node
        for ranks in problem.pipeline_parallel:
            devices, rest = divmod(problem.size, ranks)
            if rest:
                continue
            for whole, count in itertools.product(microbatch_sizes(problem), PARTS if ranks > 1 else (1,)):
                if ranks * count > problem.layers:
                    continue
                for way in ways_of(problem, devices, whole, node.accelerators):
                    layers = evaluate.layers(way.plan, ends=True)
                    sizes = partition_layers([c.seconds for c in layers], ranks, count, "balanced")
                    make = partial(_plan, problem, way, layers, sizes, ranks)
                    if loads := _loads(problem, way, layers, sizes, ranks, SHARES[0]):
                        yield Candidate(problem.batch.global_batch_size // whole * max(loads), make)


def _deal(
    problem: PlanProblem, way: Way, layers: Sequence[LayerCosts], sizes: Sequence[int], ranks: int, share: float
) -> tuple[list[list[int]] | None, list[float]]:
    """Parts of every rank, and the time of every part."""
    ends = [0, *itertools.accumulate(sizes)]
    parts = [layers[a:b] for a, b in itertools.pairwise(ends)]
    microbatches = problem.batch.global_batch_size // way.whole
    seconds = [sum(c.seconds + c.sync / microbatches for c in part) for part in parts]
    held = [
        sum(c.states + min(microbatches, len(parts) - i) * c.activations for c in part) for i, part in enumerate(parts)
    ]
    room = room_of(problem, problem.cluster.groups[0].node, share)
    return best_fit(seconds, held, ranks, room), seconds


def _loads(
    problem: PlanProblem, way: Way, layers: Sequence[LayerCosts], sizes: Sequence[int], ranks: int, share: float
) -> list[float]:
    """Seconds of one micro-batch on every rank; empty where the parts do not fit."""
    dealt, seconds = _deal(problem, way, layers, sizes, ranks, share)
    return [sum(seconds[p] for p in mine) for mine in dealt] if dealt else []


def _plan(
    problem: PlanProblem, way: Way, layers: Sequence[LayerCosts], sizes: Sequence[int], ranks: int, share: float
) -> Plan | None:
    dealt, _ = _deal(problem, way, layers, sizes, ranks, share)
    if dealt is None:
        return None
    if ranks == 1:
        return way.plan
    stages = tuple(Stage(tuple(sizes[p] for p in mine), tuple(mine)) for mine in dealt)
    most = max(len(mine) for mine in dealt)
    return replace(way.plan, pipeline_parallel=ranks, virtual_stages=most, schedule="mixed-pipe", stages=stages)
