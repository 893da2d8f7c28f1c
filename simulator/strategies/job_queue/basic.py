"""Queues that let a job run to its end once it has started."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

from simulator.registry import register
from simulator.strategies.cluster_protocols import QueuedJob, QueueView

__all__ = ["Backfill", "Drf", "Fifo", "Quota", "ShortestJobFirst"]

SCHEDULERS = "Philly/PAI/Saturn-class job schedulers (MLaaS-in-the-wild ◇, Pollux, Sia, Tiresias)"


@register(
    "fifo", kind="policy", area="cluster", family="job_queue", cites=("Jeon et al., Philly, USENIX ATC 2019",),
    catalogue=(SCHEDULERS,), validated_by="closed_form",
)  # fmt: skip
class Fifo:
    """First come, first served; a gang that does not fit holds up all behind it."""

    name: str
    preemptive = False
    dynamic = False
    passing = False
    reach = sys.maxsize

    def key(self, job: QueuedJob, view: QueueView) -> tuple[float, ...]:
        """By submission."""
        return (job.submit, job.number)

    def admits(self, job: QueuedJob, view: QueueView) -> bool:
        """Always."""
        return True

    def passes(self, job: QueuedJob, blocked: QueuedJob, view: QueueView) -> bool:
        """Never."""
        return False

    def next_change(self, job: QueuedJob, now: float) -> float:
        """Never."""
        return math.inf


@register(
    "backfill", kind="policy", area="cluster", family="job_queue", cites=("Lifka, EASY backfilling, JSSPP 1995",),
    catalogue=(SCHEDULERS,), validated_by="closed_form",
)  # fmt: skip
class Backfill(Fifo):
    """First come, first served; jobs that end before the first one's reservation fill the gaps (EASY, without extras).

    The reservation is of nodes, not of a number: jobs that would run into it never pass, so that a large gang is not
    starved by fragments.

    Parameters
    ----------
    reach
        Waiting jobs that are tried at each event, from the first on, as schedulers of real clusters limit it.
    """

    passing = True

    def __init__(self, reach: int = 1000) -> None:
        self.reach = reach

    def passes(self, job: QueuedJob, blocked: QueuedJob, view: QueueView) -> bool:
        """If it ends before the first one can start."""
        return view.now + job.estimate <= view.earliest(blocked)


@register(
    "sjf",
    kind="policy",
    area="cluster",
    family="job_queue",
    cites=("Cobham, Operations Research 1954",),
    catalogue=(SCHEDULERS,),
    validated_by="closed_form",
)
class ShortestJobFirst(Fifo):
    """The shortest job first, by its estimate."""

    def key(self, job: QueuedJob, view: QueueView) -> tuple[float, ...]:
        """By estimated run time."""
        return (job.estimate, job.submit, job.number)


@register(
    "drf", kind="policy", area="cluster", family="job_queue",
    cites=("Ghodsi et al., Dominant Resource Fairness, NSDI 2011",), catalogue=(SCHEDULERS,),
    validated_by="closed_form",
)  # fmt: skip
class Drf(Fifo):
    """The tenant with the smallest weighted share of its dominant resource first.

    Accelerators are the only resource here, so that this is weighted max-min fairness between tenants.

    Parameters
    ----------
    weights
        Tenant → weight, 1 where nothing is said.
    """

    dynamic = True
    passing = True

    def __init__(self, weights: Mapping[int, float] | None = None) -> None:
        self.weights = dict(weights or {})

    def key(self, job: QueuedJob, view: QueueView) -> tuple[float, ...]:
        """By the tenant's share."""
        return (view.used.get(job.tenant, 0) / self.weights.get(job.tenant, 1.0), job.submit, job.number)

    def passes(self, job: QueuedJob, blocked: QueuedJob, view: QueueView) -> bool:
        """Of another tenant: a large gang holds up its own tenant only."""
        return job.tenant != blocked.tenant


@register(
    "quota",
    kind="policy",
    area="cluster",
    family="job_queue",
    cites=("Jeon et al., Philly, USENIX ATC 2019",),
    catalogue=(SCHEDULERS,),
    validated_by="closed_form",
)
class Quota(Fifo):
    """First come, first served inside fixed shares of the cluster per tenant.

    Parameters
    ----------
    shares
        Tenant → share of the accelerators; a tenant without one may use all.

    Raises
    ------
    ValueError
        If a share is negative or they add up to more than 1.
    """

    passing = True

    def __init__(self, shares: Mapping[int, float] | None = None) -> None:
        self.shares = dict(shares or {})
        if min(self.shares.values(), default=0.0) < 0 or sum(self.shares.values()) > 1 + 1e-9:
            raise ValueError(f"quotas must be at least 0 and add up to at most 1, not {sum(self.shares.values()):g}")

    def admits(self, job: QueuedJob, view: QueueView) -> bool:
        """While the tenant's share has room."""
        limit = self.shares.get(job.tenant, 1.0) * view.capacity
        return view.used.get(job.tenant, 0) + job.gpus <= limit + 1e-9

    def passes(self, job: QueuedJob, blocked: QueuedJob, view: QueueView) -> bool:
        """Of another tenant."""
        return job.tenant != blocked.tenant
