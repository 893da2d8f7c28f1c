"""Galvatron: a strategy for every layer under the memory budget of its stage, by dynamic programme."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

from simulator.registry import register
from simulator.strategies.pipeline.partition import partition_layers
from simulator.strategies.planner.exhaustive import Exhaustive
from simulator.strategies.planner.problem import LayerCosts, LayerPricing, PlanProblem, RankedPlans
from simulator.strategies.planner.slicing import decide_layers
from simulator.strategies.planner.stage_choice import (
    SHARES,
    Candidate,
    Way,
    joined,
    microbatch_sizes,
    room_of,
    run_best,
    ways_of,
)
from simulator.workload.plan import Plan
from simulator.workload.stage import LayerGroup, Stage

if TYPE_CHECKING:
    from simulator.results.estimate import Estimate

__all__ = ["GalvatronPlanner"]


class _Decided(NamedTuple):
    """A stage with its mesh, its layers' own decisions, and the time of one micro-batch [s]."""

    way: Way
    groups: tuple[LayerGroup, ...]
    seconds: float


@register(
    "galvatron",
    kind="planner",
    area="training",
    family="planner",
    cites=("Miao et al. 2022 (Galvatron), arXiv 2211.13878",),
    catalogue=("Galvatron",),
    validated_by="closed_form",
)
class GalvatronPlanner:
    """For every number of stages: the mesh of each stage, and recomputation and sharding of each of its layers.

    The layers of a stage share one split into tensor and data parallelism: the paper also changes it between layers,
    which needs activations to be cut anew inside a stage. Plans of least Σ t_i + (m−1)·max t_i are run, beside the
    best of uniform layers.
    """

    name: str

    def search(self, problem: PlanProblem, evaluate: Callable[[Plan], Estimate]) -> RankedPlans:
        """The best plans of uniform and of mixed layers."""
        found = Exhaustive().search(problem, evaluate)
        uniform = len({g.node.name for g in problem.cluster.groups}) == 1
        if not isinstance(evaluate, LayerPricing) or not uniform:
            found.notes.append("strategies per layer were not searched: they need one kind of node")
            return found
        decide = cache(partial(self.decide, problem, evaluate))
        candidates = []
        for whole, stages in itertools.product(microbatch_sizes(problem), problem.pipeline_parallel):
            times = [d.seconds for d in decide(whole, stages, SHARES[0])]
            if times:
                microbatches = problem.batch.global_batch_size // whole
                total = sum(times) + (microbatches - 1) * max(times)
                candidates.append(Candidate(total, partial(_plan, problem, decide, whole, stages)))
        equal = found[0][1].seconds if found else 0.0
        run_best(candidates, evaluate, found, problem.keep)
        found.notes.append(_told(found, equal, len(candidates)))
        return found

    def decide(
        self, problem: PlanProblem, evaluate: LayerPricing, whole: int, stages: int, share: float
    ) -> tuple[_Decided, ...]:
        """Every stage by itself; empty where one does not fit."""
        node, layers = problem.cluster.groups[0].node, problem.layers
        devices, rest = divmod(problem.size, stages)
        if rest or stages > layers:
            return ()
        room, microbatches = room_of(problem, node, share), problem.batch.global_batch_size // whole
        every = ways_of(problem, devices, whole, node.accelerators)
        meshes: dict[tuple[int, bool], list[Way]] = {}
        for way in every:
            meshes.setdefault((way.plan.tensor_parallel, way.plan.sequence_parallel), []).append(way)
        found, first = list[_Decided](), 0
        for stage, count in enumerate(partition_layers(layers, stages)):
            held = slice(first, first + count)
            flights = min(microbatches, stages - stage)
            options = [
                _decided(ways, [evaluate.layers(w.plan, ends=True)[held] for w in ways], flights, room, microbatches)
                for ways in meshes.values()
            ]
            fitting = [option for option in options if option is not None]
            if not fitting:
                return ()
            found.append(min(fitting, key=lambda d: d.seconds))
            first += count
        return tuple(found)


def _decided(
    ways: list[Way], costs: list[list[LayerCosts]], flights: int, room: float, microbatches: int
) -> _Decided | None:
    """The decisions of a stage's layers on one mesh; None where the memory is too small for any."""
    layers = range(len(costs[0]))
    seconds = [[of[i].seconds + of[i].sync / microbatches for of in costs] for i in layers]
    held = [[of[i].states + flights * of[i].activations for of in costs] for i in layers]
    free = [[0.0] * len(ways) for _ in ways]
    best = decide_layers(seconds, held, free, room)
    if not best.chosen:
        return None
    runs = tuple(_runs([ways[s].plan for s in best.chosen]))
    mixed = len({replace(run, layers=1) for run in runs}) > 1
    return _Decided(ways[best.chosen[0]], runs if mixed else (), best.seconds)


def _runs(plans: list[Plan]) -> Iterator[LayerGroup]:
    for plan, run in itertools.groupby(plans):
        yield LayerGroup(len(list(run)), recompute=plan.recompute, zero_stage=plan.zero_stage)


def _plan(
    problem: PlanProblem, decide: Callable[[int, int, float], tuple[_Decided, ...]], whole: int, stages: int,
    share: float,
) -> Plan | None:  # fmt: skip
    decided = decide(whole, stages, share)
    if not decided:
        return None
    counts = partition_layers(problem.layers, stages)
    plan = joined([(d.way, n, "") for d, n in zip(decided, counts, strict=True)], problem, names=False)
    if not any(d.groups for d in decided):
        return plan
    base = plan.stages or tuple(Stage((n,)) for n in counts)
    kept = tuple(replace(stage, groups=d.groups) for stage, d in zip(base, decided, strict=True))
    return replace(plan, stages=kept)


def _told(found: RankedPlans, equal: float, candidates: int) -> str:
    mixed = [(plan, estimate) for plan, estimate in found if any(stage.groups for stage in plan.stages)]
    if not mixed:
        return f"none of {candidates} plans with a strategy per layer is among the best: uniform layers are as fast"
    plan, estimate = mixed[0]
    against = f", {equal / estimate.seconds:.3f} times as fast as the best of uniform layers" if equal else ""
    return f"best mix per layer: {estimate.seconds:.4g} s{against} ({plan})"
