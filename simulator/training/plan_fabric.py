"""What the fabric costs the plan of one stage before anybody knows the other stages: planners price layers with it."""

from __future__ import annotations

from dataclasses import replace

from simulator.hardware.types import Cluster
from simulator.network.built import never_blocks
from simulator.training.link_phases import narrow_links
from simulator.training.pipelined import PipelinedJob
from simulator.training.step import check_job
from simulator.workload.jobs import TrainingJob

__all__ = ["Slow", "fabric_slow"]

Slow = tuple[tuple[str, float], ...]
"""How many times longer messages between scale-up domains take, by mesh axis."""


def fabric_slow(job: TrainingJob, cluster: Cluster) -> Slow:
    """Slow-down by mesh axis of a job alone on its cluster, as the executor finds it; empty where switches never block.

    A plan of one stage stands for as many of them, one behind the other, as the cluster holds: all send at once, which
    is what links between leaves see at the end of a step. A plan that cannot run like that is priced undisturbed.
    """
    plan = job.plan
    if never_blocks(cluster.place.whole if cluster.place is not None else cluster):
        return ()
    stages = min(cluster.accelerator_count // plan.accelerators, job.model.num_hidden_layers)
    if plan.pipeline_parallel == 1 and stages > 1:
        plan = replace(plan, pipeline_parallel=stages)
    whole = replace(job, plan=plan)
    if plan.stages or check_job(whole, cluster):
        return ()
    found = narrow_links(PipelinedJob(whole, cluster, slow={}))
    return tuple(sorted((axis, held.slow) for axis, held in found.items()))
