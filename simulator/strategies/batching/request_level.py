"""Request-level batching: a batch starts together and ends together."""

from __future__ import annotations

from simulator.registry import register
from simulator.strategies.batching.first_come import FirstCome, Seats
from simulator.strategies.protocols import BatchPlan, ReplicaView, RequestState

__all__ = ["Dynamic", "Static"]

_DECODE = BatchPlan()


@register(
    "static",
    kind="policy",
    area="serving",
    family="batching",
    cites=("Yu et al., Orca, OSDI 2022, section 2 (request-level scheduling of FasterTransformer)",),
    validated_by="closed_form",
)
class Static(FirstCome):
    """Whoever waits when the engine falls idle forms a padded batch that runs until its longest output ends.

    Parameters
    ----------
    max_batch_size
        Most requests in a batch; 0 = ``max_num_seqs``.
    """

    release_together = True
    kv_policy = "reserve-exact"

    def __init__(self, max_batch_size: int = 0) -> None:
        self.max_batch_size = max_batch_size

    def arrival_matters(self, replica: ReplicaView) -> bool:
        """Never: the running batch is closed."""
        return False

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """The next batch once the last has ended."""
        if replica.running:
            return _DECODE
        return self.form(replica)

    def form(self, replica: ReplicaView) -> BatchPlan:
        """A batch of the first in line."""
        seats = Seats(replica)
        size = self.max_batch_size or replica.max_num_seqs
        batch: list[tuple[RequestState, int]] = []
        for request in replica.waiting:
            if len(batch) >= size or not seats.take(request):
                break
            batch.append((request, request.remaining_prefill))
        return BatchPlan(batch, decode=False, padded=True) if batch else _DECODE


@register(
    "dynamic",
    kind="policy",
    area="serving",
    family="batching",
    cites=(
        "Olston et al., TensorFlow-Serving: Flexible, High-Performance ML Serving, arXiv:1712.06139",
        "NVIDIA Triton Inference Server, model configuration: dynamic batcher (max_queue_delay_microseconds)",
    ),
    catalogue=("TF-Serving/Triton dynamic batching",),
    validated_by="closed_form",
)
class Dynamic(Static):
    """A request-level batch starts when it is full or its oldest request has waited long enough.

    Parameters
    ----------
    max_batch_size
        Requests that make a batch full; 0 = ``max_num_seqs``.
    max_delay
        Longest time the oldest request waits for others [s]; 0 is ``static``.
    """

    def __init__(self, max_batch_size: int = 0, max_delay: float = 0.005) -> None:
        super().__init__(max_batch_size)
        self.max_delay = max_delay

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """The next batch if it is full or due, else a wake-up when it will be due."""
        if replica.running or not replica.waiting:
            return _DECODE
        due = replica.waiting[0].arrival + self.max_delay
        if now < due and len(replica.waiting) < (self.max_batch_size or replica.max_num_seqs):
            return BatchPlan(decode=False, wake=due)
        return self.form(replica)
