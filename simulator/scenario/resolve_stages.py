"""Stages of a plan: from their keys to values, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from simulator.hardware.types import Cluster
from simulator.scenario import checks
from simulator.scenario.checks import Problem
from simulator.scenario.spec_stages import StageSpec
from simulator.training.stage_checks import check_stages
from simulator.workload.jobs import TrainingJob
from simulator.workload.stage import LayerGroup, Stage

__all__ = ["range_problems", "stage_problems", "stages_of", "stages_section", "with_degrees"]


def stages_of(specs: Sequence[StageSpec]) -> tuple[Stage, ...]:
    """Stages of a plan; ranges of layers become parts of the model, counted in model order."""
    ranges = sorted(entry for spec in specs for entry in spec.layers if isinstance(entry, tuple))
    part = {entry: place for place, entry in enumerate(ranges)}
    found = []
    for spec in specs:
        given = spec.model_dump(exclude={"layers", "groups"})
        layers = tuple(e[1] - e[0] if isinstance(e, tuple) else e for e in spec.layers)
        places = tuple(part[e] for e in spec.layers if isinstance(e, tuple))
        groups = tuple(LayerGroup(**group.model_dump()) for group in spec.groups)
        found.append(Stage(layers, places, groups=groups, **given))
    return tuple(found)


def stages_section(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Stages as they are written in a scenario: the reverse of :func:`stages_of`."""
    sizes = {p: n for stage in stages for p, n in zip(stage.places, stage.layers, strict=False)}
    first = dict(zip(sorted(sizes), accumulate([0, *(sizes[p] for p in sorted(sizes))]), strict=False))
    section = []
    for stage in stages:
        ranges = [f"{first[p]}-{first[p] + sizes[p] - 1}" for p in stage.places]
        layers: Any = ranges or (stage.layers[0] if len(stage.layers) == 1 else list(stage.layers))
        groups = [{"layers": g.layers, **g.changes()} for g in stage.groups]
        kind = {"accelerator": stage.accelerator} if stage.accelerator else {}
        section.append({"layers": layers, **stage.changes(), **kind, **({"groups": groups} if groups else {})})
    return section


def range_problems(specs: Sequence[StageSpec]) -> Iterator[Problem]:
    """Ranges of layers that leave layers out, or name them twice."""
    entries = [entry for spec in specs for entry in spec.layers]
    ranges = sorted(entry for entry in entries if isinstance(entry, tuple))
    if ranges and len(ranges) < len(entries):
        yield ("plan", "stages"), "give every stage ranges of layers, or every stage numbers of layers"
    expected = 0
    for first, past in ranges:
        if first != expected:
            what = f"layers {expected}-{first - 1} are in no stage" if first > expected else f"layer {first} is in two"
            yield ("plan", "stages"), f"{what}: the ranges must follow each other"
            return
        expected = past


def with_degrees(tensor: int, context: int, stages: Sequence[Stage], given: int) -> tuple[Stage, ...]:
    """Stages that all have a data-parallel degree; empty where none fits ``given`` accelerators.

    Those that name none share what the others leave.
    """
    own, replica = 0, 0
    for stage in stages:
        ranks = (stage.tensor_parallel or tensor) * (stage.context_parallel or context)
        if stage.data_parallel is None:
            replica += ranks
        else:
            own += ranks * stage.data_parallel
    left = given - own
    if replica and (left <= 0 or left % replica):
        return ()
    return tuple(s if s.data_parallel else replace(s, data_parallel=left // replica) for s in stages)


def stage_problems(job: TrainingJob, cluster: Cluster, given: int, where: str, shares: bool) -> Iterator[Problem]:
    """What is wrong with a plan whose stages differ, on the keys of the stages."""
    plan = job.plan
    if not shares and plan.accelerators != given:
        sizes = " + ".join(str(plan.stage_size(rank)) for rank in range(len(plan.stages)))
        yield ("plan", "stages"), f"the stages take {sizes} = {plan.accelerators} accelerators, but {where}"
    problems = list[Problem]()
    for rank, mine in enumerate(plan.stage_plans):
        one = replace(mine, pipeline_parallel=1, virtual_stages=1)
        batch = replace(job.batch, micro_batch_size=1)  # that micro-batches divide is checked below
        for path, message in (*checks.check_model(one, job.model), *checks.check_batch(one, batch, job.model)):
            key = str(path[-1])
            if path[0] == "batch" and key == "global_batch_size":
                continue
            own = path[0] == "plan" and getattr(plan.stages[rank], key, None) is not None
            problems.append((("plan", "stages", rank, key) if own else path, message))
    yield from dict.fromkeys(problems)
    if not problems:
        for reason in check_stages(job, cluster):
            yield ("plan", "stages"), reason
