"""Closed forms of collectives: bytes on the wire, steps, and NCCL's latency model.

Sizes follow nccl-tests: ``S`` is the whole (gathered) buffer, for all-to-all what one rank sends to all ranks
(itself included), for send-recv the message.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from simulator.workload.ops import Collective

__all__ = ["alpha_sqrt_beta", "nccl_hops", "nccl_latency", "torus_all_to_all_share", "wire_bytes"]


def wire_bytes(operation: str, ranks: int, size: float) -> float:
    """Bytes one rank sends with bandwidth-optimal point-to-point algorithms [B].

    All-reduce 2(n−1)/n·S; all-gather, reduce-scatter and all-to-all (n−1)/n·S; broadcast and send-recv S.
    """
    if ranks <= 1:
        return 0.0
    if operation == Collective.ALL_REDUCE:
        return 2 * (ranks - 1) / ranks * size
    if operation in (Collective.BROADCAST, Collective.SEND_RECV):
        return size
    return (ranks - 1) / ranks * size


def alpha_sqrt_beta(latency: float, wire: float, per_byte: float, sqrt: float) -> float:
    """``α + κ·√(α·β·V) + β·V`` [s] with the dimensionless ``sqrt`` = κ.

    Plain α–β is up to 40 % too fast between 0.5 and 32 MiB, where libraries change protocol. Written this way the
    coefficient of √V needs no measurement of its own: it is the geometric mean of the other two terms times a
    constant near 1 (median over 72 measured curves).
    """
    transfer = wire * per_byte
    return latency + sqrt * math.sqrt(latency * transfer) + transfer


def nccl_hops(operation: str, tree: bool, ranks: int, nodes: int) -> tuple[float, float]:
    """Hops inside nodes and between nodes on the critical path of NCCL's ring or tree."""
    if tree:
        return 2 * (ranks / nodes - 1), 2 * math.log2(nodes) if nodes > 1 else 0.0
    if operation == Collective.SEND_RECV:
        return (0.0, 1.0) if nodes > 1 else (1.0, 0.0)
    rounds = 2 if operation == Collective.ALL_REDUCE else 1
    inter = rounds * (nodes - 1)
    return rounds * (ranks - 1) - inter, inter


def nccl_latency(
    operation: str, tree: bool, ranks: int, nodes: int, wire: str, extra: float, value: Callable[[str], float]
) -> float:
    """Time of a small message in NCCL's own model [s]: base + hops inside · t + hops between nodes · t'.

    A broadcast over several nodes passes every rank one after another, and NCCL counts t' for each of them: a rank
    hands a chunk on when it has all of it (NVIDIA/nccl src/graph/tuning.cc, Reduce and Broadcast).

    Parameters
    ----------
    wire
        ``nvlink`` or ``pci``: what joins the ranks of a node.
    extra
        Latency of the network beyond the InfiniBand that NCCL's constants stand for [s per hop].
    value
        Looks up a constant of the model by its key in the profile ``nccl-tuner``.
    """
    shape = "tree" if tree else "ring"
    inside, between = nccl_hops(operation, tree, ranks, nodes)
    seconds = value(f"base_latency.{shape}.ll")
    if operation == Collective.BROADCAST and between > 0:
        return seconds + ranks * value(f"hardware_latency.net.{shape}.ll") + between * extra
    if inside > 0:
        seconds += inside * value(f"hardware_latency.{wire}.{shape}.ll")
    if between > 0:
        seconds += between * (value(f"hardware_latency.net.{shape}.ll") + extra)
    return seconds


def torus_all_to_all_share(ranks: int, axes: int) -> float:
    """Slow-down of an all-to-all on a torus of ``axes`` equal axes against a switch of the same bandwidth per rank.

    With k = n^(1/axes) ranks per axis the bisection of 2·k^(axes−1) links each way carries n·S/4, so the time is
    k·S/(8·B_link) against S/(2·axes·B_link).
    """
    per_axis = math.pow(ranks, 1.0 / axes)
    return max(1.0, per_axis * axes / 4)
