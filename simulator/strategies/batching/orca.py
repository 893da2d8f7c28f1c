"""Iteration-level scheduling with selective batching (Orca)."""

from __future__ import annotations

from simulator.registry import register
from simulator.strategies.batching.first_come import FirstCome, Seats
from simulator.strategies.protocols import BatchPlan, ReplicaView, RequestState

__all__ = ["Orca"]

_DECODE = BatchPlan()


@register(
    "orca",
    kind="policy",
    area="serving",
    family="batching",
    cites=("Yu et al., Orca: A Distributed Serving System for Transformer-Based Generative Models, OSDI 2022",),
    catalogue=("Orca",),
    validated_by="closed_form",
)
class Orca(FirstCome):
    """Requests join and leave between iterations; whole prompts run beside decodes; memory reserved to the end.

    A request is admitted while the KV cache can hold its longest possible sequence beside those admitted before
    it (Algorithm 1 of the paper), so nothing is ever preempted.
    """

    kv_policy = "reserve-max"

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """All decodes and the whole prompts of newly admitted requests."""
        if not replica.waiting:
            return _DECODE
        seats = Seats(replica, replica.secure_decodes())
        batch: list[tuple[RequestState, int]] = []
        for request in replica.waiting:
            if not seats.take(request):
                break
            batch.append((request, request.remaining_prefill))
        return BatchPlan(batch) if batch else _DECODE
