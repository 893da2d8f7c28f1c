"""The nearest plan that fits, for a plan that does not: few changes, each a key of the plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from simulator.hardware.types import Cluster
from simulator.training.pipelined import PipelinedJob
from simulator.training.step import check_job
from simulator.training.tiers import missing_tiers
from simulator.workload.jobs import TrainingJob
from simulator.workload.ops import Tier

__all__ = ["nearest_fit"]

Change = dict[str, object]


def nearest_fit(job: TrainingJob, cluster: Cluster) -> str:
    """``recompute full, zero_stage 1``: changes under which the job fits, none of which could be left out; or nothing.

    Changes are tried from those that cost least time to those that spread the model wider: first one at a time, then
    added up until the job fits, then those that were not needed are taken back.
    """
    changes = list(_changes(job, cluster))
    for change in changes:
        if _fits(_with(job, [change]), cluster):
            return _words([change])
    taken: list[Change] = []
    for change in changes:
        taken = [*(c for c in taken if not c.keys() & change.keys()), change]
        if _fits(_with(job, taken), cluster):
            break
    else:
        return ""
    for change in list(taken):
        fewer = [c for c in taken if c is not change]
        if fewer and _fits(_with(job, fewer), cluster):
            taken = fewer
    return _words(taken)


def _changes(job: TrainingJob, cluster: Cluster) -> Iterator[Change]:
    plan, batch = job.plan, job.batch
    if plan.stages:
        yield from _other_layers(job, cluster)
    if any(s.tensor_parallel > 1 and not s.sequence_parallel for s in plan.stage_plans):
        yield {"sequence_parallel": True}
    if any(s.zero_stage == 0 for s in plan.stage_plans):
        yield {"zero_stage": 1}
    size = batch.micro_batch_size
    while size > 1:
        size = 1 if size % 2 else size // 2
        yield {"micro_batch_size": size}
    if any(s.recompute == "none" for s in plan.stage_plans):
        yield {"recompute": "selective"}
    if any(s.recompute in ("none", "selective") for s in plan.stage_plans):
        yield {"recompute": "full"}
    if plan.stages:
        return
    if plan.pipeline_parallel == 1 and plan.zero_stage < 3:
        yield {"zero_stage": 3}
    wider = 2
    while plan.data_parallel % wider == 0 and wider <= 64:
        yield {"tensor_parallel": plan.tensor_parallel * wider, "data_parallel": plan.data_parallel // wider}
        yield {"pipeline_parallel": plan.pipeline_parallel * wider, "data_parallel": plan.data_parallel // wider}
        wider *= 2


def _other_layers(job: TrainingJob, cluster: Cluster) -> Iterator[Change]:
    """Some layers of the stage with the least room moved to the one with most."""
    plan = job.plan
    if check_job(job, cluster) or any(len(s.layers) > 1 or s.places or s.groups for s in plan.stages):
        return
    rooms = [s.capacity - s.peak for s in PipelinedJob(job, cluster).memory().stages if s.tier is Tier.HBM]
    full, free = rooms.index(min(rooms)), rooms.index(max(rooms))
    for moved in range(1, plan.stages[full].layers[0]):
        layers = [stage.layers[0] for stage in plan.stages]
        layers[full], layers[free] = layers[full] - moved, layers[free] + moved
        yield {"stages": tuple(replace(s, layers=(n,)) for s, n in zip(plan.stages, layers, strict=True))}


def _with(job: TrainingJob, changes: list[Change]) -> TrainingJob:
    merged: Change = {key: value for change in changes for key, value in change.items()}
    size = merged.pop("micro_batch_size", job.batch.micro_batch_size)
    plan = job.plan.with_(**merged)
    cleared = {key: None for key in merged if key in ("sequence_parallel", "zero_stage", "recompute")}
    if plan.stages and cleared:  # what all stages shall do is no longer said by each of them
        stages = tuple(replace(s, groups=(), **cleared) for s in plan.stages)  # type: ignore[arg-type]
        plan = plan.with_(stages=stages)
    return replace(job, plan=plan, batch=replace(job.batch, micro_batch_size=int(str(size))))


def _fits(job: TrainingJob, cluster: Cluster) -> bool:
    if check_job(job, cluster):
        return False
    pipeline = PipelinedJob(job, cluster)
    memory = pipeline.memory()
    return memory.fits and not missing_tiers(pipeline.plan, memory, pipeline.node_of_rank)


def _words(changes: list[Change]) -> str:
    return ", ".join(_said(name, value) for change in changes for name, value in change.items())


def _said(name: str, value: object) -> str:
    if name == "stages" and isinstance(value, tuple):
        return f"stages of {', '.join(str(stage.layers[0]) for stage in value)} layers"
    return f"{name} {str(value).lower() if isinstance(value, bool) else value}"
