"""What a device keeps of the clock of its benchmarks when it computes without pause."""

from __future__ import annotations

import math
from dataclasses import replace

from simulator.constants import Constant, Trust
from simulator.cost.attention import BACKWARD
from simulator.cost.device import TENSOR_SCALED, DeviceCost
from simulator.cost.priced import Priced
from simulator.cost.resolve import SAME_ARCHITECTURE_SIGMA, curve_dtype, fitted_accelerators
from simulator.hardware.power import clock_under, dynamic_share
from simulator.hardware.types import Accelerator, PowerProfile
from simulator.workload.ops import OpKind, Work

__all__ = ["UnderLoad", "accumulated_share", "sustained_share"]

SUSTAINED = "gemm.{}.continuous.sustained"
ACCUMULATED = "gemm.{}.continuous.accumulated"


def sustained_share(accelerator: Accelerator, dtype: str) -> Constant | None:
    """Share of the clock of a GEMM benchmark that hours of training keep, ``None`` where nothing is known.

    Kernel benchmarks are too short for the power limit to bite. Fitted on the device for the type, else on the device
    for bf16, whose clock fp8 shares (docs/decisions/0057-what-a-power-limit-slows.md), else borrowed from the device of
    its architecture whose peak power is nearest: a FLOP takes as much energy there, so the rate follows the watts.
    """
    kind = curve_dtype(accelerator, dtype)
    for key in (SUSTAINED.format(kind), SUSTAINED.format("bf16")):
        if key in accelerator.efficiency:
            return accelerator.efficiency[key]
        lender = _lender(accelerator, key)
        if lender is not None:
            kept = lender.efficiency[key]
            found = replace(kept, value=_clock(accelerator, lender, kind, kept.value))
            return _borrowed(accelerator, SUSTAINED.format(kind), lender, found)
    return None


def accumulated_share(accelerator: Accelerator, dtype: str) -> Constant | None:
    """Share of its rate that a weight gradient keeps which is added to fp32 in the GEMM, ``None`` if not measured.

    What it adds to is read and written while a block of it ends, where little is left to compute beside.
    """
    key = ACCUMULATED.format(curve_dtype(accelerator, dtype))
    if key in accelerator.efficiency:
        return accelerator.efficiency[key]
    lender = _lender(accelerator, key)
    return None if lender is None else _borrowed(accelerator, key, lender, lender.efficiency[key])


def _clock(accelerator: Accelerator, lender: Accelerator, kind: str, kept: float) -> float:
    """Share of its clock at which ``accelerator`` draws its peak power, where ``lender`` does at ``kept``.

    What a GEMM asks for at the full clock, over what the limit leaves, grows with the rate and falls with the watts.
    Power without work, which few sources state, is taken to be the same share of the peak.
    """
    faster = _rate(accelerator, lender, kind) / _rate(lender, accelerator, kind)
    asked = faster * lender.power.peak / accelerator.power.peak / dynamic_share(kept)
    return clock_under(PowerProfile(0.0, asked), 1.0)


def _rate(device: Accelerator, other: Accelerator, kind: str) -> float:
    """FLOP/s of large GEMMs; the rated ones where one of both has no curve of its own."""
    sections = (f"gemm.{kind}.{TENSOR_SCALED}.compute", f"gemm.{kind}.compute")
    fitted = next((s for s in sections if s in device.efficiency and s in other.efficiency), "")
    return device.peak(kind) * (device.efficiency[fitted].value if fitted else 1.0)


def _lender(accelerator: Accelerator, key: str) -> Accelerator | None:
    """The device of the architecture that has the constant and whose peak power is nearest."""
    family = accelerator.architecture.partition("+")[0]
    known = [a for a in fitted_accelerators() if a.architecture.partition("+")[0] == family and key in a.efficiency]
    return min(known, key=lambda a: (abs(math.log(a.power.peak / accelerator.power.peak)), a.name), default=None)


def _borrowed(accelerator: Accelerator, key: str, lender: Accelerator, found: Constant) -> Constant:
    """A lender's constant as one of this device."""
    sigma = math.hypot(found.sigma, SAME_ARCHITECTURE_SIGMA)
    source = f"borrowed from {lender.name}: {found.source}"
    return replace(found, id=f"{accelerator.name}.{key}", sigma=sigma, trust=Trust.BORROWED, source=source)


class UnderLoad:
    """Prices of kernels on a device that computes without pause: benchmarks are too short for the power limit to bite.

    Parameters
    ----------
    device
        Prices of kernels alone.
    """

    def __init__(self, device: DeviceCost) -> None:
        self.device = device
        self._shares: dict[tuple[str, bool], tuple[Constant, ...]] = {}

    def gemm(self, priced: Priced, work: Work, accumulates: bool) -> Priced:
        """The price of a GEMM that is ``priced`` alone; ``accumulates``: it adds to a matrix in fp32.

        The limit lowers the clock of the compute units; memory has one of its own.
        """
        key = (work.dtype, accumulates)
        if key not in self._shares:
            device = self.device.accelerator
            found = sustained_share(device, work.dtype), accumulated_share(device, work.dtype) if accumulates else None
            self._shares[key] = tuple(c for c in found if c is not None)
        if not self._shares[key]:
            return priced
        used = list[str]()
        share = math.prod(min(1.0, self.device.shared(c, used)) for c in self._shares[key])
        slow = self.device.price(replace(work, flops=work.flops / share))
        return replace(slow, floor=priced.floor, constants=(*slow.constants, *used))

    def attention(self, priced: Priced, work: Work) -> Priced:
        """The price of attention, whose products are not made faster under continuous load than those of a GEMM.

        What lowers the clock is power; a product costs fused attention as much of it as a GEMM, and its softmax comes
        on top. The backward has more beside its products, under load as without: 0.41 of the peak against 0.50 on B200
        with 131,072 tokens, where a kernel lasts 30 ms and more (MooreThreads/SimuMax @4dcaae5, 8 and 16 heads).
        """
        if priced.bound != "compute" or sustained_share(self.device.accelerator, work.dtype) is None:
            return priced
        whole = Work(OpKind.GEMM, work.dtype, work.flops)
        product = self.gemm(self.device.price(whole), whole, accumulates=False)
        used = [*priced.constants, *product.constants]
        seconds = product.seconds / (min(1.0, self.device.shared(BACKWARD, used)) if work.backward else 1.0)
        return priced if seconds <= priced.seconds else replace(priced, seconds=seconds, constants=tuple(used))
