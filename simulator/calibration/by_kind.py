"""Seconds of a step by kind of kernel, as PyTorch's profiler saw them and as the cost model says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from simulator.calibration.torch_setup import require_torch, synchronize
from simulator.results.estimate import Estimate
from simulator.training.tables import timeline_tables

__all__ = ["kind_of_kernel", "measured_by_kind", "predicted_by_kind"]

_OPTIMIZER = ("_fused_adamw", "adam", "_foreach", "optimizer", "clip_grad", "linalg_vector_norm")
_GEMM = ("addmm", "::mm", "bmm", "gemm", "matmul", "_grouped_mm", "cutlass", "xmma", "nvjet")
_ATTENTION = ("scaled_dot_product", "flash", "fmha", "attention")


def kind_of_kernel(name: str) -> str:
    """``attention``, ``gemm``, ``optimizer`` or ``elementwise``, from the name of a kernel or ATen operator."""
    lower = name.lower()
    for kind, words in (("attention", _ATTENTION), ("gemm", _GEMM), ("optimizer", _OPTIMIZER)):
        if any(word in lower for word in words):
            return kind
    return "elementwise"


def measured_by_kind(step: Callable[[], object], device: str) -> dict[str, float]:
    """Self time of every kernel of one step, summed by kind [s]."""
    torch = require_torch()
    found: dict[str, float] = {}
    if not device.startswith("cuda"):
        # The profiler without Kineto, which writes two lines to standard error for every profile (severity USDT, above
        # all that KINETO_LOG_LEVEL can turn off).
        with torch.autograd.profiler_legacy.profile() as profile:
            step()
        for event in profile.function_events:
            kind = _kind_of_event(event)
            found[kind] = found.get(kind, 0.0) + event.self_cpu_time_total * 1e-6
        return found
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        step()
        synchronize(device)
    for event in profile.key_averages():
        kind = kind_of_kernel(event.key)
        found[kind] = found.get(kind, 0.0) + event.self_device_time_total * 1e-6
    return found


def _kind_of_event(event: Any) -> str:
    """By the nearest name that says it: what an optimizer or a GEMM calls belongs to it.

    A gradient that is added to what is there belongs to the GEMM that made it, as in the lowering.
    """
    while event is not None:
        if "AccumulateGrad" in event.name:
            return "gemm"
        kind = kind_of_kernel(event.name)
        if kind != "elementwise":
            return kind
        event = event.cpu_parent
    return "elementwise"


def predicted_by_kind(estimate: Estimate) -> dict[str, float]:
    """Seconds of an executed step's Ops by kind."""
    details: Any = estimate.details
    table = timeline_tables(details["pipeline"], details["run"])["ops"]
    found: dict[str, float] = {}
    columns = (table["kind"], table["name"], table["start"], table["duration"], table["count"])
    for kind, name, start, duration, count in zip(*columns, strict=True):
        if not math.isnan(start) or math.isnan(duration):
            continue
        where = "optimizer" if name == "optimizer" else "gemm" if kind == "grouped_gemm" else str(kind)
        found[where] = found.get(where, 0.0) + float(duration) * int(count)
    return found
