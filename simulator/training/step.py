"""One training step: blocks on streams, stages in a pipeline, reductions and update at the end.

``estimate_step(job, cluster, depth)`` answers at two depths that share Plan, Ops and cost: ``estimate`` gives the
roofline bound and an upper bound of memory without running anything, ``step`` runs the executors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from simulator.hardware.types import Cluster
from simulator.results.estimate import Estimate, MemoryLedger, TimeBreakdown, Traffic
from simulator.strategies.compile import check_plan
from simulator.training.goal import goal_metrics, goal_notes, goal_reason
from simulator.training.pipelined import PipelinedJob
from simulator.training.stage_checks import check_stages
from simulator.training.step_metrics import step_interval, step_metrics
from simulator.training.tiers import missing_tiers
from simulator.workload.jobs import TrainingJob

__all__ = ["check_job", "estimate_step"]


def check_job(job: TrainingJob, cluster: Cluster) -> list[str]:
    """Why this job cannot run on this cluster as planned; empty when it can (memory is judged later)."""
    plan, batch = job.plan, job.batch
    reasons = [*check_stages(job, cluster)] if plan.stages else check_plan(job.model, plan)
    if plan.accelerators > cluster.accelerator_count:
        reasons.append(
            f"the plan needs {plan.accelerators} accelerators but the cluster has {cluster.accelerator_count}"
        )
    share = batch.micro_batch_size * plan.data_parallel
    if batch.global_batch_size % share:
        below, above = batch.global_batch_size // share * share, (batch.global_batch_size // share + 1) * share
        near = f"{below} or {above}" if below else str(above)
        reasons.append(
            f"global_batch_size {batch.global_batch_size} is not a multiple of "
            f"micro_batch_size × data_parallel = {share}; use {near}"
        )
    elif not (plan.stages and reasons) and (reason := PipelinedJob.check_schedule(job)):
        reasons.append(reason)
    if not plan.stages and plan.expert_parallel > 1 and plan.expert_ranks % plan.expert_parallel:
        over = "tensor_parallel × " * plan.folds_experts + "data_parallel × context_parallel"
        reasons.append(f"expert_parallel {plan.expert_parallel} does not divide {over} = {plan.expert_ranks}")
    if reason := goal_reason(job):
        reasons.append(reason)
    return reasons


def estimate_step(
    job: TrainingJob, cluster: Cluster, depth: Literal["estimate", "step"] = "step", with_interval: bool = True
) -> Estimate:
    """Time, memory and traffic of one step of ``job`` on ``cluster``.

    Parameters
    ----------
    job
        Model, framework, batch and plan.
    cluster
        Nodes in order; ranks are placed consecutively (tp innermost, then cp, dp, pp).
    depth
        ``estimate``: bounds only. ``step``: executors.
    with_interval
        False leaves out the interval, which prices the job again for every constant.

    Returns
    -------
    Estimate
        Infeasible with a reason if the plan does not work or does not fit; memory is checked before anything is run.
    """
    if reasons := check_job(job, cluster):
        return _refused("; ".join(reasons), depth)
    pipeline = PipelinedJob(job, cluster)
    memory = pipeline.memory()
    if reason := missing_tiers(pipeline.plan, memory, pipeline.node_of_rank):
        return _refused(reason, depth, memory)
    if not memory.fits:
        return _refused(memory.reason(), depth, memory)
    floor = pipeline.floor()
    if depth == "estimate":
        parts = {"roofline": floor}
        return Estimate(
            depth, floor, floor, TimeBreakdown(parts), memory, pipeline.traffic(),
            metrics=goal_metrics(job, floor), warnings=(*pipeline.warnings(), *goal_notes(job)),
        )  # fmt: skip
    step = pipeline.run()
    interval = step_interval(pipeline, step) if with_interval else None
    return Estimate(
        "step",
        step.seconds,
        floor,
        TimeBreakdown(step.parts),
        memory,
        pipeline.traffic(),
        interval,
        metrics={**step_metrics(pipeline, step), **goal_metrics(job, step.seconds)},
        shares=pipeline.trust_shares(),
        warnings=(*pipeline.warnings(), *goal_notes(job)),
        details={
            "timeline": step.timeline,
            "pipeline": pipeline,
            "run": step,
            "constants": dict(pipeline.constants.entries),
        },
    )


def _refused(reason: str, depth: Literal["estimate", "step"], memory: MemoryLedger | None = None) -> Estimate:
    empty: Mapping[str, float] = {}
    return Estimate(
        depth,
        math.nan,
        math.nan,
        TimeBreakdown(empty),
        memory or MemoryLedger(()),
        Traffic(empty),
        feasible=False,
        reason=reason,
    )
