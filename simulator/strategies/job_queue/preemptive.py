"""Queues that stop running jobs for others; a stopped gang saves its state and goes on later."""

from __future__ import annotations

import math

from simulator.registry import register
from simulator.strategies.cluster_protocols import QueuedJob, QueueView
from simulator.strategies.job_queue.basic import SCHEDULERS, Fifo

__all__ = ["PriorityPreemption", "ShortestRemainingTimeFirst", "Tiresias"]


@register(
    "srtf",
    kind="policy",
    area="cluster",
    family="job_queue",
    cites=("Schrage, Operations Research 1968",),
    catalogue=(SCHEDULERS,),
    validated_by="closed_form",
)
class ShortestRemainingTimeFirst(Fifo):
    """The job with the least time left runs, whoever runs now."""

    preemptive = True
    passing = True

    def key(self, job: QueuedJob, view: QueueView) -> tuple[float, ...]:
        """By the estimate of what is left."""
        return (job.estimate - job.run + job.remaining_at(view.now), job.submit, job.number)

    def passes(self, job: QueuedJob, blocked: QueuedJob, view: QueueView) -> bool:
        """A gang that does not fit waits aside."""
        return True


@register(
    "tiresias", kind="policy", area="cluster", family="job_queue", cites=("Gu et al., Tiresias, NSDI 2019",),
    catalogue=(SCHEDULERS,), validated_by="closed_form",
)  # fmt: skip
class Tiresias(Fifo):
    """Least attained service first, in two dimensions (time × accelerators) and few steps; knows no run times.

    Parameters
    ----------
    limits
        Accelerator-seconds at which a job falls to the next lower queue; inside a queue, first come first served.
    """

    preemptive = True
    passing = True

    def __init__(self, limits: tuple[float, ...] = (3600.0, 36000.0)) -> None:
        self.limits = limits

    def key(self, job: QueuedJob, view: QueueView) -> tuple[float, ...]:
        """By queue, then submission."""
        attained = job.attained_at(view.now)
        return (sum(attained >= limit * (1 - 1e-12) for limit in self.limits), job.submit, job.number)

    def passes(self, job: QueuedJob, blocked: QueuedJob, view: QueueView) -> bool:
        """A gang that does not fit waits aside."""
        return True

    def next_change(self, job: QueuedJob, now: float) -> float:
        """When it falls to the next queue."""
        attained = job.attained_at(now)
        ahead = next((limit for limit in self.limits if attained < limit * (1 - 1e-12)), math.inf)
        return now + (ahead - attained) / job.gpus


@register(
    "priority", kind="policy", area="cluster", family="job_queue",
    cites=("Weng et al., MLaaS in the Wild, NSDI 2022",), catalogue=(SCHEDULERS,), validated_by="closed_form",
)  # fmt: skip
class PriorityPreemption(Fifo):
    """Higher priority first, and gangs of lower priority give way."""

    preemptive = True

    def key(self, job: QueuedJob, view: QueueView) -> tuple[float, ...]:
        """By priority, then submission."""
        return (-job.priority, job.submit, job.number)
