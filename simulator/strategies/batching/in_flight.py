"""In-flight batching: decodes and whole prompts under one token budget."""

from __future__ import annotations

from simulator.registry import register
from simulator.strategies.batching.first_come import FirstCome, Seats
from simulator.strategies.protocols import BatchPlan, ReplicaView, RequestState

__all__ = ["InFlight"]

_DECODE = BatchPlan()


@register(
    "in-flight",
    kind="policy",
    area="serving",
    family="batching",
    cites=(
        "NVIDIA/TensorRT-LLM cpp/tensorrt_llm/batch_manager/microBatchScheduler.cpp (without chunked context) and "
        "capacityScheduler.cpp (GUARANTEED_NO_EVICT)",
    ),
    validated_by="closed_form",
)
class InFlight(FirstCome):
    """Every decode first, then whole prompts while the token budget holds them (TensorRT-LLM as it is launched).

    A prompt that does not fit beside the decodes and prompts before it waits, so that a budget of one prompt makes an
    iteration of each. Requests are admitted when the cache has room for all they may grow to: nobody is preempted.
    """

    kv_policy = "reserve-exact"

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """All decodes, and whole prompts in order of arrival."""
        if not replica.waiting:
            return _DECODE
        decodes = min(replica.secure_decodes(), replica.max_batch_seqs)
        budget = replica.max_num_batched_tokens - decodes
        seats = Seats(replica, decodes)
        batch: list[tuple[RequestState, int]] = []
        for request in replica.waiting:
            tokens = request.prefill_target - replica.look_up(request)
            if tokens > budget or not seats.take(request):
                break
            budget -= tokens
            batch.append((request, tokens))
        return BatchPlan(batch) if batch else _DECODE

    def longest_prefill(self, replica: ReplicaView) -> int:
        """A prompt is never split, so it must fit the token budget."""
        return replica.max_num_batched_tokens
