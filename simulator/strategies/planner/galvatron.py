"""Galvatron: a strategy for every layer under the memory budget of its stage, by dynamic programme."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

from simulator.registry import register
from simulator.strategies.pipeline.partition import partition_layers
from simulator.strategies.planner.beside_equal import Kind, search_beside_equal
from simulator.strategies.planner.problem import LayerCosts, LayerPricing, PlanProblem, RankedPlans
from simulator.strategies.planner.slicing import decide_layers
from simulator.strategies.planner.stage_choice import (
    SHARES,
    Candidate,
    Way,
    joined,
    microbatch_sizes,
    room_of,
    ways_of,
)
from simulator.workload.plan import Plan
from simulator.workload.stage import LayerGroup, Stage

if TYPE_CHECKING:
    from simulator.results.estimate import Estimate

__all__ = ["GalvatronPlanner"]

MIXED = Kind(
    "strategies per layer", "best mix per layer", "uniform layers",
    lambda plan: any(stage.groups for stage in plan.stages),
)  # fmt: skip


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
        return search_beside_equal(problem, evaluate, MIXED, partial(self.candidates, problem))

    def candidates(self, problem: PlanProblem, evaluate: LayerPricing) -> Iterator[Candidate]:
        """The layers' own strategies for every micro-batch and number of stages."""
        decide = cache(partial(self.decide, problem, evaluate))
        for whole, stages in itertools.product(microbatch_sizes(problem), problem.pipeline_parallel):
            times = [d.seconds for d in decide(whole, stages, SHARES[0])]
            if times:
                microbatches = problem.batch.global_batch_size // whole
                total = sum(times) + (microbatches - 1) * max(times)
                yield Candidate(total, partial(_plan, problem, decide, whole, stages))

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
