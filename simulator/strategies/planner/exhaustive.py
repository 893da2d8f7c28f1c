"""Exhaustive search that bounds most plans away, and a random walk over the same space."""

from __future__ import annotations

import heapq
import itertools
import math
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from simulator.registry import register
from simulator.strategies.planner.problem import Bounding, PlanProblem, RankedPlans, plan_score
from simulator.workload.plan import Plan

if TYPE_CHECKING:
    from simulator.results.estimate import Estimate

__all__ = ["Exhaustive", "MarkovChain"]

FIRST_RUNS = 24
"""Plans of the smallest bounds that are run before the rest is looked at again."""

MOST_AGAIN = 5000
"""Plans that are held at once to be run in the order of their bounds."""


@register(
    "exhaustive",
    kind="planner",
    area="training",
    family="planner",
    cites=("Narayanan et al. 2021 (PTD-P heuristics), arXiv 2104.04473", "Isaev et al. 2023 (Calculon), SC"),
    catalogue=(
        "Megatron 3-D (PTD-P)",
        "DeepSpeed 3-D",
        "Colossal-AI, Rhino, TAP, Slapo",
        "Proteus, vTrain, Calculon, DistIR",
    ),
    validated_by="closed_form",
)
class Exhaustive:
    """Every plan of the space, exactly: plans whose lower bound is above the best found need not be run.

    Of a plan that is not among the best only its bound is kept, eight bytes; plans that must be run after all are made
    again in a second walk, which ends at the last of them.
    """

    name: str

    def search(self, problem: PlanProblem, evaluate: Callable[[Plan], Estimate]) -> RankedPlans:
        """The best ``problem.keep`` plans."""
        found = RankedPlans()
        bound = evaluate.bound if isinstance(evaluate, Bounding) else None
        if bound is None:
            for plan in problem.plans():
                found.considered += 1
                found.add(plan, evaluate(plan), problem.keep)
            return found
        first: list[tuple[float, int]] = []
        chosen: dict[int, Plan] = {}
        bounds = array("d")
        for index, plan in enumerate(problem.plans()):
            found.considered += 1
            limit = bound(plan)
            bounds.append(math.inf if limit.reason else limit.seconds)
            if limit.reason:
                found.reasons["memory" if limit.reason.startswith("out of memory") else "sizes"] += 1
                continue
            heapq.heappush(first, (-limit.seconds, index))
            chosen[index] = plan
            if len(first) > max(FIRST_RUNS, problem.keep):
                del chosen[heapq.heappop(first)[1]]
        for _, index in sorted(first, reverse=True):
            found.add(chosen[index], evaluate(chosen[index]), problem.keep)
        rest = [index for index, seconds in enumerate(bounds) if seconds < math.inf and index not in chosen]
        maybe = {index for index in rest if bounds[index] < found.limit(problem.keep)}
        found.reasons["slower"] += len(rest) - len(maybe)
        again = itertools.islice(problem.plans(), max(maybe, default=-1) + 1)
        left = ((index, plan) for index, plan in enumerate(again) if index in maybe)
        if len(maybe) <= MOST_AGAIN:  # the smallest bounds first: what they find rules out more of the others
            left = iter(sorted(left, key=lambda item: (bounds[item[0]], item[0])))
        for index, plan in left:
            if bounds[index] >= found.limit(problem.keep):
                found.reasons["slower"] += 1
                continue
            found.add(plan, evaluate(plan), problem.keep)
        return found


@register(
    "mcmc",
    kind="planner",
    area="training",
    family="planner",
    cites=("Jia et al. 2019 (FlexFlow), arXiv 1807.05358", "Unger et al. 2022 (Unity), OSDI"),
    catalogue=("FlexFlow", "Unity"),
    validated_by="closed_form",
)
class MarkovChain:
    """Metropolis walk from plan to plan that differ in one decision, as FlexFlow searches its simulator.

    Unity's graph substitutions are decisions of the plan here (fused kernels belong to the framework).
    """

    name: str

    def __init__(self, proposals: int = 400, temperature: float = 0.05, seed: int = 0) -> None:
        self.proposals, self.temperature, self.seed = proposals, temperature, seed

    def search(self, problem: PlanProblem, evaluate: Callable[[Plan], Estimate]) -> RankedPlans:
        """The best plans that the walk met."""
        rng = np.random.Generator(np.random.PCG64(self.seed))
        plans = list(problem.plans())
        found = RankedPlans()
        found.considered = len(plans)
        neighbours = _neighbours(plans)
        scores: dict[int, float] = {}

        def score(index: int) -> float:
            if index not in scores:
                estimate = evaluate(plans[index])
                scores[index] = plan_score(estimate)
                found.add(plans[index], estimate, problem.keep)
            return scores[index]

        if not plans:
            return found
        here = int(rng.integers(len(plans)))
        for _ in range(self.proposals):
            if math.isinf(score(here)):
                here = int(rng.integers(len(plans)))  # nothing to compare with: start elsewhere
                continue
            near = neighbours(here)
            if not near:
                break
            there = near[int(rng.integers(len(near)))]
            worse = score(there) / score(here) - 1
            if worse <= 0 or rng.random() < math.exp(-worse / self.temperature):
                here = there
        return found


def _neighbours(plans: list[Plan]) -> Callable[[int], list[int]]:
    """Plans that differ in one decision; the degrees, whose product is fixed, count as one."""

    def decisions(plan: Plan) -> tuple[object, ...]:
        degrees = (plan.tensor_parallel, plan.context_parallel, plan.pipeline_parallel, plan.expert_parallel)
        rest = (plan.sequence_parallel, plan.zero_stage, plan.recompute, plan.precision, plan.offload)
        return (degrees, (plan.schedule, plan.virtual_stages), *rest, *(v for _, v in plan.options))

    keys = [decisions(p) for p in plans]

    def near(index: int) -> list[int]:
        mine = keys[index]
        return [i for i, k in enumerate(keys) if sum(a != b for a, b in zip(mine, k, strict=True)) == 1]

    return near
