"""What failures of nodes do to a deployment: replicas are lost with what they hold, and started again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simulator.cluster.failures import Hit
from simulator.serving.scaling import ReplicaFleet

if TYPE_CHECKING:
    from simulator.cluster.tenants import Commons

__all__ = ["ReplicaFailures"]


class ReplicaFailures:
    """Stands between the process that fails nodes and a fleet of replicas.

    Parameters
    ----------
    fleet
        The replicas.
    name, replicas
        The deployment, and the most replicas it has.
    seed
        Of which replica on a node it hits.
    """

    def __init__(self, commons: Commons, fleet: ReplicaFleet, name: str, replicas: int, seed: int) -> None:
        self.fleet, self.random = fleet, np.random.Generator(np.random.PCG64([seed, 3]))
        model = commons.scenario.failures
        self.detection = model.detection if model is not None else 0.0
        on_node: dict[int, list[int]] = {}
        for replica in range(replicas):
            place = commons.scenario.placement(name, replica)
            for node in range(place.first_node, place.first_node + place.nodes):
                on_node.setdefault(node, []).append(replica)
        self.nodes = list(on_node)
        self._on_node = list(on_node.values())
        self._share = 1.0
        if replicas:
            sizes = [g.node.accelerators for g in commons.scenario.cluster.groups for _ in range(g.count)]
            first = commons.scenario.placement(name, 0)
            self._share = min(1.0, first.accelerators / first.nodes / sizes[first.first_node])

    @property
    def alive(self) -> bool:
        """Whether there are requests to come or to end."""
        return not self.done

    @property
    def done(self) -> bool:
        """Whether all requests have ended."""
        done = self.fleet.process.done
        return done is not None and done.triggered

    def fail(self, hit: Hit) -> None:
        """The node at a position fails with all its replicas, or one of the processes on it."""
        replicas = self._on_node[hit.position]
        if hit.replacement is None:
            # An accelerator of the node is drawn, which one of the replicas holds or nobody.
            drawn = int(self.random.random() / self._share)
            replicas = replicas[drawn : drawn + 1]
        for replica in replicas:
            self.fleet.fail(replica, hit.kind, self.detection, hit.replacement)

    def degrade(self, position: int, speed: float) -> None:
        """Replicas keep their speed: iteration times of a slow node are not known (a warning says so)."""
