"""What a cluster is made of: links, accelerators, nodes, storage, sites and clusters.

Plain frozen values in SI units. ``hardware_profiles/*.yaml`` is read into them by
:mod:`simulator.hardware.profiles`; behaviour lives in the floors above.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from simulator.constants import Constant, Learnt
from simulator.hardware.places import Price, Rack, Site, Terms, mean_of_hours
from simulator.hardware.power_profile import PowerProfile

__all__ = [
    "Accelerator",
    "Cluster",
    "Curve",
    "Fabric",
    "Link",
    "LinkFault",
    "NetworkProfile",
    "Node",
    "NodeGroup",
    "Place",
    "PowerProfile",
    "Price",
    "Rack",
    "Routing",
    "ScaleUp",
    "Site",
    "Storage",
    "Terms",
    "mean_of_hours",
]


@dataclass(frozen=True)
class Link:
    """A point-to-point link or port.

    Attributes
    ----------
    bandwidth
        [B/s] in one direction.
    latency
        [s] end to end for a small message over this link.
    efficiency
        Share of ``bandwidth`` that large transfers reach (protocol headers, measured), 0..1.
    ring_hop, tree_share
        [s] by which a hop of a ring of megabytes is longer, where no protocol forwards a chunk while it arrives; and
        the share of ``achievable`` that trees over more than two nodes reach.
    """

    name: str
    bandwidth: float
    latency: float
    efficiency: float = 1.0
    ring_hop: float = 0.0
    tree_share: float = 1.0

    @property
    def achievable(self) -> float:
        """Bandwidth that large transfers reach [B/s]."""
        return self.bandwidth * self.efficiency


@dataclass(frozen=True)
class ScaleUp:
    """The fast network that joins a few accelerators (NVLink, Infinity Fabric, ICI, UB).

    Attributes
    ----------
    link
        Total bandwidth of one accelerator into it, per direction.
    domain
        Number of accelerators it joins at most.
    topology
        ``switch``: any pair at full bandwidth; ``mesh``: the bandwidth is divided over the peers;
        ``cube-mesh``, ``torus``, ``bridge``, ``none``.
    in_network_reduction
        Whether its switches can add (NVLink SHARP).
    """

    link: Link
    domain: int
    topology: Literal["switch", "mesh", "cube-mesh", "torus", "bridge", "none"] = "switch"
    in_network_reduction: bool = False


@dataclass(frozen=True)
class Accelerator:
    """One accelerator as the programmer sees it.

    Attributes
    ----------
    peak_flops
        Dense FLOP/s (OP/s for integers) by dtype: fp64 fp32 tf32 bf16 fp16 fp8 int8 fp4 int4.
    memory_capacity, memory_usable
        Marketed and reported by the driver [B].
    memory_bandwidth
        [B/s]
    l2_capacity
        Last-level on-chip cache [B].
    host_link
        To host memory, per direction, e.g. PCIe or NVLink-C2C.
    efficiency
        Constants of the cost curves by local key, e.g. ``gemm.bf16.compute``; the ids are global. Empty when
        nothing was measured on this device: the cost model then borrows from ``architecture``.
    estimated
        Why each field (dotted name) that was not read in a source has the value it has.
    kernel_table
        File with kernels measured on this device (:mod:`simulator.cost.kernel_table`), or an empty string.
    clock
        Share of the compute clock that a power limit leaves; figures of the profile hold at 1.
    pace
        Share of its speed that other burdens leave (encryption, private training); ``memory_bandwidth`` has it already.
    learnt
        What somebody's own runs say about constants, by id: those of the device, its kernels and its collectives.
    """

    name: str
    vendor: str
    architecture: str
    year: int
    peak_flops: Mapping[str, float]
    memory_capacity: float
    memory_usable: float
    memory_bandwidth: float
    scale_up: ScaleUp
    host_link: Link
    power: PowerProfile
    sm_count: int = 0
    l2_capacity: float = 0.0
    boost_clock: float = 0.0
    price: Price = Price()
    efficiency: Mapping[str, Constant] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    notes: str = ""
    memory_type: str = ""
    estimated: Mapping[str, str] = field(default_factory=dict)
    kernel_table: str = ""
    clock: float = 1.0
    pace: float = 1.0
    learnt: Mapping[str, Learnt] = field(default_factory=dict)

    def peak(self, dtype: str) -> float:
        """Dense peak [FLOP/s] for ``dtype``, falling back to the type it would be computed in.

        Types without hardware support are computed in the next wider one that has it: fp8 → bf16 → fp16 → tf32 →
        fp32. Without fp4 units only the weights are in fp4: kernels unpack them to 16 bit, the type of the activations.
        """
        wider = {"fp4": "bf16", "int4": "int8", "int8": "bf16", "fp8": "bf16", "bf16": "fp16", "fp16": "tf32"}
        wider["tf32"] = "fp32"
        found = dtype
        while found not in self.peak_flops and found in wider:
            found = wider[found]
        if found not in self.peak_flops:  # matrix engines with 16-bit inputs only (TPU) also run the wider types
            found = "bf16"
        return self.peak_flops[found]

    def rate(self, dtype: str) -> float:
        """What is left of :meth:`peak` [FLOP/s] at the clock and pace it runs at."""
        return self.peak(dtype) * self.clock * self.pace


@dataclass(frozen=True)
class Storage:
    """A storage tier: node-local NVMe or a shared file system.

    ``read`` and ``write`` are aggregate bandwidths [B/s] of the tier; ``capacity`` [B], 0 if unknown; ``endurance`` [B]
    is what may be written to it in its life (a drive's TBW), 0 if unknown.
    """

    name: str
    kind: Literal["nvme", "parallel-fs", "object-store"]
    read: float
    write: float
    capacity: float = 0.0
    latency: float = 0.0
    sources: tuple[str, ...] = ()
    endurance: float = 0.0


@dataclass(frozen=True)
class Node:
    """A server.

    Attributes
    ----------
    accelerators
        How many of ``accelerator`` it holds.
    scale_up
        The scale-up network as wired in this node; ``domain`` may exceed the node (NVL72).
    nic, nics
        One network port used for compute traffic, and how many there are.
    host_memory, host_memory_bandwidth
        [B] and [B/s].
    accelerators_per_host_link
        Accelerators that share one uplink to the host (PCIe switch): 1 when each has its own.
    cpu_flops
        FLOP/s of the host processors for offloaded work such as CPU Adam.
    host_speed
        Speed of one host thread over that of DGX H100's Xeon Platinum 8480C: what launches kernels.
    power_overhead
        Draw of everything but the accelerators [W], and ``power_peak`` the rating of the whole node [W].
    """

    name: str
    accelerator: Accelerator
    accelerators: int
    scale_up: ScaleUp
    nic: Link
    nics: int
    host_memory: float
    host_memory_bandwidth: float
    nvme: Storage | None = None
    accelerators_per_host_link: int = 1
    cpu_flops: float = 0.0
    host_speed: float = 1.0
    power_overhead: float = 0.0
    power_peak: float = 0.0
    price: Price = Price()
    sources: tuple[str, ...] = ()
    notes: str = ""
    estimated: Mapping[str, str] = field(default_factory=dict)

    @property
    def nic_bandwidth_per_accelerator(self) -> float:
        """Share of the node's network ports that one accelerator gets [B/s per direction]."""
        return self.nics * self.nic.bandwidth / self.accelerators


class Curve(NamedTuple):
    """A measured curve: ``x`` increasing [B, or tokens per rank where the operation says so] and ``seconds`` [s]."""

    x: tuple[float, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class NetworkProfile:
    """Measured behaviour of collectives and links.

    Attributes
    ----------
    scope
        ``scale_up`` (inside the domain of one accelerator type), ``scale_out`` (a link between nodes), ``host``
        (to host memory) or ``library`` (constants of a communication library, tied to no one link).
    constants
        By local key. Fits of a collective over V = bytes on the wire per rank (all-reduce 2(n−1)/n · S, others
        (n−1)/n · S): ``all_reduce.8.latency`` [s], ``.sqrt`` [s/sqrt(B)] and ``.per_byte`` [s/B] of
        t = latency + sqrt·√V + per_byte·V; ``bus_bandwidth.all_reduce.8`` [B/s] in nccl-tests convention. Links:
        ``cross_leaf.latency`` and ``switch_hop.latency`` [s].
    curves
        Measured points, operation → ranks → (x, seconds). x is the buffer size S [B] in nccl-tests convention; for
        operations that start with ``expert_`` it is tokens per rank.
    """

    name: str
    scope: Literal["scale_up", "scale_out", "host", "library"]
    link: Link = Link("", 0.0, 0.0)
    accelerator: str = ""
    constants: Mapping[str, Constant] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    curves: Mapping[str, Mapping[int, Curve]] = field(default_factory=dict)
    notes: str = ""
    estimated: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Routing:
    """How traffic between nodes uses equal-cost ways.

    Attributes
    ----------
    policy
        ``spray``: evenly over all of them (packet spraying). ``ecmp``: one by the hash of the connection, so that
        connections may collide. ``adaptive``: over all of them in proportion to the bandwidth each way has now.
    connections
        Of one pair of ranks, each hashed on its own; ``ecmp`` only.
    rail_aware
        On rail-optimised fabrics, traffic between rails first crosses the sender's scale-up network to the accelerator
        on the rail of its destination (NCCL's PXN).
    """

    policy: Literal["spray", "ecmp", "adaptive"] = "spray"
    connections: int = 1
    rail_aware: bool = True


@dataclass(frozen=True)
class LinkFault:
    """A link, switch or port that is degraded or lost for a while.

    Attributes
    ----------
    of
        Pattern of names of links or of switches and nodes, whose links are all meant: ``leaf0>spine1``, ``spine1``,
        ``node3/nic0:*``.
    share
        Of its bandwidth that is left; 0 = lost.
    begin, end
        [s]
    """

    of: str
    share: float = 0.0
    begin: float = 0.0
    end: float = math.inf


@dataclass(frozen=True)
class Fabric:
    """How the nodes are joined.

    Attributes
    ----------
    topology
        Name of a registered topology: ``single-switch``, ``fat-tree``, ``rail-optimized``, ``dragonfly``, ``torus`` ...
    link
        Kind of every cable of the fabric.
    oversubscription
        Downlink over uplink bandwidth at the leaf level, 1 = non-blocking.
    options
        Further keys of the topology, e.g. ``nodes_per_leaf``.
    routing, faults
        How equal-cost ways are used; what is degraded or lost, and when.
    """

    topology: str
    link: Link
    oversubscription: float = 1.0
    options: tuple[tuple[str, object], ...] = ()
    routing: Routing = Routing()
    faults: tuple[LinkFault, ...] = ()


@dataclass(frozen=True)
class NodeGroup:
    """``count`` equal nodes."""

    node: Node
    count: int


@dataclass(frozen=True)
class Place:
    """Consecutive nodes of a larger cluster, from ``first_node`` on."""

    whole: Cluster
    first_node: int


@dataclass(frozen=True)
class Cluster:
    """Nodes (mixed types allowed), the fabric that joins them, shared storage and the site.

    Attributes
    ----------
    port_power
        Draw of switches and optics per network port of a node [W]; 0: the network is not counted.
    place
        Where these nodes are, if they are part of a larger cluster: it says which links of the fabric they use.
    factors
        What if constants of the cost model were other than believed: factors on them by id.
    """

    name: str
    groups: tuple[NodeGroup, ...]
    fabric: Fabric
    storage: tuple[Storage, ...] = ()
    site: Site = Site()
    sources: tuple[str, ...] = ()
    notes: str = ""
    estimated: Mapping[str, str] = field(default_factory=dict)
    rack: Rack = Rack()
    terms: Terms = Terms()
    port_power: float = 0.0
    place: Place | None = None
    factors: Mapping[str, float] = field(default_factory=dict)

    @property
    def node_count(self) -> int:
        """Number of nodes."""
        return sum(g.count for g in self.groups)

    @property
    def accelerator_count(self) -> int:
        """Number of accelerators."""
        return sum(g.count * g.node.accelerators for g in self.groups)
