"""Seconds of moving bytes between memory tiers, and of an optimizer that runs on the host.

Device ↔ host
    t = latency + bytes / rate, rate = min(link.achievable / neighbours, host memory bandwidth / accelerators): the
    accelerators behind one uplink move the same bytes at the same time, and host memory feeds all of them. With both
    directions busy each is slowed by the link's measured duplex factor.
Node ↔ NVMe
    Aggregate read or write bandwidth of the node's drives over the accelerators that use them.
Host optimizer
    Bytes touched / (share of the host memory bandwidth per accelerator · efficiency).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from functools import cached_property

from simulator.constants import Constant, ConstantSet, Trust
from simulator.cost.priced import FREE, Priced, weakest
from simulator.hardware.profiles import load_network, network_names
from simulator.hardware.types import Node
from simulator.workload.ops import Stream, Tier

__all__ = ["CPU_ADAM", "PAGE_FAULT", "TierCost", "duplex_factor"]

CPU_ADAM = Constant(
    "host.cpu_adam.memory", 0.43, "", 0.3, Trust.FITTED,
    "ZeRO-Offload (arXiv 2101.06840) table 4: 2.57 s for 10 B and 1.03 s for 4 B parameters at 28 B each, 109 GB/s, "
    "over the 256 GB/s of a DGX-2",
)  # fmt: skip
"""Share of the host memory bandwidth that a vectorised CPU Adam reaches."""

PAGE_FAULT = Constant(
    "host.page_fault", 30e-6, "s", 0.5, Trust.ASSUMED,
    "order of magnitude of a unified-memory fault serviced by the driver; not read in a source",
)  # fmt: skip
"""Time the device waits for one faulting block of unified memory, besides its transfer."""

BORROWED_DUPLEX = "pcie5-x16"
"""Link whose measured duplex behaviour is borrowed where a link has none."""


def duplex_factor(link: str) -> tuple[float, str, Trust]:
    """How many times slower each direction of a host link is while the other is busy, with source and trust."""
    own = link in network_names() and any(k.startswith("both_directions") for k in load_network(link).constants)
    profile = load_network(link if own else BORROWED_DUPLEX)
    total = profile.constants.get("both_directions.bandwidth_total")
    each = profile.constants.get("both_directions.bandwidth_each")
    figure = total or each
    assert figure is not None
    both = figure.value / 2 if total else figure.value
    factor = max(1.0, profile.link.achievable / both)
    return factor, figure.source, Trust.MEASURED if own else Trust.BORROWED


class TierCost:
    """Prices copies between tiers on one node type.

    Parameters
    ----------
    node
        Host link, host memory, drives.
    active
        Accelerators of the node that work at the same time; all of them by default.
    scale
        Factors on constants by id.
    """

    def __init__(self, node: Node, active: int = 0, scale: Mapping[str, float] | None = None) -> None:
        self.node = node
        self.active = min(active or node.accelerators, node.accelerators)
        self.constants = ConstantSet({}, dict(scale or {}), node.accelerator.learnt)

    def _use(self, constant: Constant) -> float:
        self.constants.add(constant)
        return self.constants[constant.id]

    # -- what one accelerator gets -------------------------------------------------------------------------------

    @property
    def host_memory(self) -> float:
        """Host memory of one accelerator [B]."""
        return self.node.host_memory / self.active

    @property
    def nvme_capacity(self) -> float:
        """Drive capacity of one accelerator [B]; 0 without drives."""
        return self.node.nvme.capacity / self.active if self.node.nvme else 0.0

    @property
    def host_floor_rate(self) -> float:
        """Wire rate of the host link that one accelerator gets, per direction [B/s]."""
        shared = self.node.accelerator.host_link.bandwidth / min(self.node.accelerators_per_host_link, self.active)
        return min(shared, self.node.host_memory_bandwidth / self.active) if self.node.host_memory_bandwidth else shared

    @cached_property
    def _efficiency(self) -> Constant:
        link = self.node.accelerator.host_link
        known = link.efficiency < 1.0
        return Constant(
            f"{link.name}.host.efficiency", link.efficiency, "", 0.1, Trust.BORROWED if known else Trust.DATASHEET,
            f"host_link.achievable of {self.node.accelerator.name}" if known else "wire rate, nothing measured",
        )  # fmt: skip

    @cached_property
    def duplex(self) -> Constant:
        """Slow-down of one direction of the host link by the other."""
        name = self.node.accelerator.host_link.name
        factor, source, trust = duplex_factor(name)
        return Constant(f"{name}.host.duplex", factor, "", 0.1, trust, source)

    def slowdown(self) -> dict[tuple[Hashable, Hashable], float]:
        """Slow-down of one direction of the host link while the other is busy, by ``(victim, other)``."""
        factor = max(1.0, self._use(self.duplex))
        return {(Stream.H2D, Stream.D2H): factor, (Stream.D2H, Stream.H2D): factor}

    # -- prices --------------------------------------------------------------------------------------------------

    def copy(self, source: Tier, target: Tier, message: float, page: float = 0.0) -> Priced:
        """Time of moving ``message`` bytes [B] from one tier to the next.

        Parameters
        ----------
        source, target
            HBM and host, or host and NVMe. A move between HBM and NVMe is direct (peer-to-peer DMA): the slower of
            both links.
        page
            Where positive, bytes come by page faults of this size [B] instead of one bulk transfer.
        """
        if message <= 0:
            return FREE
        tiers, used = {source, target}, [PAGE_FAULT.id] * (page > 0)
        seconds = floor = 0.0
        if Tier.HBM in tiers:
            floor = message / self.host_floor_rate
            rate = self.host_floor_rate * self._use(self._efficiency)
            seconds = self.node.accelerator.host_link.latency + message / rate
            used.append(self._efficiency.id)
        if Tier.NVME in tiers:
            drive = self.drive_rate(reading=source is Tier.NVME)
            if not drive:
                return Priced(math.inf, math.inf, "network", (), Trust.DATASHEET)
            floor = max(floor, message / drive)
            seconds = max(seconds, message / drive)
        if page > 0:
            seconds += math.ceil(message / page) * self._use(PAGE_FAULT)
        trust = weakest([self.constants.entries[i].trust for i in used] + [Trust.DATASHEET] * (Tier.NVME in tiers))
        return Priced(max(seconds, floor), floor, "network", tuple(used), trust)

    def drive_rate(self, reading: bool) -> float:
        """Bandwidth of the drives that one accelerator gets [B/s]; 0 without drives."""
        nvme = self.node.nvme
        return (nvme.read if reading else nvme.write) / self.active if nvme else 0.0

    def host_update(self, touched: float) -> Priced:
        """Time of an optimizer on the host that reads and writes ``touched`` bytes [B] for one accelerator."""
        share = self.node.host_memory_bandwidth / self.active
        if not share:
            return Priced(math.inf, math.inf, "memory", (), Trust.DATASHEET)
        floor = touched / share
        return Priced(floor / min(1.0, self._use(CPU_ADAM)), floor, "memory", (CPU_ADAM.id,), CPU_ADAM.trust)
