"""Which deployments the compiled loop serves, and when loading it is worth the time. Imports no numba."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from simulator.serving.compiled import layout
from simulator.serving.compiled.store import is_compiled
from simulator.serving.separable import Separable, SeparableCost
from simulator.strategies.batching.chunked_prefill import ChunkedPrefill
from simulator.strategies.batching.prefill_first import PrefillFirst
from simulator.strategies.kv_cache.paged import Paged
from simulator.strategies.router.basic import LeastOutstanding, PowerOfTwo, RandomReplica, RoundRobin

if TYPE_CHECKING:
    from simulator.serving.compiled.driver import CompiledLoop
    from simulator.serving.deployment import DeploymentProcess

__all__ = ["Loop", "compiled_loop", "front_end_pays", "plain_case"]

Loop = Literal["auto", "objects", "compiled"]

_LOOP = "simulator.serving.compiled.loop"

LOADING = 20_000
"""Requests that the loop of objects serves in the time the kernels take to load: 33 us each against 0.6 s."""

COMPILING = 600_000
"""And in the time they take to compile, about 20 s."""

ENTERING = 16
"""Requests that pass a front end in the time that the loop of objects serves one: 2 us against 33; its kernel alone
compiles in the time in which all are loaded."""

_MOST_TOKENS = 1 << 24
"""Of one request: a chunk and its context share a key."""

_MOST_SEATS = 1 << 24
"""Replicas times sequences: 50 B each."""

_POLICIES: dict[type, int] = {ChunkedPrefill: layout.CHUNKED_PREFILL, PrefillFirst: layout.PREFILL_FIRST}
_CACHES: tuple[type, ...] = (Paged,)
_ROUTERS: dict[type, int] = {
    RoundRobin: layout.ROUND_ROBIN, LeastOutstanding: layout.LEAST_OUTSTANDING,
    RandomReplica: layout.RANDOM, PowerOfTwo: layout.POWER_OF_TWO,
}  # fmt: skip

_served = 0
"""Requests this process has served in the loop of objects though the compiled one could have."""


def plain_case(process: DeploymentProcess) -> SeparableCost | None:
    """The cost by terms if this is a case the compiled loop covers, else ``None``.

    Continuous batching by chunked prefill or prefill-first on a paged cache without sharing, preemption by
    recomputation, open loop, nobody refused by an admission policy or told of finishes, a router that looks at numbers
    of requests at most, one cost for all replicas.
    """
    limits, costs = process.limits, process.costs
    covered = (
        type(process.policy) in _POLICIES
        and type(process.kv_policy) in _CACHES
        and type(process.router) in _ROUTERS
        and process.independent
        and process.on_held is None
        and len(process.open) == len(costs)
        and limits.pipeline_stages == 1
        and limits.preemption == "recompute"
        and limits.kv_blocks * limits.block_size < _MOST_TOKENS
        and len(costs) * min(limits.max_num_seqs, limits.kv_blocks) < _MOST_SEATS
        and all(cost is costs[0] for cost in costs)
    )
    if not covered or not isinstance(costs[0], Separable):
        return None
    return costs[0].separate()


def compiled_loop(process: DeploymentProcess, loop: Loop, **calls: Any) -> CompiledLoop | None:
    """The compiled loop for ``process``; ``None`` where it is not covered, not installed or not worth loading.

    Raises
    ------
    ValueError
        If ``loop`` is ``compiled`` and it cannot be.
    """
    possible = loop != "objects" and find_spec("numba") is not None
    if not possible or (loop == "auto" and not _worthwhile(len(process.table))):
        if loop == "compiled":
            raise ValueError("the compiled loop needs numba: pip install 'fmsim[fast]'")
        return None
    cost = plain_case(process)
    if cost is None:
        if loop == "compiled":
            raise ValueError("the compiled loop does not cover this deployment: see simulator.serving.compiled.choose")
        return None
    from simulator.serving.compiled.driver import CompiledLoop

    table = process.table
    if process.left is not None:
        calls["came"], table = table.arrival, replace(table, arrival=process.left)
    return CompiledLoop(
        table, process.rejected, cost, process.limits, len(process.costs),
        _POLICIES[type(process.policy)], _ROUTERS[type(process.router)], getattr(process.router, "draws", iter(())),
        count_padding=getattr(process.policy, "count_padding", False), **calls,
    )  # fmt: skip


def front_end_pays(requests: int) -> bool:
    """Whether so many requests are to pass their front end in a kernel."""
    if _LOOP in sys.modules:
        return True
    return requests >= ENTERING * LOADING and find_spec("numba") is not None


def _worthwhile(requests: int) -> bool:
    """Whether the kernels are loaded, or as much has been served without them as loading takes."""
    global _served
    if not requests:
        return False
    if _LOOP in sys.modules:
        return True
    _served += requests
    return _served >= LOADING and (_served >= COMPILING or is_compiled())
