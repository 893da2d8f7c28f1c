"""Queues that know when jobs should have ended."""

from __future__ import annotations

from simulator.registry import register
from simulator.strategies.cluster_protocols import QueuedJob, QueueView
from simulator.strategies.job_queue.basic import SCHEDULERS, Fifo

__all__ = ["EarliestDeadlineFirst"]


@register(
    "edf", kind="policy", area="cluster", family="job_queue",
    cites=("Jackson, Management Science Research Project 43, UCLA 1955", "Liu and Layland, JACM 1973"),
    catalogue=(SCHEDULERS,), validated_by="closed_form",
)  # fmt: skip
class EarliestDeadlineFirst(Fifo):
    """The job whose deadline comes first runs, whoever runs now; those without a deadline come last, in their order.

    Parameters
    ----------
    preemptive
        Whether running jobs are stopped for more urgent ones.
    """

    passing = True

    def __init__(self, preemptive: bool = True) -> None:
        self.preemptive = preemptive

    def key(self, job: QueuedJob, view: QueueView) -> tuple[float, ...]:
        """By deadline, then submission."""
        return (job.deadline, job.submit, job.number)

    def passes(self, job: QueuedJob, blocked: QueuedJob, view: QueueView) -> bool:
        """A gang that does not fit waits aside."""
        return True
