"""Varuna: pipelines and data parallelism only, each depth tried at its best micro-batch by simulation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from simulator.registry import Claim, register
from simulator.strategies.pipeline.partition import partition_layers
from simulator.strategies.planner.problem import PlanProblem, RankedPlans
from simulator.workload.plan import Plan
from simulator.workload.stage import Stage

if TYPE_CHECKING:
    from simulator.results.estimate import Estimate

__all__ = ["VarunaPlanner"]


@register(
    "varuna",
    kind="planner",
    area="training",
    family="planner",
    cites=("Athlur et al. 2022 (Varuna), arXiv 2111.04007", "github.com/microsoft/varuna varuna/auto_config.py"),
    catalogue=("HetPipe, FTPipe, Varuna",),
    claims=(
        Claim(
            "54 layers of width 1920 (2.5 B) in 27, 18, 9 and 6 stages run micro-batches of 12, 10, 2 and 2",
            "github.com/microsoft/varuna varuna/auto_config.py @0ebede8",
        ),
    ),
    validated_by="published",
)
class VarunaPlanner:
    """Every depth and micro-batch without tensor parallelism, under the schedule ``varuna``; all are simulated.

    As many replicas as the accelerators hold, the rest stay idle (spot machines come and go, so the number need not
    divide). Cuts are even; everything is computed again but on the last stage.
    """

    name: str

    def search(self, problem: PlanProblem, evaluate: Callable[[Plan], Estimate]) -> RankedPlans:
        """The best depths."""
        found = RankedPlans()
        for plan in self.plans(problem):
            found.considered += 1
            found.add(plan, evaluate(plan), problem.keep)
        return found

    def plans(self, problem: PlanProblem) -> Iterator[Plan]:
        """Every depth with every micro-batch and sharding."""
        zero = [z for z in problem.zero_stage if z < 2]
        for ranks, micro, stage in itertools.product(problem.pipeline_parallel, problem.micro_batch_size, zero):
            replicas = problem.size // ranks
            if not replicas or ranks > problem.layers or problem.batch.global_batch_size % (micro * replicas):
                continue
            options = tuple(sorted({**problem.settled, "micro_batch_size": micro}.items()))
            plan = Plan(
                data_parallel=replicas, zero_stage=stage, recompute="full", precision=problem.precision[0],
                options=options,
            )  # fmt: skip
            if ranks > 1:
                stages = [Stage((count,)) for count in partition_layers(problem.layers, ranks)]
                stages[-1] = replace(stages[-1], recompute="none")
                plan = replace(plan, pipeline_parallel=ranks, schedule="varuna", stages=tuple(stages))
            yield plan
