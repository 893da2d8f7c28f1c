"""What a device keeps of its benchmark speed when it computes without pause."""

from __future__ import annotations

import math
from dataclasses import replace

from simulator.constants import Constant, Trust
from simulator.cost.resolve import SAME_ARCHITECTURE_SIGMA, curve_dtype, fitted_accelerators
from simulator.hardware.types import Accelerator

__all__ = ["accumulated_share", "sustained_share"]

KEY = "gemm.{}.continuous.sustained"
ACCUMULATED = "gemm.{}.continuous.accumulated"


def sustained_share(accelerator: Accelerator, dtype: str) -> Constant | None:
    """Share of a GEMM benchmark's speed that hours of training keep, ``None`` where nothing is known.

    Kernel benchmarks are too short for the power limit to bite. Fitted on the device for the type, else on the device
    for bf16 (the limit is one of power), else borrowed from the device of its architecture whose peak power is nearest.
    """
    key = KEY.format(curve_dtype(accelerator, dtype))
    own = accelerator.efficiency.get(key, accelerator.efficiency.get(KEY.format("bf16")))
    return own if own is not None else _borrowed(accelerator, key)


def accumulated_share(accelerator: Accelerator, dtype: str) -> Constant | None:
    """Share of its speed that a weight gradient keeps which is added to fp32 in the GEMM, ``None`` if not measured.

    What it adds to is read and written while a block of it ends, where little is left to compute beside.
    """
    key = ACCUMULATED.format(curve_dtype(accelerator, dtype))
    return accelerator.efficiency.get(key) or _borrowed(accelerator, key)


def _borrowed(accelerator: Accelerator, key: str) -> Constant | None:
    """The constant of the device of the architecture whose peak power is nearest."""
    family = accelerator.architecture.partition("+")[0]
    lenders = [a for a in fitted_accelerators() if a.architecture.partition("+")[0] == family and key in a.efficiency]
    if not lenders:
        return None
    lender = min(lenders, key=lambda a: (abs(math.log(a.power.peak / accelerator.power.peak)), a.name))
    found = lender.efficiency[key]
    sigma = math.hypot(found.sigma, SAME_ARCHITECTURE_SIGMA)
    source = f"borrowed from {lender.name}: {found.source}"
    return replace(found, id=f"{accelerator.name}.{key}", sigma=sigma, trust=Trust.BORROWED, source=source)
