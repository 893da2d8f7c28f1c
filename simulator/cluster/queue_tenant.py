"""A queue of jobs as a tenant of the cluster: its nodes, its policies, what became of every job, and the bill."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.cluster.economics import bill, item_rows, mean_draw, money_columns
from simulator.cluster.power_sources import QueueSource
from simulator.cluster.queue import JobQueueProcess, QueueRules
from simulator.cluster.queue_failures import QueueFailures
from simulator.cluster.queue_loans import Loans
from simulator.cluster.queue_nodes import NodePool
from simulator.cluster.queue_run import misfits, queue_result, queued_jobs
from simulator.cluster.queue_tables import queue_tables
from simulator.cluster.tenants import ClusterScenario, Commons
from simulator.hardware.types import Cluster
from simulator.network.topology import build
from simulator.registry import lookup
from simulator.results.tables import Columns
from simulator.workload.job_streams import JobStream

if TYPE_CHECKING:
    import simpy

    from simulator.cluster.power_grid import PowerGrid

__all__ = ["QueueTenant"]


class QueueTenant:
    """Jobs that share some nodes of the cluster by the rules of a queue."""

    def __init__(self, stream: JobStream, scenario: ClusterScenario) -> None:
        self.stream, self.seed = stream, scenario.seed
        self.cluster = scenario.cluster_of(stream.name)
        sizes = [group.node.accelerators for group in self.cluster.groups for _ in range(group.count)]
        place = scenario.placement(stream.name)
        self.nodes = list(range(place.first_node, place.first_node + place.nodes))
        self.loans = Loans(stream.borrow, scenario, len(sizes)) if stream.borrow else None
        if self.loans is not None:
            self.nodes += self.loans.nodes
            sizes += self.loans.sizes
        self.pool = NodePool(sizes, self._leaves(scenario.cluster), range(place.nodes, len(sizes)))
        options = dict(stream.queue_options)
        shares = dict(stream.shares)
        weighs = stream.queue == "drf"
        if weighs and shares:
            options["weights"] = shares
        model = scenario.failures
        restart = stream.restart
        if restart is None:
            restart = model.detection + model.restart if model is not None else 0.0
        limits = {} if weighs else {tenant: share * self.pool.largest for tenant, share in shares.items()}
        self.rules = QueueRules(stream.preemption, stream.migration, stream.spread, stream.checkpoint, restart, limits)
        self.queue = lookup("job_queue", stream.queue)(**options)
        self.placement = lookup("placement", stream.placement)(**dict(stream.placement_options))
        self.reason = "; ".join(misfits(stream.jobs, self.pool, self.queue, self.placement, self.rules))
        self.jobs = queued_jobs(stream.jobs, scaling=stream.scaling)
        self.process: JobQueueProcess | None = None
        self.failures: QueueFailures | None = None
        self.power: PowerGrid | None = None

    def _leaves(self, cluster: Cluster) -> list[int]:
        """Leaf switch of every node of the queue: as the fabric is wired, unless the queue says how many share one."""
        if per_leaf := self.stream.nodes_per_leaf:
            return [number // per_leaf for number in range(len(self.nodes))]
        _, leaf = np.unique(build(cluster).leaf_of_node[self.nodes], return_inverse=True)
        found: list[int] = leaf.ravel().tolist()
        return found

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the bill rests on."""
        return (f"{self.stream.name}: energy counts accelerators at work as fully busy, an upper bound",)

    def start(self, commons: Commons) -> simpy.Event | None:
        """Open the queue, and have its nodes watched by what fails."""
        if self.reason:
            return None
        self.process = JobQueueProcess(commons.clock, self.pool, self.queue, self.placement, self.rules)
        if commons.failing is not None:
            self.failures = QueueFailures(self.process, self.seed)
            commons.failing.watch(self.failures, self.nodes)
        if self.loans is not None:
            self.loans.begin(commons.fleets.get(self.stream.borrow), self.process, self.failures)
        if commons.power is not None:
            clock = self.cluster.groups[0].node.accelerator
            commons.power.add(QueueSource(self.stream.name, self.process, self.nodes, clock.clock * clock.pace))
            self.process.on_change, self.power = commons.power.changed, commons.power
        self.process.submit(self.jobs)
        return self.process.done

    def tables(self) -> tuple[Mapping[str, Columns], dict[str, Any]]:
        """Jobs, tenants, the state of the queue over time, and the summary."""
        stream, capacity = self.stream, self.pool.largest
        row: dict[str, Any] = {
            "workload": stream.name, "kind": "jobs", "depth": "run", "feasible": not self.reason,
            "reason": self.reason, "plan": f"{stream.queue}, {stream.placement}", "accelerators": capacity,
            "nodes": stream.nodes, "jobs": len(stream.jobs),
        }  # fmt: skip
        if self.process is None:
            return {"summary": {key: [value] for key, value in row.items()}}, {}
        result = queue_result(self.process, self.jobs)
        tables = queue_tables(stream, self.process, self.jobs, result, self.failures)
        busy, span = float(result.service.sum()), result.makespan
        borrowed = self.loans.accelerator_seconds(self.process.clock.now) if self.loans is not None else 0.0
        paid, busy = span + borrowed / capacity, busy / capacity
        draw = mean_draw(self.cluster, capacity, 1.0, 1.0)
        metered = self.power.metered(stream.name) if self.power is not None else None
        energy = draw.energy(busy, max(0.0, paid - busy))
        if metered is not None:
            energy = draw.metered(paid, metered, self.cluster.site.pue)
        charge = bill(stream.name, self.cluster, capacity, paid, energy)
        row |= {key: values[0] for key, values in tables.pop("summary").items()}
        if self.loans is not None:
            row["borrowed_accelerator_hours"] = borrowed / 3600.0
        row |= self.power.columns(stream.name) if self.power is not None else {}
        row |= {k: v for k, v in money_columns(charge, span, math.nan).items() if "token" not in k}
        return (
            {"summary": {key: [value] for key, value in row.items()}, **tables, "costs": item_rows(charge.items)},
            {f"{stream.name}.run": result},
        )
