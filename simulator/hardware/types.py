"""What a cluster is made of: accelerators, nodes, storage and clusters; links, networks and sites are beside it.

Plain frozen values in SI units. ``hardware_profiles/*.yaml`` is read into them by
:mod:`simulator.hardware.profiles`; behaviour lives in the floors above.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from simulator.constants import Constant, Learnt
from simulator.hardware.links import Curve, Fabric, Link, LinkFault, NetworkProfile, Routing, ScaleUp
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
        wider["fp16_half"] = "fp16"  # sums kept in 16 bits, where that is faster
        wider["tf32"] = "fp32"
        found = dtype
        while found not in self.peak_flops and found in wider:
            found = wider[found]
        if found not in self.peak_flops:  # matrix engines with 16-bit inputs only (TPU) also run the wider types
            found = next(t for t in ("bf16", "fp16", "tf32", "fp32") if t in self.peak_flops)
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
