"""What of attention a tensor-parallel rank has: heads, or sequences."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, Protocol, runtime_checkable

from simulator.registry import lookup
from simulator.workload.plan import Plan

__all__ = ["AttentionSplit", "SplitsAttention", "attention_split"]


class AttentionSplit(NamedTuple):
    """Ranks over which heads are cut, and ranks over which the sequences of a batch are dealt out."""

    heads: int
    sequences: int = 1


@runtime_checkable
class SplitsAttention(Protocol):
    """A tensor strategy that does not simply cut heads over all ranks."""

    def attention_split(self, plan: Plan) -> AttentionSplit:
        """How the ranks of ``tp`` share attention."""


@lru_cache(maxsize=256)
def attention_split(plan: Plan) -> AttentionSplit:
    """How the tensor-parallel ranks of a plan share attention: by heads unless its tensor strategy says otherwise."""
    name = plan.option("tensor")
    strategy = lookup("tensor", str(name))() if name else None
    if isinstance(strategy, SplitsAttention):
        return strategy.attention_split(plan)
    return AttentionSplit(plan.tensor_parallel)
