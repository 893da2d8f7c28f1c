"""How an engine sets aside memory for what is not static, where it goes by sizes and not by a fixed share.

SGLang (``ServerArgs._handle_gpu_memory_settings``) reserves so many MiB for every token of the longest prefill, every
sequence of the largest CUDA graph and every rank; weights and cache get the rest of the device. So the default share
falls with the number of ranks and rises with the size of the device.
"""

from __future__ import annotations

from dataclasses import replace

from simulator.workload.framework import Framework
from simulator.workload.plan import Plan

__all__ = ["by_static_rule"]

MIB, GIB = 2.0**20, 2.0**30
SHORTEST = 2048
"""Tokens that the reserve counts at least."""

DEALT, DEALT_WIDE, WIDE = 3.0, 1.5, 300
"""MiB per sequence of the largest graph and rank of data-parallel attention; more for graphs of more sequences."""


def by_static_rule(framework: Framework, memory: float, plan: Plan, tokens: int = 0) -> Framework:
    """The framework with the share of memory it takes by default on such a device under such a plan.

    Parameters
    ----------
    framework
        Left as it is where it has no ``static_reserve_mib``.
    memory
        Of an accelerator, as its driver reports it [B].
    plan
        Its ranks, and whether attention is data-parallel.
    tokens
        Longest prefill if it is not the default.

    Notes
    -----
    Wide data-parallel attention reserves more than there is by this rule; who launches it states the share. It is then
    left as it is.
    """
    if not framework.static_reserve_mib:
        return framework
    graph = framework.graph_sequences(plan.tensor_parallel * plan.data_parallel)
    reserve = float(framework.static_reserve_mib + framework.static_reserve_per_sequence_mib * graph)
    longest = max(tokens or framework.max_num_batched_tokens, SHORTEST)
    reserve += framework.static_reserve_per_1024_tokens_mib * longest / 1024
    reserve += framework.static_reserve_per_rank_mib * plan.accelerators
    if plan.data_parallel > 1:
        reserve += graph * plan.data_parallel * (DEALT + (DEALT_WIDE if graph > WIDE else 0.0))
    if memory > framework.static_reserve_least_from_gib * GIB:
        reserve = max(reserve, framework.static_reserve_least_mib)
    share = round((memory - reserve * MIB) / memory, 3)
    return replace(framework, memory_utilization=share) if share > 0 else framework
