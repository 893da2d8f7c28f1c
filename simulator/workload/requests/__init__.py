"""Request workloads: tables of requests, readers of published traces, generators under a seed.

>>> from simulator.workload.requests import Fixed, Poisson, generate_requests
>>> len(generate_requests(Poisson(rate=5.0), Fixed(512), Fixed(128), count=1000, seed=1))
1000
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.workload.requests.arrivals import (
        ArrivalSpec,
        ClosedLoop,
        Deterministic,
        Diurnal,
        Gamma,
        OnOff,
        Poisson,
    )
    from simulator.workload.requests.files import RequestWorkload, load_requests, load_workload, workload_names
    from simulator.workload.requests.generators import generate_requests
    from simulator.workload.requests.lengths import (
        Empirical,
        Fixed,
        LengthSpec,
        LogNormal,
        Mixture,
        Quantiles,
        Uniform,
    )
    from simulator.workload.requests.readers import read_requests, trace_formats
    from simulator.workload.requests.table import PrefixBlocks, RequestTable, RequestTableError, TraceProvenance

__all__ = [
    "ArrivalSpec",
    "ClosedLoop",
    "Deterministic",
    "Diurnal",
    "Empirical",
    "Fixed",
    "Gamma",
    "LengthSpec",
    "LogNormal",
    "Mixture",
    "OnOff",
    "Poisson",
    "PrefixBlocks",
    "Quantiles",
    "RequestTable",
    "RequestTableError",
    "RequestWorkload",
    "TraceProvenance",
    "Uniform",
    "generate_requests",
    "load_requests",
    "load_workload",
    "read_requests",
    "trace_formats",
    "workload_names",
]

_HOME = {
    "arrivals": ("ArrivalSpec", "ClosedLoop", "Deterministic", "Diurnal", "Gamma", "OnOff", "Poisson"),
    "files": ("RequestWorkload", "load_requests", "load_workload", "workload_names"),
    "generators": ("generate_requests",),
    "lengths": ("Empirical", "Fixed", "LengthSpec", "LogNormal", "Mixture", "Quantiles", "Uniform"),
    "readers": ("read_requests", "trace_formats"),
    "table": ("PrefixBlocks", "RequestTable", "RequestTableError", "TraceProvenance"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import on first use, so that naming this package costs nothing at start-up."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
