"""Seconds of collectives inside one scale-up domain (NVLink, Infinity Fabric, ICI, PCIe)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from simulator.constants import Constant, Trust
from simulator.cost.book import Book
from simulator.cost.collectives import alpha_sqrt_beta, nccl_latency, torus_all_to_all_share, wire_bytes
from simulator.cost.measured import (
    CURVE_SIGMA,
    EXTRAPOLATED_SIGMA,
    Fit,
    Lender,
    borrow_fit,
    find_fit,
    interpolate,
    nearness,
)
from simulator.cost.priced import Priced
from simulator.hardware.types import Accelerator, Curve, NetworkProfile, ScaleUp
from simulator.network.rings import ring_count
from simulator.network.scaleup import CUBE_MESH_LANES
from simulator.workload.ops import Collective

__all__ = ["P2P_LATENCY", "SQRT", "ScaleUpCost"]

SQRT = Constant(
    "collective.sqrt", 1.11, "", 0.4, Trust.FITTED, "median of 68 measured curves: benchmarks/fits/collectives.py"
)
P2P_LATENCY = Constant(
    "p2p.latency", 10e-6, "s", 0.4, Trust.BORROWED, "ai-dynamo/aiconfigurator systems/*.yaml: p2p_latency_us 10"
)
_NVLS_SOURCE = "bus bandwidth of 8 GPUs at 8 GiB: 473 GB/s (H200), 838 GB/s (B200), stas00/ml-engineering"
NVLS = {
    "hopper": Constant("nvls.hopper", 0.68, "", 0.05, Trust.MEASURED, _NVLS_SOURCE),
    "blackwell": Constant("nvls.blackwell", 0.60, "", 0.05, Trust.MEASURED, _NVLS_SOURCE),
}
NVLS_RANKS = 4
"""In-network reduction pays above this many ranks (H200 and B200 with NCCL 2.27)."""

TORUS_AXES = 3


class ScaleUpCost:
    """Prices collectives among ranks of one domain.

    Parameters
    ----------
    scale_up, device
        The network as wired in the node, and the accelerator.
    one_shot
        Whether small all-reduces use one-shot kernels instead of the library.
    known
        Measured profiles to use and to borrow from.
    """

    def __init__(
        self, scale_up: ScaleUp, device: Accelerator, one_shot: bool, known: Callable[[], Sequence[Lender]], book: Book
    ) -> None:
        self.scale_up, self.device, self.one_shot, self.book = scale_up, device, one_shot, book
        self._known = known
        self._fits: dict[tuple[str, int], Fit | None] = {}
        self._own: NetworkProfile | None = None
        self._searched = False

    def with_book(self, book: Book) -> ScaleUpCost:
        """The same domain with other values of its constants."""
        other = ScaleUpCost(self.scale_up, self.device, self.one_shot, self._known, book)
        other._fits, other._own, other._searched = self._fits, self._own, self._searched
        return other

    def price(self, operation: str, ranks: int, size: float) -> Priced:
        """Time of one collective over a buffer of ``size`` bytes."""
        used: list[str] = []
        seconds = self.seconds(operation, ranks, size, used)
        small = self._small_all_reduce(ranks, size) if operation == Collective.ALL_REDUCE else None
        if small is not None and small[0] < seconds:
            seconds, used = small
        return self.book.priced(seconds, self._floor(operation, ranks, size), used)

    def seconds(self, operation: str, ranks: int, size: float, used: list[str]) -> float:
        """Time with the communication library [s]; ids of the constants are appended to ``used``."""
        own = self._profile()
        curve = own.curves.get(operation, {}).get(ranks) if own is not None else None
        fit = self._fit(operation, ranks)
        if own is not None and curve is not None:
            return self._on_curve(own, curve, operation, ranks, size, fit, used)
        if fit is not None:
            return self._evaluate(fit, wire_bytes(operation, ranks, size), used)
        return self._from_link(operation, ranks, size, used)

    def link(self, ranks: int) -> tuple[float, bool]:
        """Line rate of one rank towards the others [B/s], and whether it is the scale-up network (else the host's)."""
        scale_up = self.scale_up
        host = self.device.host_link.bandwidth
        if scale_up.topology == "none" or scale_up.link.bandwidth <= 0:
            return host, False
        if scale_up.topology == "bridge" and ranks > scale_up.domain:
            return host, False
        if scale_up.topology == "mesh" and scale_up.domain > 1:
            return scale_up.link.bandwidth * min(1.0, (ranks - 1) / (scale_up.domain - 1)), True
        if scale_up.topology == "cube-mesh":
            return scale_up.link.bandwidth * _ring_share(min(ranks, len(CUBE_MESH_LANES))), True
        return scale_up.link.bandwidth, True

    def _floor(self, operation: str, ranks: int, size: float) -> float:
        """Bytes on the wire at line rate; a switch that adds takes each byte once."""
        reduces = operation == Collective.ALL_REDUCE and self.scale_up.in_network_reduction
        return (size if reduces else wire_bytes(operation, ranks, size)) / self.link(ranks)[0]

    # -- measured ------------------------------------------------------------------------------------------------

    def _profile(self) -> NetworkProfile | None:
        """The accelerator's own measurements, if the node is wired like the one they were taken in."""
        if not self._searched:
            mine, usual = self.scale_up, self.device.scale_up
            alike = mine.topology == usual.topology and math.isclose(
                mine.link.bandwidth, usual.link.bandwidth, rel_tol=0.05
            )
            alike = alike or usual.topology == "none"  # boards on PCIe: their measurements are of such nodes
            named = (r.profile for r in self._known() if r.device == self.device.name)
            self._own = next(named, None) if alike else None
            self._searched = True
        return self._own

    def _fit(self, operation: str, ranks: int) -> Fit | None:
        key = (operation, ranks)
        if key not in self._fits:
            own = self._profile()
            fit = find_fit(own, operation, ranks) if own is not None else None
            if fit is None and self.link(ranks)[1] and self._bus_bandwidth(operation, ranks) is None:
                fit = borrow_fit(self.scale_up, self.device, self._known(), operation, ranks)
            self._fits[key] = fit
        return self._fits[key]

    def _bus_bandwidth(self, operation: str, ranks: int) -> Constant | None:
        """A measured bus bandwidth of large messages, where a profile has that alone."""
        own = self._profile()
        return None if own is None else own.constants.get(f"bus_bandwidth.{operation}.{ranks}")

    def _on_curve(
        self,
        own: NetworkProfile,
        curve: Curve,
        operation: str,
        ranks: int,
        size: float,
        fit: Fit | None,
        used: list[str],
    ) -> float:
        name = f"{own.name}.{operation}.{ranks}.curve"
        source = "; ".join(own.sources[:1]) or f"measured curve of {own.name}"
        scale = self.book.use(Constant(name, 1.0, "", CURVE_SIGMA, Trust.MEASURED, source), used)
        end = curve.x[-1]
        seconds = scale * interpolate(curve, min(size, end))
        if size <= end:
            return seconds
        note = "beyond the largest measured size: asymptote of the fit"
        name = f"{own.name}.{operation}.{ranks}.beyond"
        beyond = self.book.use(Constant(name, 1.0, "", EXTRAPOLATED_SIGMA, Trust.BORROWED, note), used)
        wire, at_end = wire_bytes(operation, ranks, size), wire_bytes(operation, ranks, end)
        if fit is None:
            return seconds + beyond * (wire - at_end) / (self.book.protocol(1.0, used) * self.link(ranks)[0])
        return seconds + beyond * (self._evaluate(fit, wire, used) - self._evaluate(fit, at_end, used))

    def _evaluate(self, fit: Fit, wire: float, used: list[str]) -> float:
        latency, sqrt, per_byte = (self.book.use(c, used) for c in fit)
        return latency + sqrt * math.sqrt(wire) + per_byte * wire

    def _small_all_reduce(self, ranks: int, size: float) -> tuple[float, list[str]] | None:
        """One-shot kernels of serving engines: measured on this device, or on its nearest relative."""
        if not self.one_shot or not self.link(ranks)[1]:
            return None
        have = [r for r in self._known() if ranks in r.profile.curves.get("custom_all_reduce", {})]
        if not have:
            return None
        lender = min(have, key=lambda r: (r.accelerator.name != self.device.name, *nearness(r, self.device)))
        own = lender.accelerator.name == self.device.name
        curve = lender.profile.curves["custom_all_reduce"][ranks]
        if size > curve.x[-1]:
            return None
        name = f"{self.device.name}.custom_all_reduce.{ranks}.curve"
        source = f"one-shot all-reduce inside a CUDA graph: {lender.profile.name}"
        trust, sigma = (Trust.MEASURED, CURVE_SIGMA) if own else (Trust.BORROWED, EXTRAPOLATED_SIGMA)
        used: list[str] = []
        return self.book.use(Constant(name, 1.0, "", sigma, trust, source), used) * interpolate(curve, size), used

    # -- from the link alone ---------------------------------------------------------------------------------------

    def _from_link(self, operation: str, ranks: int, size: float, used: list[str]) -> float:
        bandwidth, fast = self.link(ranks)
        link = self.scale_up.link if fast else self.device.host_link
        bandwidth *= self.book.protocol(link.efficiency, used)
        wire = wire_bytes(operation, ranks, size)
        if operation == Collective.SEND_RECV:
            return self.book.use(P2P_LATENCY, used) + wire / bandwidth
        latency = nccl_latency(operation, False, ranks, 1, "nvlink" if fast else "pci", 0.0, self.book.nccl(used))
        if (measured := self._bus_bandwidth(operation, ranks)) is not None:
            bandwidth = self.book.use(measured, used)
        if self.scale_up.topology == "torus" and operation == Collective.ALL_TO_ALL:
            wire *= torus_all_to_all_share(ranks, TORUS_AXES)
        nvls = NVLS.get(self.device.architecture.partition("+")[0].partition("_")[0])
        reduces = operation == Collective.ALL_REDUCE and self.scale_up.in_network_reduction and ranks > NVLS_RANKS
        if reduces and nvls is not None:
            wire = size * (1 + 1 / ranks)
            bandwidth = self.scale_up.link.bandwidth * min(1.0, self.book.use(nvls, used))
        return alpha_sqrt_beta(latency, wire, 1 / bandwidth, self.book.use(SQRT, used))


def _ring_share(ranks: int) -> float:
    """Share of a rank's lanes in a hybrid cube mesh that rings over the first ``ranks`` of it use."""
    lanes = CUBE_MESH_LANES[:ranks, :ranks].tolist()
    return ring_count(tuple(map(tuple, lanes))) / int(CUBE_MESH_LANES.sum(axis=1).max()) if ranks > 1 else 1.0
