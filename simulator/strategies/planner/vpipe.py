"""vPipe: layers of every stage, and which of them are swapped out or computed again, so that stages take equal time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.registry import register
from simulator.strategies.planner.problem import LayerPricing, PlanProblem, RankedPlans
from simulator.strategies.planner.slicing import Cuts, cut_layers
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
from simulator.workload.stage import LayerGroup, Stage

if TYPE_CHECKING:
    from simulator.results.estimate import Estimate

__all__ = ["VPipePlanner"]

STEP = 0.01

REMEDIES = (LayerGroup(1, recompute="full"), LayerGroup(1, offload="activation-offload"))
"""What can be done about a layer that does not fit."""


class _Balanced(NamedTuple):
    """Cuts, and for every stage how many layers take which remedy."""

    cuts: Cuts
    remedied: tuple[tuple[int, int], ...]


@register(
    "vpipe",
    kind="planner",
    area="training",
    family="planner",
    cites=("Zhao et al. 2022 (vPipe), IEEE TPDS, doi 10.1109/TPDS.2021.3094364",),
    catalogue=("AvgPipe, vPipe",),
    validated_by="closed_form",
)
class VPipePlanner:
    """Swap, recompute and partition together: cuts of the least Σ t_i + (m−1)·max t_i within the memories.

    An early stage of 1F1B holds more micro-batches: it gives layers away, or swaps them to the host or computes them
    again, whichever costs least; a stage takes one of the two remedies, for the fewest layers that let it fit. vPipe
    finds this by an online search and moves layers while it trains; here the dynamic programme finds the optimum of
    the same decisions, and moving there (the weights of the layers that change places, once) is not priced.
    """

    name: str

    def search(self, problem: PlanProblem, evaluate: Callable[[Plan], Estimate]) -> RankedPlans:
        """The best balanced plans."""
        found = RankedPlans()
        if not isinstance(evaluate, LayerPricing):
            found.notes.append("balanced stages were not searched: the evaluation does not price layers")
            return found
        kept = replace(problem, recompute=("none",))
        node = problem.cluster.groups[0].node
        candidates = []
        for whole, stages in itertools.product(microbatch_sizes(problem), problem.pipeline_parallel):
            devices, rest = divmod(problem.size, stages)
            if rest or stages > problem.layers:
                continue
            for way in ways_of(kept, devices, whole, node.accelerators):
                balance = cache(partial(self.balance, problem, evaluate, way, stages))
                seconds = balance(SHARES[0]).cuts.seconds
                if math.isfinite(seconds):
                    candidates.append(Candidate(seconds, partial(_plan, way, stages, balance)))
        return run_best(candidates, evaluate, found, problem.keep)

    def balance(self, problem: PlanProblem, evaluate: LayerPricing, way: Way, stages: int, share: float) -> _Balanced:
        """The best cuts of the layers into ``stages`` under one mesh."""
        node, microbatches = problem.cluster.groups[0].node, problem.batch.global_batch_size // way.whole
        room, layers = room_of(problem, node, share), problem.layers
        columns = [_columns(evaluate, way.plan.with_(**remedy.changes()), node.name, microbatches)
                   for remedy in (LayerGroup(1), *REMEDIES)]  # fmt: skip
        times = np.full((stages, layers, layers + 1), np.inf)
        which = np.zeros((stages, layers, layers + 1, 2), dtype=np.int64)
        for stage, first in itertools.product(range(stages), range(layers)):
            flights = min(microbatches, stages - stage)
            for past in range(first + 1, layers + 1):
                times[stage, first, past], which[stage, first, past] = _remedied(
                    [c[:, first:past] for c in columns], flights, room
                )
        cuts = cut_layers(times, microbatches, STEP)
        ends = [0, *itertools.accumulate(cuts.layers)]
        pairs = enumerate(itertools.pairwise(ends))
        chosen = tuple((int(which[s, a, b, 0]), int(which[s, a, b, 1])) for s, (a, b) in pairs)
        return _Balanced(cuts, chosen)


def _columns(evaluate: LayerPricing, plan: Plan, kind: str, microbatches: int) -> NDArray[np.float64]:
    """Seconds, bytes of states and bytes of activations of every layer [3, layer]."""
    layers = evaluate.layers(plan, kind, ends=True)
    return np.array([(c.seconds + c.sync / microbatches, c.states, c.activations) for c in layers]).T


def _remedied(columns: list[NDArray[np.float64]], flights: int, room: float) -> tuple[float, tuple[int, int]]:
    """Least time of a stage that fits, and (remedy, layers that take it from the first on)."""
    keep = columns[0]
    needed = float(keep[1].sum() + flights * keep[2].sum()) - room
    if needed <= 0:
        return float(keep[0].sum()), (0, 0)
    best, choice = math.inf, (0, 0)
    for number, remedy in enumerate(columns[1:]):
        freed = np.cumsum(flights * (keep[2] - remedy[2]))
        count = int(np.searchsorted(freed, needed)) + 1
        if count <= len(freed) and freed[count - 1] >= needed:
            seconds = float(keep[0].sum() + (remedy[0] - keep[0])[:count].sum())
            if seconds < best:
                best, choice = seconds, (number, count)
    return best, choice


def _plan(way: Way, stages: int, balance: Callable[[float], _Balanced], share: float) -> Plan | None:
    found = balance(share)
    if not math.isfinite(found.cuts.seconds):
        return None
    if stages == 1 and not found.remedied[0][1]:
        return way.plan
    kept = tuple(
        Stage((layers,), groups=(replace(REMEDIES[remedy], layers=count),) if count else ())
        for layers, (remedy, count) in zip(found.cuts.layers, found.remedied, strict=True)
    )
    return replace(way.plan, pipeline_parallel=stages, stages=kept)
