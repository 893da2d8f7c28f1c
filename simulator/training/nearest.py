"""The nearest plan that fits, for a plan that does not: few changes, each a key of the plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from simulator.hardware.types import Cluster
from simulator.training.pipelined import PipelinedJob
from simulator.training.step import check_job
from simulator.training.tiers import missing_tiers
from simulator.workload.jobs import TrainingJob

__all__ = ["nearest_fit"]

Change = dict[str, object]


def nearest_fit(job: TrainingJob, cluster: Cluster) -> str:
    """``recompute full, zero_stage 1``: changes under which the job fits, none of which could be left out; or nothing.

    Changes are tried from those that cost least time to those that spread the model wider: first one at a time, then
    added up until the job fits, then those that were not needed are taken back.
    """
    changes = list(_changes(job))
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


def _changes(job: TrainingJob) -> Iterator[Change]:
    plan, batch = job.plan, job.batch
    if plan.tensor_parallel > 1 and not plan.sequence_parallel:
        yield {"sequence_parallel": True}
    if plan.zero_stage == 0:
        yield {"zero_stage": 1}
    if batch.micro_batch_size > 1:
        yield {"micro_batch_size": 1}
    if plan.recompute == "none":
        yield {"recompute": "selective"}
    if plan.recompute in ("none", "selective"):
        yield {"recompute": "full"}
    if plan.pipeline_parallel == 1 and plan.zero_stage < 3:
        yield {"zero_stage": 3}
    wider = 2
    while plan.data_parallel % wider == 0 and wider <= 64:
        yield {"tensor_parallel": plan.tensor_parallel * wider, "data_parallel": plan.data_parallel // wider}
        yield {"pipeline_parallel": plan.pipeline_parallel * wider, "data_parallel": plan.data_parallel // wider}
        wider *= 2


def _with(job: TrainingJob, changes: list[Change]) -> TrainingJob:
    merged: Change = {key: value for change in changes for key, value in change.items()}
    size = merged.pop("micro_batch_size", job.batch.micro_batch_size)
    return replace(job, plan=job.plan.with_(**merged), batch=replace(job.batch, micro_batch_size=int(str(size))))


def _fits(job: TrainingJob, cluster: Cluster) -> bool:
    if check_job(job, cluster):
        return False
    pipeline = PipelinedJob(job, cluster)
    memory = pipeline.memory()
    return memory.fits and not missing_tiers(pipeline.plan, memory, pipeline.node_of_rank)


def _words(changes: list[Change]) -> str:
    pairs = [(k, v) for change in changes for k, v in change.items()]
    return ", ".join(f"{name} {str(value).lower() if isinstance(value, bool) else value}" for name, value in pairs)
