"""Why a plan whose stages differ does not work, and what near it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from simulator.hardware.types import Cluster
from simulator.registry import lookup
from simulator.strategies.compile import check_plan
from simulator.strategies.pipeline.choice import schedule_of
from simulator.training.seats import missing_seats
from simulator.training.stages import layer_count
from simulator.workload.jobs import TrainingJob
from simulator.workload.plan import Plan

__all__ = ["check_stages"]


def check_stages(job: TrainingJob, cluster: Cluster) -> Iterator[str]:
    """Reasons why the stages of a plan do not fit model, batch, cluster or each other; none where they do."""
    plan = job.plan
    if shape := list(_shape(plan, layer_count(job.model))):
        yield from shape
        return
    yield from missing_seats(plan, cluster)
    yield from _each(job)
    if plan.unequal:
        yield from _alike(plan)
    if plan.unequal or any(stage.groups for stage in plan.stages):
        yield from _decided(plan)


def _shape(plan: Plan, layers: int) -> Iterator[str]:
    """Numbers of stages, chunks and layers."""
    stages = plan.stages
    if len(stages) != plan.pipeline_parallel:
        yield f"the plan describes {len(stages)} stages but pipeline_parallel is {plan.pipeline_parallel}"
    placed = [bool(stage.places) for stage in stages]
    for rank, stage in enumerate(stages):
        if min(stage.layers, default=0) < 1:
            yield f"stage {rank} needs at least one layer in each of its chunks"
        if not any(placed) and len(stage.layers) != plan.virtual_stages:
            yield f"stage {rank} has {len(stage.layers)} chunks but virtual_stages is {plan.virtual_stages}"
        if sum(group.layers for group in stage.groups) > sum(stage.layers):
            yield f"the groups of stage {rank} have more than its {sum(stage.layers)} layers"
    held = sum(sum(stage.layers) for stage in stages)
    if held != layers:
        most = max(range(len(stages)), key=lambda rank: sum(stages[rank].layers))
        near = sum(stages[most].layers) + layers - held
        advice = f"; {near} layers in stage {most} would" if near > 0 else ""
        yield f"the stages hold {held} layers, which are not the {layers} of the model{advice}"
    if any(placed):
        yield from _places(plan)


def _places(plan: Plan) -> Iterator[str]:
    """Stages that say which parts of the model they hold."""
    held = sorted(place for stage in plan.stages for place in stage.places)
    chunks = sum(len(stage.layers) for stage in plan.stages)
    if held != list(range(chunks)):
        yield f"the stages hold the parts {held} of the model, needed is each of 0 to {chunks - 1} once"
    if not getattr(schedule_of(plan), "takes_places", False):
        yield f"schedule {plan.schedule} places model chunks itself: use mixed-pipe for stages that say which they hold"


def _each(job: TrainingJob) -> Iterator[str]:
    """Every stage by itself: passes, experts, sequences per rank."""
    plan, said = job.plan, set[str]()
    whole = job.batch.micro_batch_size * plan.data_parallel
    for rank, mine in enumerate(plan.stage_plans):
        ranks = mine.data_parallel
        variants = (mine, *(replace(mine, **g.changes()) for g in plan.stages[rank].groups))  # type: ignore[arg-type]
        reasons = [reason for variant in variants for reason in check_plan(job.model, variant)]
        if whole % ranks:
            near = " or ".join(str(d) for d in (*_below(whole, ranks), *_above(whole, ranks)))
            reasons.append(
                f"a micro-batch is micro_batch_size {job.batch.micro_batch_size} × data_parallel {plan.data_parallel} "
                f"= {whole} sequences, which do not divide over {ranks} ranks; use data_parallel {near}"
            )
        if mine.expert_parallel > 1 and mine.expert_ranks % mine.expert_parallel:
            reasons.append(
                f"expert_parallel {mine.expert_parallel} does not divide the {mine.expert_ranks} ranks of its experts"
            )
        for reason in dict.fromkeys(reasons):
            if reason not in said:
                said.add(reason)
                yield f"stage {rank}: {reason}"


def _below(number: int, wanted: int) -> list[int]:
    return [next(d for d in range(min(wanted, number), 0, -1) if number % d == 0)]


def _above(number: int, wanted: int) -> list[int]:
    return [d for d in range(wanted, number + 1) if number % d == 0][:1]


def _alike(plan: Plan) -> Iterator[str]:
    """What only works where all stages have the same degrees and decisions."""
    traits = schedule_of(plan).traits()
    if traits.weight_copies > 1 or traits.partner is not None:
        yield f"schedule {plan.schedule} lets two ranks share stages, which needs equal stages: use 1f1b or zb-h1"
    if traits.second_order:
        yield f"schedule {plan.schedule} fills bubbles with second-order work of equal stages: use 1f1b or zb-h1"


def _decided(plan: Plan) -> Iterator[str]:
    """Strategies that plan by prices know one kind of stage only."""
    groups = [group for stage in plan.stages for group in stage.groups]
    for family in ("recompute", "offload"):
        names = {getattr(held, family) for held in (*plan.stage_plans, *groups)} - {"none", None}
        for name in sorted(names):
            if hasattr(lookup(family, name)(), "decide"):
                yield f"{family} {name} plans for stages that are alike; name what each stage does instead"
