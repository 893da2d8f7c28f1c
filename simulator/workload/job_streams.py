"""Jobs that queue for a share of a cluster, as resolved from a scenario."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from simulator.workload.goodput import Goodput
from simulator.workload.job_traces import JobTable

__all__ = ["JobStream"]


@dataclass(frozen=True, eq=False)
class JobStream:
    """A table of jobs, and the rules by which they get accelerators.

    Attributes
    ----------
    jobs
        Who comes when, and needs what.
    nodes
        Of the cluster, that belong to the queue.
    queue, placement
        Registered names, and ``queue_options``, ``placement_options`` of their classes.
    shares
        Tenant number → share of the accelerators, as written: limits, or weights where the queue knows weights.
    preemption, migration, restart
        What a stopped, a moved and a failed job loses besides its work [s]; ``restart`` ``None``: as failures say.
    checkpoint
        Progress between two saved states [s]; infinite: a failed job begins anew.
    spread
        Speed of a gang on more nodes than it needs.
    nodes_per_leaf
        Nodes below one leaf switch; 0: as the fabric of the cluster is wired.
    borrow
        Deployment whose replicas' nodes the queue has while the replicas are not there; empty: none.
    scaling
        How elastic jobs go with other than the accelerators they ask for.
    """

    name: str
    jobs: JobTable
    nodes: int
    queue: str = "fifo"
    placement: str = "best-fit"
    queue_options: tuple[tuple[str, object], ...] = ()
    placement_options: tuple[tuple[str, object], ...] = ()
    shares: tuple[tuple[int, float], ...] = field(default=())
    preemption: float = 0.0
    migration: float = 0.0
    restart: float | None = None
    checkpoint: float = math.inf
    spread: float = 1.0
    nodes_per_leaf: int = 0
    scaling: Goodput | None = None
    borrow: str = ""
