"""Traces of the PyTorch profiler (Kineto)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator.calibration.by_kind import kind_of_kernel
from simulator.calibration.reference_tables import gemm_row
from simulator.cost.kernel_table import Row
from simulator.errors import ConfigError

__all__ = ["KinetoSummary", "read_kineto"]


@dataclass(frozen=True)
class KinetoSummary:
    """Kernels of a trace.

    Attributes
    ----------
    gemms
        GEMMs whose shapes the trace holds (``record_shapes=True``), with their times.
    seconds
        Device seconds by kind of kernel.
    host_gap
        Share of the traced time in which no kernel ran: the host's.
    span
        Seconds from first start to last end.
    """

    gemms: tuple[Row, ...]
    seconds: dict[str, float]
    host_gap: float
    span: float


def read_kineto(path: Path) -> KinetoSummary:
    """A trace that ``torch.profiler`` exported (JSON, plain or gzip).

    Raises
    ------
    ConfigError
        If it is not such a trace.
    """
    raw = path.read_bytes()
    try:
        document = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
        events = document["traceEvents"]
    except (ValueError, KeyError, TypeError, OSError):
        raise ConfigError(f"{path}: not a trace of torch.profiler (no traceEvents)") from None
    whole = [e for e in events if e.get("ph") == "X" and e.get("dur", 0) > 0]
    kernels = [e for e in whole if e.get("cat") == "kernel"]
    calls = [e for e in whole if e.get("cat") == "cpu_op"]
    timed = kernels or calls
    if not timed:
        raise ConfigError(f"{path}: the trace holds no kernels and no operators")
    by_call: dict[Any, float] = {}
    for kernel in kernels:  # a product that is split along K is two kernels of one call
        call = kernel.get("args", {}).get("External id")
        by_call[call] = by_call.get(call, 0.0) + kernel["dur"]
    seconds: dict[str, float] = {}
    alone = ((str(e["name"]), e["dur"]) for e in kernels) if kernels else _own_times(calls)
    for name, duration in alone:
        kind = kind_of_kernel(name)
        seconds[kind] = seconds.get(kind, 0.0) + duration * 1e-6
    start, end = min(e["ts"] for e in timed), max(e["ts"] + e["dur"] for e in timed)
    busy = _union([(e["ts"], e["ts"] + e["dur"]) for e in timed])
    gemms = [row for e in calls if (row := _gemm(e, by_call, bool(kernels))) is not None]
    span = (end - start) * 1e-6
    return KinetoSummary(tuple(gemms), seconds, 1 - busy * 1e-6 / span if span else 0.0, span)


def _own_times(calls: list[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    """Operators of a CPU with the time that they spend outside those that they call.

    A product is no leaf: it lays out its output and its operands through operators of their own, in the product's name.
    """
    inside: list[tuple[float, str]] = []
    thread: Any = None
    for event in sorted(calls, key=lambda e: (str(e.get("tid", 0)), e["ts"], -e["dur"])):
        if event.get("tid", 0) != thread:
            inside, thread = [], event.get("tid", 0)
        while inside and event["ts"] >= inside[-1][0]:
            inside.pop()
        name = str(event["name"])
        if inside:
            outer = inside[-1][1]
            yield outer, -event["dur"]
            if kind_of_kernel(outer) != "elementwise":
                name = outer
        inside.append((event["ts"] + event["dur"], name))
        yield name, event["dur"]


def _union(intervals: list[tuple[float, float]]) -> float:
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


_INPUTS = {"aten::mm": (0, 1), "aten::addmm": (1, 2)}
_TYPES = {"float": "fp32", "c10::BFloat16": "bf16", "c10::Half": "fp16"}


def _gemm(event: dict[str, Any], by_call: dict[Any, float], device: bool) -> Row | None:
    """A matrix product with its shape and the time of its kernel."""
    which = _INPUTS.get(str(event["name"]))
    arguments = event.get("args", {})
    shapes, types = arguments.get("Input Dims"), arguments.get("Input type")
    if which is None or not shapes or not types:
        return None
    a, b = (shapes[i] for i in which)
    dtype = _TYPES.get(str(types[which[0]]))
    duration = by_call.get(arguments.get("External id")) if device else event["dur"]
    if dtype is None or len(a) != 2 or len(b) != 2 or not duration:
        return None
    return gemm_row(a[0], b[1], a[1], duration * 1e-6, dtype)
