"""Everything inside the nodes: scale-up networks, host links, network ports, local drives.

Flat arrays by rank (global number of an accelerator), port and node; the fabric between the ports is not here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.hardware.types import Cluster, NodeGroup
from simulator.network.links import Ids, NetworkBuilder
from simulator.network.scaleup import ScaleUpNetwork, scale_up_network
from simulator.network.wiring import Ports

__all__ = ["GroupLayer", "NodeLayer", "build_nodes"]


@dataclass(frozen=True, eq=False)
class GroupLayer:
    """Numbers of the vertices and links of one node group; two-dimensional arrays are [nodes, per node]."""

    gpu: Ids
    host: Ids
    nic: Ids
    host_out: Ids
    host_in: Ids
    uplink_out: Ids
    uplink_in: Ids
    nic_at: Ids
    nic_uplink: Ids
    port_of: Ids
    via_uplink: NDArray[np.bool_]
    port_capacity: float
    port_latency: float
    scale_up: ScaleUpNetwork | None
    nvme_read: Ids
    nvme_write: Ids


@dataclass(frozen=True, eq=False)
class NodeLayer:
    """The nodes of a cluster, joined over its groups.

    Attributes
    ----------
    node_of, port_of, domain_of
        [accelerators]
    place
        [accelerators]: number inside its node group, as scale-up networks count.
    host_out, host_in, uplink_out, uplink_in
        [accelerators], links: accelerator to its PCIe switch and back, that switch to the host and back.
    via_uplink
        [accelerators]: whether traffic to its network port passes the host.
    rail_rank
        [nodes, ports per node]: first accelerator on a port, −1 where there is none.
    first_rank, first_port, port_count
        [nodes]
    nic_uplink_out, nic_uplink_in
        [ports]: links between the host and the PCIe switch of a port, −1 when it is plugged into the host.
    """

    groups: tuple[GroupLayer, ...]
    group_of: Ids
    node_of: Ids
    place: Ids
    domain_of: Ids
    port_of: Ids
    host_out: Ids
    host_in: Ids
    uplink_out: Ids
    uplink_in: Ids
    via_uplink: NDArray[np.bool_]
    rail_rank: Ids
    first_rank: Ids
    first_port: Ids
    port_count: Ids
    nic_uplink_out: Ids
    nic_uplink_in: Ids
    nvme_read: Ids
    nvme_write: Ids


def build_nodes(
    builder: NetworkBuilder, cluster: Cluster, shape: tuple[int, ...] | None
) -> tuple[NodeLayer, Ports, NDArray[np.float64]]:
    """Make the inside of all nodes; returns it, the ports it offers to the fabric, and their latency [s]."""
    groups: list[GroupLayer] = []
    columns: dict[str, list[Ids]] = {}
    first_node = first_rank = first_port = first_domain = 0
    for number, group in enumerate(cluster.groups):
        layer = _group(builder, cluster, group, first_node, shape)
        groups.append(layer)
        nodes, per_node = layer.gpu.shape
        ports = layer.nic.shape[1]
        ranks = np.arange(nodes * per_node)
        size = layer.scale_up.size if layer.scale_up else 1
        node = np.arange(nodes)
        rail_rank = np.full((nodes, max((g.node.accelerators for g in cluster.groups), default=1)), -1, np.int64)
        for rail in range(ports):
            rail_rank[:, rail] = first_rank + node * per_node + int(np.argmax(layer.port_of == rail))
        for name, values in {
            "group_of": np.full(ranks.size, number),
            "node_of": first_node + ranks // per_node,
            "place": ranks,
            "domain_of": first_domain + ranks // size,
            "port_of": (first_port + node[:, None] * ports + layer.port_of[None]) if ports else ranks * 0 - 1,
            "host_out": layer.host_out,
            "host_in": layer.host_in,
            "uplink_out": layer.uplink_out,
            "uplink_in": layer.uplink_in,
            "via_uplink": np.tile(layer.via_uplink, nodes),
            "rail_rank": rail_rank,
            "first_rank": first_rank + node * per_node,
            "first_port": first_port + node * ports,
            "port_count": np.full(nodes, ports),
            "nic_uplink_out": layer.nic_uplink[0],
            "nic_uplink_in": layer.nic_uplink[1],
            "nvme_read": layer.nvme_read,
            "nvme_write": layer.nvme_write,
        }.items():
            columns.setdefault(name, []).append(values if name == "rail_rank" else np.asarray(values).ravel())
        first_node, first_rank, first_port = first_node + nodes, first_rank + ranks.size, first_port + layer.nic.size
        first_domain += -(-ranks.size // size)
    ports_of_nodes = np.concatenate([np.tile(np.arange(g.nic.shape[1]), len(g.nic)) for g in groups])
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    table = Ports(
        vertex=np.concatenate([g.nic_at.ravel() for g in groups]),
        capacity=np.concatenate([np.full(g.nic.size, g.port_capacity) for g in groups]),
        node=np.repeat(np.arange(first_node), joined["port_count"]),
        rail=ports_of_nodes,
        count=first_port,
    )
    latency = np.concatenate([np.full(g.nic.size, g.port_latency) for g in groups])
    return NodeLayer(tuple(groups), **joined), table, latency  # type: ignore[arg-type]


def _group(
    builder: NetworkBuilder, cluster: Cluster, group: NodeGroup, first: int, shape: tuple[int, ...] | None
) -> GroupLayer:
    node, count = group.node, group.count
    per_node, host_link = node.accelerators, node.accelerator.host_link
    ports = min(node.nics, per_node)
    shared = max(1, node.accelerators_per_host_link)
    gpu = builder.vertices("node{0}/gpu{1}", count, per_node, offset=(first, 0))
    host = builder.vertices("node{0}/host", count, offset=(first,))
    switch_of = np.arange(per_node) // shared
    pcie = builder.vertices("node{0}/pcie{1}", count, int(switch_of.max(initial=-1)) + 1, offset=(first, 0))
    speed, delay, offset = host_link.achievable, host_link.latency, (first, 0)
    host_out = builder.links("node{0}/gpu{1}/host:out", "host", gpu, pcie[:, switch_of], speed, delay, offset)
    host_in = builder.links("node{0}/gpu{1}/host:in", "host", pcie[:, switch_of], gpu, speed, delay, offset)
    hosts = np.broadcast_to(host[:, None], pcie.shape)
    uplink_out = builder.links("node{0}/pcie{1}:out", "host", pcie, hosts, speed, 0.0, offset)
    uplink_in = builder.links("node{0}/pcie{1}:in", "host", hosts, pcie, speed, 0.0, offset)
    port_of = np.arange(per_node) * ports // per_node
    # A port sits on the PCIe switch of its accelerators when they share one, on the host otherwise.
    places = [set(switch_of[port_of == p].tolist()) for p in range(ports)]
    local = np.array([min(s) if len(s) == 1 else -1 for s in places], np.int64)
    nic = np.arange(count * ports).reshape(count, ports)
    nic_at = np.where(local[None] >= 0, pcie[:, local], host[:, None]) if ports else nic
    nic_uplink = np.where(local >= 0, np.stack([uplink_out[:, local], uplink_in[:, local]]), -1) if ports else nic[None]
    none = np.full(count, -1, np.int64)
    nvme_read = nvme_write = none
    if node.nvme is not None:
        drive = builder.vertices("node{0}/nvme", count, offset=(first,))
        one = (first,)
        nvme_read = builder.links("node{0}/nvme:read", "storage", drive, host, node.nvme.read, node.nvme.latency, one)
        nvme_write = builder.links(
            "node{0}/nvme:write", "storage", host, drive, node.nvme.write, node.nvme.latency, one
        )
    lane = min(node.nic.achievable, cluster.fabric.link.achievable)
    return GroupLayer(
        gpu, host, nic, host_out, host_in, uplink_out[:, switch_of], uplink_in[:, switch_of], nic_at,
        nic_uplink if ports else np.zeros((2, 0), np.int64), port_of,
        local[port_of] < 0 if ports else np.zeros(per_node, bool),
        lane * node.nics / ports if ports else 0.0, node.nic.latency,
        scale_up_network(builder, group, gpu, first, shape), nvme_read, nvme_write,
    )  # fmt: skip
