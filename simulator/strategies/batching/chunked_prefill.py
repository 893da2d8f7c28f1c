"""Chunked prefill: decodes and pieces of prompts under one token budget."""

from __future__ import annotations

from simulator.registry import register
from simulator.strategies.batching.first_come import FirstCome, Seats
from simulator.strategies.protocols import BatchPlan, ReplicaView, RequestState

__all__ = ["ChunkedPrefill", "running_chunks"]

_DECODE = BatchPlan()


def running_chunks(replica: ReplicaView, decodes: int) -> tuple[list[tuple[RequestState, int]], int]:
    """Chunks of the prompts under way, and what ``decodes`` and they leave of the token budget [tokens]."""
    budget = replica.max_num_batched_tokens - decodes
    batch: list[tuple[RequestState, int]] = []
    for request in replica.prefilling:
        if budget <= 0:
            break
        chunk = min(request.remaining_prefill, budget)
        budget -= chunk
        batch.append((request, chunk))
    return batch, budget


@register(
    "chunked-prefill",
    kind="policy",
    area="serving",
    family="batching",
    cites=(
        "Agrawal et al., SARATHI: Efficient LLM Inference by Piggybacking Decodes with Chunked Prefills, 2023, "
        "arXiv:2308.16369",
        "Agrawal et al., Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve, OSDI 2024",
        "Holmes et al., DeepSpeed-FastGen, arXiv:2401.08671",
    ),
    catalogue=("Sarathi (chunked prefill)", "DeepSpeed-FastGen SplitFuse"),
    validated_by="published",
)
class ChunkedPrefill(FirstCome):
    """Every decode first, then prompt chunks up to the token budget (Sarathi-Serve, SplitFuse, vLLM 1.x)."""

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """All decodes, chunks of running prompts, then of waiting ones."""
        if not replica.waiting and not replica.prefilling:
            return _DECODE
        decodes = min(replica.secure_decodes(), replica.max_batch_seqs)
        batch, budget = running_chunks(replica, decodes)
        waiting = replica.waiting
        if not batch and len(waiting) == 1 and not replica.swapped:
            # The usual case, one newcomer, without the general machinery.
            request = waiting[0]
            if budget <= 0 or replica.running >= replica.max_num_seqs or decodes >= replica.max_batch_seqs:
                return _DECODE
            if replica.blocks_for(request) > replica.free_blocks - replica.watermark_blocks:
                return _DECODE
            return BatchPlan(((request, min(request.remaining_prefill, budget)),))
        if budget > 0 and waiting:
            seats = Seats(replica, decodes + len(batch))
            for request in replica.waiting:
                if budget <= 0 or not seats.take(request):
                    break
                chunk = min(request.remaining_prefill, budget)
                budget -= chunk
                batch.append((request, chunk))
        return BatchPlan(batch) if batch else _DECODE
