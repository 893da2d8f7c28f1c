"""How many tokens each expert gets, and what that means for the busiest rank."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from simulator.workload.plan import Plan

__all__ = ["balanced_placement", "dropped_share", "imbalance", "rank_loads", "replicas", "routing_shares"]

_ZIPF = re.compile(r"zipf[(:]\s*([0-9.]+)\)?")


def routing_shares(routing: object, experts: int) -> tuple[float, ...]:
    """Share of all routed rows that each expert gets; they add up to 1.

    Parameters
    ----------
    routing
        ``"uniform"``; ``"zipf(s)"``: expert i gets a share ∝ (i+1)^−s; or measured loads, one number per expert.

    Raises
    ------
    ValueError
        If it is none of these; the message says what works.
    """
    if isinstance(routing, (list, tuple)):
        loads = [float(x) for x in routing]
        if len(loads) != experts or min(loads, default=0.0) < 0 or not sum(loads):
            raise ValueError(
                f"routing has {len(loads)} loads: it needs {experts} numbers ≥ 0, one per expert, not all 0"
            )
    elif routing == "uniform":
        loads = [1.0] * experts
    elif match := _ZIPF.fullmatch(str(routing)):
        loads = [(i + 1) ** -float(match[1]) for i in range(experts)]
    else:
        raise ValueError(f"routing '{routing}' is unknown; use uniform, zipf(1.2) or a list of {experts} loads")
    total = sum(loads)
    return tuple(x / total for x in loads)


def placement(plan: Plan, experts: int) -> tuple[int, ...]:
    """Rank of each expert: neighbours together, as frameworks place them; a Zipf law is dealt out like cards, because
    its order is not that of the experts."""
    ranks = plan.expert_parallel
    if isinstance(plan.option("routing", "uniform"), (list, tuple)):
        return tuple(e * ranks // experts for e in range(experts))
    return tuple(e % ranks for e in range(experts))


def rank_loads(shares: Sequence[float], where: Sequence[int], ranks: int) -> list[float]:
    """Share of all rows that each rank's experts get."""
    loads = [0.0] * ranks
    for share, rank in zip(shares, where, strict=True):
        loads[rank] += share
    return loads


def imbalance(loads: Sequence[float]) -> float:
    """Rows of the busiest rank over the mean."""
    return max(1.0, max(loads) * len(loads))  # never below the mean, whatever the rounding


def dropped_share(shares: Sequence[float], capacity_factor: float) -> float:
    """Share of routed rows that are dropped: those above an expert's capacity C = capacity_factor · rows / experts."""
    capacity = capacity_factor / len(shares)
    return sum(max(0.0, share - capacity) for share in shares)


def block_rows(shares: Sequence[float], where: Sequence[int], ranks: int, rows: int, block: int) -> float:
    """Rows of the busiest rank when each expert's are padded to whole blocks, over the mean rows of a rank."""
    padded = [math.ceil(share * rows * ranks / block - 1e-9) * block for share in shares]
    return max(rank_loads(padded, where, ranks)) / rows


def balanced_placement(shares: Sequence[float], ranks: int) -> tuple[int, ...]:
    """Experts on ranks, heaviest first onto the lightest rank that has room (E/ranks experts each)."""
    room = [len(shares) // ranks] * ranks
    loads, where = [0.0] * ranks, [0] * len(shares)
    for expert in sorted(range(len(shares)), key=lambda e: -shares[e]):
        rank = min((r for r in range(ranks) if room[r]), key=lambda r: loads[r])
        where[expert], loads[rank], room[rank] = rank, loads[rank] + shares[expert], room[rank] - 1
    return tuple(where)


def replicas(shares: Sequence[float], extra: int) -> tuple[float, ...]:
    """Shares of all instances after giving ``extra`` copies, one by one, to the expert whose instances are fullest."""
    copies = [1] * len(shares)
    for _ in range(extra):
        hottest = max(range(len(shares)), key=lambda e: shares[e] / copies[e])
        copies[hottest] += 1
    return tuple(share / n for share, n in zip(shares, copies, strict=True) for _ in range(n))
