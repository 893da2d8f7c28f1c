"""SplitFuse: every forward pass has the same number of tokens."""

from __future__ import annotations

from simulator.registry import register
from simulator.strategies.batching.chunked_prefill import ChunkedPrefill
from simulator.strategies.protocols import BatchPlan, ReplicaView, RequestState

__all__ = ["SplitFuse"]


@register(
    "splitfuse",
    kind="policy",
    area="serving",
    family="batching",
    cites=("Holmes et al., DeepSpeed-FastGen: High-throughput Text Generation for LLMs via MII and "
           "DeepSpeed-Inference, arXiv:2401.08671, section 3",),
    catalogue=("DeepSpeed-FastGen SplitFuse",),
    validated_by="closed_form",
)  # fmt: skip
class SplitFuse(ChunkedPrefill):
    """Long prompts are cut and short ones joined so that the token budget is met exactly while prompts last.

    As in chunked prefill; besides, the cut falls on the prompt that is longest, so that short prompts of the same
    pass are whole and give their first token one pass earlier.
    """

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """The chunks of chunked prefill, the short ones filled up at the cost of the longest."""
        plan = super().schedule(replica, now)
        if len(plan.prefill) < 2:
            return plan
        chunks = dict(plan.prefill)
        budget = sum(chunks.values())
        filled: dict[RequestState, int] = {}
        for request in sorted(chunks, key=lambda r: r.remaining_prefill):
            # Everybody but the last keeps at least one token: it has been given its place.
            others = len(chunks) - len(filled) - 1
            filled[request] = min(request.remaining_prefill, budget - others)
            budget -= filled[request]
        return plan._replace(prefill=[(request, filled[request]) for request in chunks])
