"""Request-level batches of prompts of unequal length: padding, and how to avoid paying for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simulator.registry import register
from simulator.strategies.batching.first_come import Seats
from simulator.strategies.batching.request_level import Static
from simulator.strategies.protocols import BatchPlan, BatchShape, ReplicaView, RequestState

__all__ = ["ByteTransformer", "TurboTransformers", "padding_waste", "split_sorted"]


def padding_waste(lengths: Sequence[int]) -> float:
    """Share of a padded batch that is padding: 1 − Σ len / (B · max len)."""
    return 1.0 - sum(lengths) / (len(lengths) * max(lengths))


def split_sorted(
    lengths: Sequence[int], seconds: Callable[[int, int], float], most: int
) -> tuple[float, list[tuple[int, int]]]:
    """Cheapest cut of ascending ``lengths`` into consecutive padded batches.

    Parameters
    ----------
    lengths
        Ascending [tokens].
    seconds
        Time of a batch, of (requests, padded length).
    most
        Requests per batch.

    Returns
    -------
    (seconds, [(first, last + 1), ...])
        By dynamic programming over the end of the last batch: O(n · most).
    """
    best = [0.0]
    cut = [0]
    for end in range(1, len(lengths) + 1):
        choices = [
            (best[start] + seconds(end - start, lengths[end - 1]), start) for start in range(max(0, end - most), end)
        ]
        least, start = min(choices)
        best.append(least)
        cut.append(start)
    parts = []
    end = len(lengths)
    while end:
        parts.append((cut[end], end))
        end = cut[end]
    return best[-1], parts[::-1]


@register(
    "turbotransformers",
    kind="policy",
    area="serving",
    family="batching",
    cites=("Fang et al., TurboTransformers: An Efficient GPU Serving System for Transformer Models, PPoPP 2021, "
           "arXiv:2010.05680, Algorithm 2",),
    catalogue=("TurboTransformers, ByteTransformer",),
    validated_by="closed_form",
)  # fmt: skip
class TurboTransformers(Static):
    """The queue is sorted by length and cut by dynamic programming into the padded batches of least total time.

    Of these batches the one with the oldest request runs first.

    Parameters
    ----------
    max_batch_size
        Most requests in a batch; 0 = ``max_num_seqs``.
    max_considered
        Oldest requests that are sorted and cut.
    """

    def __init__(self, max_batch_size: int = 0, max_considered: int = 256) -> None:
        super().__init__(max_batch_size)
        self.max_considered = max_considered

    def form(self, replica: ReplicaView) -> BatchPlan:
        """The batch of the best cut that has the oldest request."""
        queue = list(replica.waiting)[: self.max_considered]
        if not queue:
            return BatchPlan()
        ordered = sorted(queue, key=lambda r: (r.input_tokens, r.arrival, r.index))
        known: dict[tuple[int, int], float] = {}

        def seconds(size: int, length: int) -> float:
            if (size, length) not in known:
                known[size, length] = replica.predict(BatchShape(((length, 0),) * size, 0, 0))
            return known[size, length]

        most = min(self.max_batch_size or replica.max_num_seqs, replica.max_batch_seqs)
        _, parts = split_sorted([r.input_tokens for r in ordered], seconds, most)
        first, last = next((a, b) for a, b in parts if queue[0] in ordered[a:b])
        seats = Seats(replica)
        part = sorted(ordered[first:last], key=lambda r: (r.arrival, r.index))
        batch: list[tuple[RequestState, int]] = []
        for request in part:
            if not seats.take(request):
                break
            batch.append((request, request.remaining_prefill))
        return BatchPlan(batch, decode=False, padded=True) if batch else BatchPlan()


@register(
    "bytetransformer",
    kind="policy",
    area="serving",
    family="batching",
    cites=("Zhai et al., ByteTransformer: A High-Performance Transformer Boosted for Variable-Length Inputs, IPDPS "
           "2023, arXiv:2210.03052",),
    catalogue=("TurboTransformers, ByteTransformer",),
    validated_by="closed_form",
)  # fmt: skip
class ByteTransformer(Static):
    """``static`` without padding: the prompts of a batch are packed, and only their own tokens are computed."""

    def form(self, replica: ReplicaView) -> BatchPlan:
        """The batch of ``static``, packed."""
        return super().form(replica)._replace(padded=False)
