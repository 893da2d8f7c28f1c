"""Predictions for measured kernels."""

from __future__ import annotations

from dataclasses import replace

from simulator.cost.device import DeviceCost
from simulator.validation.cases import Subject
from simulator.validation.hardware import node_of
from simulator.workload.ops import DTYPE_BYTES, OpKind, Work

__all__ = ["run_kernel"]


def run_kernel(subject: Subject) -> tuple[dict[str, float], str]:
    """Seconds of one GEMM on the share of a device that computes."""
    m, n, k, groups = (int(str(subject.setting(x))) for x in ("m", "n", "k", "groups"))
    dtype, share = str(subject.setting("dtype")), float(str(subject.setting("share")))
    whole = node_of(str(subject.setting("gpu"))).accelerator
    part = replace(whole, peak_flops={t: f * share for t, f in whole.peak_flops.items()})
    size = DTYPE_BYTES[dtype]
    moved = size * (m * k + groups * n * k) + DTYPE_BYTES["bf16"] * m * n
    kind = OpKind.GROUPED_GEMM if groups > 1 else OpKind.GEMM
    work = Work(kind, dtype, 2.0 * m * n * k, moved, m, n, k, groups=groups)
    priced = DeviceCost(part).price(work)
    return {"seconds": priced.seconds, "baseline.seconds": priced.floor}, ""
