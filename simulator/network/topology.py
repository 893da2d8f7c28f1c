"""The network of a whole cluster: nodes, ports, fabric, storage, as one table of directed links.

Endpoints are numbered: accelerators (rank = position over all nodes) first, then the hosts' memories, then the
nodes' local drives, then shared storage. Ways are computed when asked for, from arithmetic on grids.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError, unknown_name
from simulator.hardware.types import Cluster
from simulator.network import routes
from simulator.network.links import KINDS, Ids, Links, NetworkBuilder
from simulator.network.node_layer import NodeLayer, build_nodes
from simulator.network.scaleup import switch_links
from simulator.network.wiring import PATH, Options, Ports, Wiring, topology_class

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["Topology", "build"]


@dataclass(frozen=True, eq=False)
class Topology:
    """A cluster's network.

    Attributes
    ----------
    links
        All directed links: capacity [B/s], latency [s], kind, names.
    nodes, ports, wiring
        The inside of the nodes, the network ports, and what joins them.
    port_out, port_in
        [ports], links of each port.
    switch_out, switch_in
        [accelerators], links to and from a scale-up switch, −1 where there is none.
    """

    cluster: Cluster
    links: Links
    nodes: NodeLayer
    ports: Ports
    wiring: Wiring
    port_out: Ids
    port_in: Ids
    switch_out: Ids
    switch_in: Ids

    @property
    def name(self) -> str:
        """Name of the fabric's topology."""
        return self.wiring.name

    @property
    def accelerator_count(self) -> int:
        """Number of accelerators; their endpoints are 0 … count − 1."""
        return len(self.nodes.node_of)

    @property
    def node_count(self) -> int:
        """Number of nodes."""
        return len(self.nodes.first_rank)

    def accelerator(self, node: int, local: int) -> int:
        """Endpoint of accelerator ``local`` of ``node``."""
        return int(self.nodes.first_rank[node]) + local

    def host(self, node: int) -> int:
        """Endpoint of the host memory of ``node``."""
        return self.accelerator_count + node

    def nvme(self, node: int) -> int:
        """Endpoint of the local drive of ``node``.

        Raises
        ------
        ConfigError
            If the node has none.
        """
        if self.nodes.nvme_read[node] < 0:
            raise ConfigError(f"node {node} has no local drive: choose a node profile with nvme, or another tier")
        return self.accelerator_count + self.node_count + node

    def storage(self, name: str) -> int:
        """Endpoint of the shared storage called ``name``.

        Raises
        ------
        ConfigError
            If the cluster has none of that name.
        """
        names = [s.name for s in self.cluster.storage]
        if name not in names:
            raise ConfigError(unknown_name("storage", name, names))
        return self.accelerator_count + 2 * self.node_count + names.index(name)

    def is_accelerator(self, endpoint: int) -> bool:
        """Whether an endpoint is an accelerator."""
        return endpoint < self.accelerator_count

    def is_nvme(self, endpoint: int) -> bool:
        """Whether an endpoint is a local drive."""
        return 0 <= endpoint - self.accelerator_count - self.node_count < self.node_count

    def node_of(self, endpoint: int) -> int:
        """Node that holds an endpoint, −1 for shared storage.

        Raises
        ------
        IndexError
            If there is no such endpoint.
        """
        last = self.accelerator_count + 2 * self.node_count + len(self.cluster.storage)
        if not 0 <= endpoint < last:
            raise IndexError(f"there is no endpoint {endpoint}: they are numbered 0 to {last - 1}")
        if endpoint < self.accelerator_count:
            return int(self.nodes.node_of[endpoint])
        number = endpoint - self.accelerator_count
        return number % self.node_count if number < 2 * self.node_count else -1

    def storage_port(self, endpoint: int) -> int:
        """Port of a shared storage endpoint."""
        return self.ports.count + endpoint - self.accelerator_count - 2 * self.node_count

    def path(self, src: int, dst: int, flow_hash: int = 0) -> tuple[int, ...]:
        """Links from endpoint ``src`` to ``dst``; among equal ways the one the hash of the flow picks (ECMP)."""
        return routes.path(self, src, dst, flow_hash)

    def path_avoiding(self, src: int, dst: int, down: Collection[int], flow_hash: int = 0) -> tuple[int, ...] | None:
        """As :meth:`path`, around the links in ``down``; ``None`` when there is no such way."""
        return routes.path_avoiding(self, src, dst, down, flow_hash)

    def spread(self, src: int, dst: int, flow_hash: int = 0) -> dict[int, float]:
        """Link → share of the traffic from ``src`` to ``dst`` when it is sprayed over all equal ways."""
        return routes.spread(self, src, dst, flow_hash)

    def loads(self, src: Ids, dst: Ids, volume: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bytes on every link [links] of many messages between accelerators, over the ways of the fabric's routing."""
        found = np.zeros(len(self.links))
        self.add_loads(found, np.asarray(src), np.asarray(dst), np.asarray(volume, np.float64))
        return found

    def add_loads(
        self,
        found: NDArray[np.float64],
        src: Ids,
        dst: Ids,
        volume: NDArray[np.float64],
        capacity: NDArray[np.float64] | None = None,
    ) -> None:
        """As :meth:`loads`, added to ``found`` [links]; round links without ``capacity`` [links], where that is given.

        Raises
        ------
        NoWayError
            If all ways of a message are lost.
        """
        routes.add_loads(self, found, src, dst, volume, capacity)

    @property
    def uses_proxies(self) -> bool:
        """Whether traffic between rails changes rail inside the sender's scale-up domain (PXN)."""
        return self.wiring.rail_aligned and self.cluster.fabric.routing.rail_aware

    @property
    def leaf_of_node(self) -> Ids:
        """[nodes], number of the switch that a node's first port is plugged into; −1 for a node without ports."""
        switch, first = self.wiring.switch, self.nodes.first_port
        has = self.nodes.port_count > 0
        leaf: Ids = np.where(has, switch[np.where(has, first, 0)] if len(switch) else -1, -1)
        return leaf

    def path_latency(self, path: Collection[int]) -> float:
        """Latency [s] of a small message over ``path``.

        A network port's latency is end to end (from memory to memory), so where one is crossed, the host links at
        its ends are not counted again.
        """
        ids = np.fromiter(path, np.int64, len(path))
        latency, kind = self.links.latency[ids], self.links.kind[ids]
        if (kind == KINDS.index("nic")).any():
            return float(latency[kind != KINDS.index("host")].sum())
        return float(latency.sum())

    def to_networkx(self) -> nx.MultiDiGraph[str]:
        """The network as a graph for inspection: vertices and links by name, with capacity, latency, kind and id."""
        import networkx as nx

        graph: nx.MultiDiGraph[str] = nx.MultiDiGraph(name=self.name)
        vertices = [self.links.vertex_names[i] for i in range(len(self.links.vertex_names))]
        graph.add_nodes_from(vertices)
        for i in range(len(self.links)):
            source, target = vertices[self.links.source[i]], vertices[self.links.target[i]]
            graph.add_edge(
                source, target, key=self.links.name(i), id=i, kind=self.links.kind_of(i),
                capacity=float(self.links.capacity[i]), latency=float(self.links.latency[i]),
            )  # fmt: skip
        return graph


def build(cluster: Cluster) -> Topology:
    """The network of ``cluster``.

    Raises
    ------
    ConfigError
        With everything that is wrong: unknown topology or option, links without bandwidth, a graph that falls into
        parts, nodes without network ports, switches with too few ports.
    """
    kind = topology_class(cluster.fabric.topology)
    builder = NetworkBuilder()
    if not cluster.groups or cluster.accelerator_count == 0:
        raise ConfigError("a cluster needs at least one node with an accelerator")
    options = Options(dict(cluster.fabric.options), kind.known_options, builder)
    nodes, ports, latency = build_nodes(builder, cluster, options.shape("scale_up_shape"))
    _check_reach(builder, cluster, nodes, kind)
    builder.issues.raise_if_any()
    ports, latency = _with_storage(builder, cluster, ports, latency)
    wiring = kind(builder, ports, cluster.fabric, options)
    out, into = _port_links(builder, cluster, ports, wiring, latency)
    switches = [switch_links(g.scale_up, g.gpu.size) for g in nodes.groups]
    return Topology(
        cluster, builder.build(), nodes, ports, wiring, out, into,
        np.concatenate([s[0] for s in switches]), np.concatenate([s[1] for s in switches]),
    )  # fmt: skip


def _check_reach(builder: NetworkBuilder, cluster: Cluster, nodes: NodeLayer, kind: type[Wiring]) -> None:
    if nodes.domain_of[0] == nodes.domain_of[-1] or cluster.node_count == 1:
        return
    if not kind.joins_domains:
        builder.issues.add(
            f"'{kind.name}' joins nothing beyond one scale-up domain, but there are "
            f"{nodes.domain_of[-1] + 1}: use fewer nodes or a fabric such as 'rail-optimized'",
            f"{PATH}.topology",
        )
    for group in cluster.groups:
        if group.node.nics < 1:
            builder.issues.add(
                f"'{group.node.name}' has no network port to reach other nodes: give it nics or use one node",
                "cluster.nodes",
            )


def _with_storage(
    builder: NetworkBuilder, cluster: Cluster, ports: Ports, latency: NDArray[np.float64]
) -> tuple[Ports, NDArray[np.float64]]:
    """The same ports and one for each shared storage, behind those of the nodes."""
    if not cluster.storage:
        return ports, latency
    vertices = [int(builder.vertices(f"storage/{s.name}", 1)[0]) for s in cluster.storage]
    none = np.full(len(vertices), -1, np.int64)
    widest = np.array([max(s.read, s.write) for s in cluster.storage], np.float64)
    table = replace(
        ports,
        vertex=np.append(ports.vertex, vertices),
        capacity=np.append(ports.capacity, widest),
        node=np.append(ports.node, none),
        rail=np.append(ports.rail, none),
    )
    return table, np.append(latency, [s.latency for s in cluster.storage])


def _port_links(
    builder: NetworkBuilder, cluster: Cluster, ports: Ports, wiring: Wiring, latency: NDArray[np.float64]
) -> tuple[Ids, Ids]:
    """Links between the ports and their switches; a port's latency is end to end, so half of it counts each way."""
    out: list[Ids] = []
    into: list[Ids] = []
    first_node = first = 0
    for group in cluster.groups:
        per_node = min(group.node.nics, group.node.accelerators)
        here = np.arange(first, first + group.count * per_node).reshape(group.count, per_node)
        at, switch, speed = ports.vertex[here], wiring.switch[here], ports.capacity[here]
        offset = (first_node, 0)
        out.append(builder.links("node{0}/nic{1}:out", "nic", at, switch, speed, latency[here] / 2, offset).ravel())
        into.append(builder.links("node{0}/nic{1}:in", "nic", switch, at, speed, latency[here] / 2, offset).ravel())
        first_node, first = first_node + group.count, first + here.size
    for i, storage in enumerate(cluster.storage, start=ports.count):
        at, switch = ports.vertex[i : i + 1], wiring.switch[i : i + 1]
        name = f"storage/{storage.name}"
        out.append(builder.links(f"{name}:read", "storage", at, switch, storage.read, storage.latency))
        into.append(builder.links(f"{name}:write", "storage", switch, at, storage.write, storage.latency))
    return np.concatenate(out), np.concatenate(into)
