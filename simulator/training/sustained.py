"""What a device keeps of its benchmark speed when it computes without pause."""

from __future__ import annotations

import math
from dataclasses import replace

from simulator.constants import Constant, Trust
from simulator.cost.resolve import SAME_ARCHITECTURE_SIGMA, curve_dtype, fitted_accelerators
from simulator.hardware.types import Accelerator

__all__ = ["sustained_share"]

KEY = "gemm.{}.continuous.sustained"


def sustained_share(accelerator: Accelerator, dtype: str) -> Constant | None:
    """Share of a GEMM benchmark's speed that hours of training keep, ``None`` where nothing is known.

    Kernel benchmarks are too short for the power limit to bite. Fitted on the device for the type, else on the device
    for bf16 (the limit is one of power), else borrowed from the device of its architecture whose peak power is nearest.
    """
    key = KEY.format(curve_dtype(accelerator, dtype))
    own = accelerator.efficiency.get(key, accelerator.efficiency.get(KEY.format("bf16")))
    if own is not None:
        return own
    family = accelerator.architecture.partition("+")[0]
    lenders = [a for a in fitted_accelerators() if a.architecture.partition("+")[0] == family and key in a.efficiency]
    if not lenders:
        return None
    lender = min(lenders, key=lambda a: (abs(math.log(a.power.peak / accelerator.power.peak)), a.name))
    found = lender.efficiency[key]
    sigma = math.hypot(found.sigma, SAME_ARCHITECTURE_SIGMA)
    source = f"borrowed from {lender.name}: {found.source}"
    return replace(found, id=f"{accelerator.name}.{key}", sigma=sigma, trust=Trust.BORROWED, source=source)
