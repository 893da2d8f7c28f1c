"""Prefill-first continuous batching: whole prompts (vLLM before chunked prefill) or pieces of them (SGLang)."""

from __future__ import annotations

from simulator.registry import register
from simulator.strategies.batching.chunked_prefill import running_chunks
from simulator.strategies.batching.first_come import FirstCome, Seats
from simulator.strategies.protocols import BatchPlan, ReplicaView, RequestState

__all__ = ["ChunkedPrefillFirst", "PrefillFirst"]

_DECODE = BatchPlan()


@register(
    "prefill-first",
    kind="policy",
    area="serving",
    family="batching",
    cites=("Kwon et al., Efficient Memory Management for Large Language Model Serving with PagedAttention, SOSP 2023",),
    catalogue=("PagedAttention / vLLM",),
    validated_by="published",
)
class PrefillFirst(FirstCome):
    """Whole prompts before any decode, first come first served; decodes pause meanwhile (vLLM 0.x).

    Parameters
    ----------
    count_padding
        Whether the token budget counts the prompts of a batch padded to the longest, as vLLM did up to 0.2.
    """

    def __init__(self, count_padding: bool = False) -> None:
        self.count_padding = count_padding

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """A batch of waiting prompts if the first fits, else all decodes."""
        if not replica.waiting:
            return _DECODE
        seats = Seats(replica)
        batch: list[tuple[RequestState, int]] = []
        total = longest = 0
        for request in replica.waiting:
            tokens = request.prefill_target - replica.look_up(request)
            longest = max(longest, tokens)
            total += tokens
            counted = longest * (len(batch) + 1) if self.count_padding else total
            # A preempted request may have outgrown the budget; it then runs alone.
            if counted > replica.max_num_batched_tokens and (batch or not request.preemptions):
                break
            if not seats.take(request):
                break
            batch.append((request, tokens))
        return BatchPlan(batch, decode=False) if batch else _DECODE

    def longest_prefill(self, replica: ReplicaView) -> int:
        """A prompt is never split, so it must fit the token budget."""
        return replica.max_num_batched_tokens


@register(
    "chunked-prefill-first",
    kind="policy",
    area="serving",
    family="batching",
    cites=(
        "sgl-project/sglang ServerArgs.chunked_prefill_size: prompts beyond it are cut, prefill goes before decode",
    ),
    validated_by="closed_form",
)
class ChunkedPrefillFirst(FirstCome):
    """Prompts before any decode, in pieces of at most the token budget; decodes pause meanwhile (SGLang)."""

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """Pieces of prompts under way, then of waiting ones; all decodes where there are none."""
        if not replica.waiting and not replica.prefilling:
            return _DECODE
        batch, budget = running_chunks(replica, 0)
        seats = Seats(replica, len(batch))
        for request in replica.waiting:
            if budget <= 0 or not seats.take(request):
                break
            chunk = min(request.prefill_target - replica.look_up(request), budget)
            budget -= chunk
            batch.append((request, chunk))
        return BatchPlan(batch, decode=False) if batch else _DECODE
