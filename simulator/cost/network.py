"""Seconds of one collective or transfer that has its links for itself.

Inside a scale-up domain, in order of trust: measured curve (log-log; beyond its end the fit's asymptote, with a wider
sigma) → α–√–β fit → a relative's fit scaled by bandwidth → α–√–β from the link and NCCL's latency model.

Between nodes: NCCL's ring or tree (whichever is faster) over the NICs of the group's ranks, pipelined with the part
inside the nodes: RS inside, AR between nodes on each rail, AG inside overlap, so the slowest of them counts.

Oversubscription of the fabric is not in here: it slows only groups that cross leaves, and which do depends on
placement. This module prices the collective with non-blocking switches and takes ``slow`` from who knows the placement
(:mod:`simulator.training.link_phases`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from simulator.constants import Constant, ConstantSet, Trust
from simulator.cost.book import PROTOCOL, Book
from simulator.cost.collectives import alpha_sqrt_beta, nccl_latency, wire_bytes
from simulator.cost.measured import Lender, lenders, tuner
from simulator.cost.priced import FREE, Priced
from simulator.cost.scale_up import P2P_LATENCY, SQRT, ScaleUpCost
from simulator.hardware.types import Fabric, NetworkProfile, Node
from simulator.workload.framework import Framework
from simulator.workload.ops import Collective, OpKind, Work
from simulator.workload.plan import base_axis

__all__ = ["CommGroup", "NetworkCost"]

SQRT_BETWEEN = Constant(
    "collective.sqrt.between",
    1.6,
    "",
    0.4,
    Trust.FITTED,
    "multi-node nccl-tests curves: benchmarks/fits/collectives.py",
)
BULK = 2.0**20
"""[B] from which messages travel by NCCL's bulk protocol on every network."""

INFINIBAND_LATENCY = 2.8e-6
"""[s] 64 B end to end (arXiv 2505.09343): the network that NCCL's hop latencies stand for."""


@dataclass(frozen=True)
class CommGroup:
    """The ranks of one collective.

    Attributes
    ----------
    ranks
        All of them.
    ranks_per_node, nodes
        How they are spread; ``ranks = ranks_per_node · nodes``.
    nic_share
        Share of its own part of the node's NICs that one rank has for this collective: 1 when the group is alone, above
        1 when the NICs of idle neighbours are used, below when other groups of the node communicate too.
    bridged
        Whether one bridge joins its ranks in a node, where it joins so many; ranks with others in between reach each
        other through the host.
    """

    ranks: int
    ranks_per_node: int
    nodes: int
    nic_share: float = 1.0
    bridged: bool = True


class NetworkCost:
    """Prices collectives and transfers.

    Parameters
    ----------
    node, fabric
        The servers and what joins them.
    framework
        Says whether small all-reduces use one-shot kernels. None: the communication library.
    scale
        Factors on constants by id.
    known, library
        Measured profiles to use and to borrow from, and the constants of NCCL's model; by default the shipped ones.
    slow
        How many times longer what leaves a domain takes, by mesh axis (sub-axes as their axis): links that are narrow
        or shared with others. 1 where nothing is said.
    """

    def __init__(
        self,
        node: Node,
        fabric: Fabric,
        framework: Framework | None = None,
        scale: Mapping[str, float] | None = None,
        known: Callable[[], Sequence[Lender]] = lenders,
        library: Callable[[], NetworkProfile] = tuner,
        slow: Mapping[str, float] | None = None,
    ) -> None:
        self.slow = dict(slow or {})
        self.node, self.fabric, self.framework = node, fabric, framework
        self._book = Book(ConstantSet({}, dict(scale or {}), node.accelerator.learnt), library)
        one_shot = framework is not None and framework.small_all_reduce == "custom"
        self._inside = ScaleUpCost(node.scale_up, node.accelerator, one_shot, known, self._book)
        apart = replace(node.scale_up, topology="none", in_network_reduction=False)
        self._through_host = ScaleUpCost(apart, node.accelerator, False, known, self._book)
        self._memo: dict[tuple[str, float, CommGroup, float], Priced] = {}

    @property
    def constants(self) -> ConstantSet:
        """Constants used so far, with the factors in force; it grows as new collectives are priced."""
        return self._book.values

    def moved(self, scale: Mapping[str, float]) -> NetworkCost:
        """The same network with the constants in ``scale`` multiplied; what was resolved is shared."""
        other = object.__new__(NetworkCost)
        other.node, other.fabric, other.framework, other.slow = self.node, self.fabric, self.framework, self.slow
        other._book = Book(self._book.values.moved(scale), self._book.library)
        other._inside = self._inside.with_book(other._book)
        other._through_host = self._through_host.with_book(other._book)
        other._memo = {}
        return other

    def price(self, work: Work, group: CommGroup) -> Priced:
        """Time of ``work`` (``message`` = bytes of the full buffer) among ``group``.

        Raises
        ------
        ValueError
            If ``work`` is not communication.
        """
        if work.kind not in (OpKind.COLLECTIVE, OpKind.P2P):
            raise ValueError(f"{work.kind} is not communication: price it with DeviceCost")
        if group.ranks <= 1 or work.message <= 0:
            return FREE
        operation = str(work.collective or Collective.SEND_RECV)
        slow = self.slow.get(base_axis(work.axis), 1.0) if self.slow else 1.0
        key = (operation, work.message, group, slow)
        known = self._memo.get(key)
        if known is None:
            inside, domains = self._domains(group)
            if domains == 1:
                known = self._joining(group).price(operation, inside, work.message)
            else:
                known = self._between(operation, work.message, group, inside, domains)
                known = known if slow == 1.0 else replace(known, seconds=slow * known.seconds)
            self._memo[key] = known
        return known

    def _joining(self, group: CommGroup) -> ScaleUpCost:
        """What joins the ranks of a group in a node."""
        apart = self.node.scale_up.topology == "bridge" and not group.bridged
        return self._through_host if apart else self._inside

    def _domains(self, group: CommGroup) -> tuple[int, int]:
        """Ranks inside one scale-up domain, and how many domains the group spans; a domain may hold several nodes."""
        per_domain = max(1, self.node.scale_up.domain // self.node.accelerators)
        domains = math.ceil(group.nodes / per_domain)
        return math.ceil(group.ranks / domains), domains

    # -- between domains -------------------------------------------------------------------------------------------

    def _between(self, operation: str, size: float, group: CommGroup, inside: int, domains: int) -> Priced:
        ports = self.node.nics * min(self.node.nic.bandwidth, self.fabric.link.bandwidth)
        rail = ports / self.node.accelerators * group.nic_share
        used: list[str] = []
        reached = rail * self._book.protocol(min(self.node.nic.efficiency, self.fabric.link.efficiency), used)
        if operation == Collective.SEND_RECV:
            floor = size / rail
            seconds = self._book.use(P2P_LATENCY, used) + self.fabric.link.latency + size / reached
        elif operation == Collective.ALL_TO_ALL:
            floor = wire_bytes(operation, domains, size) / rail
            seconds = self._all_to_all(size, inside, domains, reached, self._joining(group), used)
        else:
            floor = wire_bytes(operation, domains, size) / (rail * inside)
            seconds = self._ring_or_tree(operation, size, inside, domains, reached * inside, self._joining(group), used)
        return self._book.priced(seconds, floor, used)

    @property
    def _extra_latency(self) -> float:
        return max(0.0, self.fabric.link.latency - INFINIBAND_LATENCY)

    def _ring_or_tree(
        self, operation: str, size: float, inside: int, domains: int, bandwidth: float, joining: ScaleUpCost,
        used: list[str],
    ) -> float:  # fmt: skip
        """NCCL's ring, or for all-reduce its double tree: the faster of the two. ``bandwidth`` is a domain's [B/s]."""
        ranks = inside * domains
        wire = "nvlink" if inside == 1 or joining.link(inside)[1] else "pci"
        local = joining.seconds(operation, inside, size, used) if inside > 1 else 0.0
        sqrt = self._book.use(SQRT_BETWEEN, used)

        def seconds(tree: bool, sent: float) -> float:
            latency = nccl_latency(operation, tree, ranks, domains, wire, self._extra_latency, self._book.nccl(used))
            return alpha_sqrt_beta(latency, 1.0, max(sent / bandwidth, local), sqrt)

        # All but one chunk of a node pass every link between nodes on their way around the ring.
        rounds = 2 if operation == Collective.ALL_REDUCE else 1
        waits = rounds * domains * self.fabric.link.ring_hop if size >= BULK else 0.0
        ring = seconds(False, wire_bytes(operation, ranks, size)) + waits
        if operation != Collective.ALL_REDUCE:
            return ring
        # Every domain sends S up and S down a tree; of two, each is the root of one of the two trees.
        sent = (1.0 if domains == 2 else 2.0 / self.fabric.link.tree_share) * size
        sent /= min(1.0, self._book.use(PROTOCOL, used))
        return min(ring, seconds(True, sent))

    def _all_to_all(
        self, size: float, inside: int, domains: int, rail: float, joining: ScaleUpCost, used: list[str]
    ) -> float:
        """Rail-wise with PXN: data for another node moves to the neighbour on the right rail, then over that rail.

        Both legs are pipelined. One network message per remote node leaves each rank.
        """
        away = wire_bytes(Collective.ALL_TO_ALL, domains, size) / rail
        local = joining.seconds(Collective.ALL_TO_ALL, inside, size, used) if inside > 1 else 0.0
        nccl = self._book.nccl(used)
        messages = (domains - 1) * nccl("hardware_latency.net.ring.ll")
        latency = nccl("base_latency.ring.ll") + self._extra_latency + messages
        return alpha_sqrt_beta(latency, 1.0, max(away, local), self._book.use(SQRT, used))
