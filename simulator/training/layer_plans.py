"""Different layers of a stage under different options: resident and moving layers, kept and recomputed ones.

A pass that has ``layer_options(plan, layers, stage, stages)`` answers with one mapping of options per layer of a stage.
Every distinct combination is compiled once; the stages then hold runs of the resulting blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from simulator.strategies.compile import passes_of
from simulator.training.stages import compiled_layers
from simulator.workload.jobs import TrainingJob
from simulator.workload.ops import Block
from simulator.workload.plan import Plan
from simulator.workload.stage import LayerGroup, Stage

__all__ = ["layer_plans", "varied_layers"]


def layer_plans(plan: Plan, layers_per_stage: Sequence[int], owners: Sequence[int] = ()) -> list[Plan]:
    """The plan of every layer in model order; all equal where nothing tells layers apart.

    ``owners`` are the ranks that hold the virtual stages; a plan with stages of its own needs them.
    """
    if not plan.stages:
        return _told_apart(plan, layers_per_stage)
    by_plan = {id(p): _told_apart(p, layers_per_stage) for p in plan.stage_plans}
    made: dict[tuple[Plan, LayerGroup], Plan] = {}
    found, first = list[Plan](), 0
    grouped = {rank: _groups(stage) for rank, stage in enumerate(plan.stages)}
    for layers, rank in zip(layers_per_stage, owners, strict=True):
        for layer in by_plan[id(plan.stage_plans[rank])][first : first + layers]:
            group = next(grouped[rank])
            if group is not None and (layer, group) not in made:
                made[layer, group] = layer.with_(**group.changes())
            found.append(layer if group is None else made[layer, group])
        first += layers
    return found


def _groups(stage: Stage) -> Iterator[LayerGroup | None]:
    """The group of each layer of a stage, in model order; none where it is as the stage is."""
    for group in stage.groups:
        yield from (group if group.changes() else None for _ in range(group.layers))
    yield from itertools.repeat(None)


def _told_apart(plan: Plan, layers_per_stage: Sequence[int]) -> list[Plan]:
    """The plan of every layer as the passes tell them apart."""
    telling = [p for p in passes_of(plan) if hasattr(p, "layer_options")]
    if not telling:
        return [plan] * sum(layers_per_stage)
    made: dict[tuple[tuple[str, object], ...], Plan] = {}
    plans: list[Plan] = []
    for stage, layers in enumerate(layers_per_stage):
        options: list[dict[str, object]] = [{} for _ in range(layers)]
        for step in telling:
            for mine, asked in zip(
                options, step.layer_options(plan, layers, stage, len(layers_per_stage)), strict=True
            ):
                mine.update(asked)
        for mine in options:
            key = tuple(sorted(mine.items(), key=lambda item: item[0]))
            if key not in made:
                made[key] = plan.with_(**mine) if mine else plan
            plans.append(made[key])
    return plans


def varied_layers(job: TrainingJob, layers_per_stage: Sequence[int], owners: Sequence[int]) -> tuple[Block, ...]:
    """Every block of the model in execution order, each compiled under the plan of its own layer and stage.

    ``owners`` are the ranks that hold the virtual stages. What is no layer goes with the stage it is on.
    """
    plans = layer_plans(job.plan, layers_per_stage, owners)
    if all(plan is job.plan for plan in plans):
        return compiled_layers(job)
    jobs = {rank: job.of_stage(rank) for rank in owners}
    of_layer = [rank for rank, layers in zip(owners, layers_per_stage, strict=True) for _ in range(layers)]
    variants: dict[tuple[int, int], tuple[Block, ...]] = {}

    def variant(rank: int, plan: Plan) -> tuple[Block, ...]:
        key = (jobs[rank].batch.micro_batch_size, id(plan))
        if key not in variants:
            variants[key] = compiled_layers(replace(jobs[rank], plan=plan))
        return variants[key]

    found, layer = list[Block](), 0
    for index, block in enumerate(variant(owners[0], jobs[owners[0]].plan)):
        if block.takes_place:
            block = variant(of_layer[layer], plans[layer])[index]
            layer += 1
        else:  # before the first layer of a stage, or after the last one of all
            rank = owners[0] if layer == 0 else of_layer[layer] if layer < len(of_layer) else owners[-1]
            block = variant(rank, jobs[rank].plan)[index]
        found.append(block)
    return tuple(found)
