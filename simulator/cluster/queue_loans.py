"""Serving by day, training by night: a queue has the nodes of a fleet while its replicas are not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.cluster.queue import JobQueueProcess
    from simulator.cluster.queue_failures import QueueFailures
    from simulator.cluster.tenants import ClusterScenario
    from simulator.serving.scaling import ReplicaFleet

__all__ = ["Loans"]


class Loans:
    """Nodes of a fleet's replicas, each of which fills whole nodes.

    A node comes to the queue when its replica is released, and goes back at once when the fleet orders the replica:
    what runs there is stopped, with its state saved.

    Parameters
    ----------
    name
        The deployment.
    first
        Number that the first of the nodes has in the queue's count.

    Attributes
    ----------
    nodes, sizes
        Of the cluster, and their accelerators.
    """

    def __init__(self, name: str, scenario: ClusterScenario, first: int) -> None:
        every = [group.node.accelerators for group in scenario.cluster.groups for _ in range(group.count)]
        replicas = next(d.replicas for d in scenario.deployments if d.name == name)
        self.nodes: list[int] = []
        self._of: list[range] = []
        for replica in range(replicas):
            place = scenario.placement(name, replica)
            start = first + len(self.nodes)
            self.nodes += range(place.first_node, place.first_node + place.nodes)
            self._of.append(range(start, start + place.nodes))
        self.sizes = [every[node] for node in self.nodes]
        self._first = first
        self._since: dict[int, float] = {}
        self._lent = 0.0

    def begin(self, fleet: ReplicaFleet | None, process: JobQueueProcess, failures: QueueFailures | None) -> None:
        """Take what is free, and follow what the fleet does."""
        self.process, self.failures = process, failures
        if failures is not None:
            failures.kept_away.update(range(self._first, self._first + len(self.nodes)))
        if fleet is None:  # the deployment does not work, so that its nodes have nothing to do
            idle = list(range(len(self._of)))
        else:
            fleet.on_machine = self._changed
            idle = fleet.idle()
        for replica in idle:
            self._changed(replica, True)

    def accelerator_seconds(self, now: float) -> float:
        """Lent so far."""
        running = sum((now - since) * self.sizes[node - self._first] for node, since in self._since.items())
        return self._lent + running

    def _changed(self, replica: int, free: bool) -> None:
        """The machines of a replica have nothing to do, or are needed again."""
        self.process.integrate()
        for node in self._of[replica]:
            if free:
                self._take(node)
            else:
                self._return(node)
        self.process.look()

    def _take(self, node: int) -> None:
        if self.process.done.triggered or node in self._since:
            return
        self._since[node] = self.process.clock.now
        self.process.pool.bring(node)
        if self.failures is not None:
            self.failures.kept_away.discard(node)

    def _return(self, node: int) -> None:
        since = self._since.pop(node, None)
        if since is None:
            return
        process = self.process
        self._lent += (process.clock.now - since) * self.sizes[node - self._first]
        for job in [job for job in process.running.values() if any(n == node for n, _ in job.nodes)]:
            process.stop(job)
        if process.pool.size[node]:
            process.pool.remove(node)
        if self.failures is not None:
            self.failures.kept_away.add(node)
