"""Different layers of a stage under different options: resident and moving layers, kept and recomputed ones.

A pass that has ``layer_options(plan, layers, stage, stages)`` answers with one mapping of options per layer of a stage.
Every distinct combination is compiled once; the stages then hold runs of the resulting blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from simulator.strategies.compile import passes_of
from simulator.training.stages import compiled_layers
from simulator.workload.jobs import TrainingJob
from simulator.workload.ops import Block
from simulator.workload.plan import Plan

__all__ = ["layer_plans", "varied_layers"]


def layer_plans(plan: Plan, layers_per_stage: Sequence[int]) -> list[Plan]:
    """The plan of every layer in model order; all equal where no pass tells layers apart."""
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


def varied_layers(job: TrainingJob, layers_per_stage: Sequence[int]) -> tuple[Block, ...]:
    """Every block of the model in execution order, each layer compiled under its own options."""
    blocks = compiled_layers(job)
    plans = layer_plans(job.plan, layers_per_stage)
    if all(plan is job.plan for plan in plans):
        return blocks
    variants = {id(plan): compiled_layers(replace(job, plan=plan)) for plan in plans}
    found, layer = list[Block](), 0
    for index, block in enumerate(blocks):
        if block.name == "layer":
            block = variants[id(plans[layer])][index]
            layer += 1
        found.append(block)
    return tuple(found)
