"""What joins the parts of a cluster: links, scale-up networks, fabrics, and what was measured on them.

Plain frozen values in SI units, as in :mod:`simulator.hardware.types`, which gives them out too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from simulator.constants import Constant

__all__ = ["Curve", "Fabric", "Link", "LinkFault", "NetworkProfile", "Routing", "ScaleUp"]


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
