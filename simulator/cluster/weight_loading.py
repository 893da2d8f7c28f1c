"""Weights on their way into the accelerators of a replica that starts, over the cluster's network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from simulator.cluster.tenants import Commons
from simulator.errors import ConfigError
from simulator.hardware.types import Cluster
from simulator.network.topology import Topology

__all__ = ["WeightFlows", "endpoints_of", "nominal_rate"]


def endpoints_of(topology: Topology, place: Any) -> list[tuple[int, int]]:
    """(node, end point) of the consecutive accelerators of a placement."""
    found: list[tuple[int, int]] = []
    first = 0
    for node in range(topology.node_count):
        size = _size_of(topology.cluster, node)
        low, high = max(place.first - first, 0), min(place.first + place.accelerators - first, size)
        found += [(node, topology.accelerator(node, local)) for local in range(low, high)]
        first += size
    return found


def _size_of(cluster: Cluster, node: int) -> int:
    for group in cluster.groups:
        if node < group.count:
            return group.node.accelerators
        node -= group.count
    raise IndexError(node)


def nominal_rate(cluster: Cluster, source: str, accelerators: int) -> float:
    """Rate into each of the accelerators of one replica from ``source`` with nobody else on the network [B/s].

    Raises
    ------
    ConfigError
        If the nodes have no such drive, or the cluster no such storage.
    """
    node = cluster.groups[0].node
    sharing = min(accelerators, node.accelerators)
    link = node.accelerator.host_link.bandwidth / min(node.accelerators_per_host_link, sharing)
    if source == "host":
        return link
    if source == "nvme":
        if node.nvme is None:
            raise ConfigError(
                f"{node.name} has no NVMe to load weights from, choose 'host' or a storage of the cluster"
            )
        return min(link, node.nvme.read / sharing)
    for storage in cluster.storage:
        if storage.name == source:
            ports = node.nics * node.nic.bandwidth / sharing
            return min(ports, storage.read / accelerators)
    known = ", ".join(["nvme", "host", *(s.name for s in cluster.storage)])
    raise ConfigError(f"the cluster has no storage '{source}' to load weights from, known: {known}")


class WeightFlows:
    """Loads the weights of a deployment's replicas as flows on the shared fabric.

    Parameters
    ----------
    commons
        Clock and fabric.
    workload
        Name of the deployment, whose placements say where its replicas are.
    size
        Weights of one accelerator [B], those of each pipeline stage in turn.
    source
        ``nvme`` or ``host`` of the node, or a shared storage of the cluster.
    """

    def __init__(self, commons: Commons, workload: str, size: Sequence[float], source: str) -> None:
        self.commons, self.workload, self.size, self.source = commons, workload, size, source

    def __call__(self, replica: int, done: Callable[[], object]) -> None:
        """Start to load; ``done`` is called when the last accelerator has its part."""
        fabric = self.commons.fabric
        topology = fabric.topology
        places = endpoints_of(topology, self.commons.scenario.placement(self.workload, replica))
        per_stage = len(places) // len(self.size)
        flows = []
        for rank, (node, accelerator) in enumerate(places):
            local = {"nvme": topology.nvme, "host": topology.host}.get(self.source)
            start = topology.storage(self.source) if local is None else local(node)
            size = self.size[min(rank // per_stage, len(self.size) - 1)]
            tag = f"{self.workload} weights"
            flows.append(fabric.transfer((start, accelerator), size, tag=tag, endpoints=True))

        def loaded(_: Any) -> None:
            done()

        every = self.commons.clock.all_of(flows)
        assert every.callbacks is not None
        every.callbacks.append(loaded)
