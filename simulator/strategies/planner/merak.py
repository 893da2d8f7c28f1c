"""Merak's stage-aware recomputation on top of a search."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from simulator.registry import register
from simulator.strategies.pipeline.partition import partition_layers
from simulator.strategies.planner.exhaustive import Exhaustive
from simulator.strategies.planner.problem import LayerPricing, PlanProblem, RankedPlans
from simulator.workload.plan import Plan

if TYPE_CHECKING:
    from simulator.results.estimate import Estimate

__all__ = ["MerakPlanner", "least_recomputed"]


def least_recomputed(layers: int, needed: float, room: float, flights: int, kept: float, again: float) -> int:
    """Fewest layers of a stage to recompute so that it fits; more than ``layers`` where none does.

    Parameters
    ----------
    needed, room
        Bytes with every layer kept, and bytes there are.
    flights
        Micro-batches in flight on the stage.
    kept, again
        Bytes of one micro-batch in a kept and in a recomputed layer.
    """
    if needed <= room:
        return 0
    saved = flights * (kept - again)
    return math.ceil((needed - room) / saved - 1e-9) if saved > 0 else layers + 1


@register(
    "merak",
    kind="planner",
    area="training",
    family="planner",
    cites=("Lai et al. 2022 (Merak), arXiv 2206.04959",),
    catalogue=("Merak",),
    validated_by="closed_form",
)
class MerakPlanner:
    """Each stage recomputes only as many layers as its memory asks for; ranked with the uniform plans.

    Stages run 1F1B or Merak's own ``shifted-critical-path``, whichever is faster. Its sub-pipelined tensor parallelism
    is a tensor strategy (``domino``), chosen by its own option.
    """

    name: str
    tries = 6
    """Attempts at a plan, each with a little less room, where what the layers do not show does not fit."""

    def search(self, problem: PlanProblem, evaluate: Callable[[Plan], Estimate]) -> RankedPlans:
        """The best plans with uniform and with stage-aware recomputation."""
        found = Exhaustive().search(problem, evaluate)
        if not isinstance(evaluate, LayerPricing):
            return found
        skeletons = {
            replace(p, recompute="none", schedule=schedule)
            for p, _ in found
            if p.recompute == "full" and p.pipeline_parallel > 1 and p.schedule == "1f1b"
            for schedule in ("1f1b", "shifted-critical-path")
        }
        for skeleton in sorted(skeletons, key=str):
            for attempt in range(self.tries):
                plan = self.staged(problem, skeleton, evaluate, 0.97 - 0.05 * attempt)
                if plan is None:
                    break
                found.considered += 1
                estimate = evaluate(plan)
                found.add(plan, estimate, problem.keep)
                if estimate.feasible:
                    break
        return found

    def staged(self, problem: PlanProblem, plan: Plan, evaluate: LayerPricing, share: float) -> Plan | None:
        """``plan`` with the fewest recomputed layers per stage in ``share`` of the memory; None where nothing fits."""
        ranks = plan.pipeline_parallel
        kept = evaluate.layers(plan)
        again = evaluate.layers(replace(plan, recompute="full"))
        size = plan.option("micro_batch_size", problem.batch.micro_batch_size)
        assert isinstance(size, int)
        microbatches = problem.batch.global_batch_size // (size * plan.data_parallel)
        room = share * min(g.node.accelerator.memory_usable for g in problem.cluster.groups)
        counts, first = [], 0
        for stage, layers in enumerate(partition_layers(len(kept), ranks)):
            early = plan.schedule == "shifted-critical-path" and stage == ranks - 2  # its third forward
            mine, flights = kept[first : first + layers], min(microbatches, ranks - stage + early)
            needed = sum(c.states + flights * c.activations for c in mine)
            count = least_recomputed(layers, needed, room, flights, mine[0].activations, again[first].activations)
            if count > layers:
                return None
            counts.append(count)
            first += layers
        return replace(plan, recompute="per-stage").with_(recomputed_layers=tuple(counts))
