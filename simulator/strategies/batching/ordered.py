"""Chunked prefill that admits in another order than that of arrival; running requests stay."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from heapq import nsmallest

from simulator.registry import register
from simulator.strategies.batching.chunked_prefill import ChunkedPrefill, running_chunks
from simulator.strategies.batching.first_come import Seats
from simulator.strategies.batching.prediction import LengthPredictor
from simulator.strategies.protocols import BatchPlan, ReplicaView, RequestState

__all__ = ["CacheAware", "OfflineThroughput", "Ordered", "ShortestJobFirst"]

_DECODE = BatchPlan()


class Ordered(ChunkedPrefill, ABC):
    """Token budget as in chunked prefill; :meth:`order` says who is next."""

    first_fit = False
    """Whether a request that does not fit is passed over."""

    @abstractmethod
    def order(self, replica: ReplicaView, most: int) -> Iterable[RequestState]:
        """At least the first ``most`` waiting requests, best first."""

    def arrival_matters(self, replica: ReplicaView) -> bool:
        """A new request may be the next one, if there is a seat."""
        return replica.running < replica.max_num_seqs

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """All decodes, chunks of running prompts, then of waiting ones in this policy's order."""
        if not replica.waiting and not replica.prefilling:
            return _DECODE
        decodes = min(replica.secure_decodes(), replica.max_batch_seqs)
        batch, budget = running_chunks(replica, decodes)
        seats = min(replica.max_num_seqs - replica.running, replica.max_batch_seqs - decodes - len(batch))
        if budget > 0 and seats > 0 and replica.waiting and not replica.swapped:
            self._admit(replica, batch, budget, Seats(replica, decodes + len(batch)), seats)
        return BatchPlan(batch) if batch else _DECODE

    def _admit(
        self, replica: ReplicaView, batch: list[tuple[RequestState, int]], budget: int, seats: Seats, most: int
    ) -> None:
        for request in self.order(replica, len(replica.waiting) if self.first_fit else most):
            if budget <= 0:
                break
            if not seats.take(request):
                if self.first_fit:
                    continue
                break
            chunk = min(request.remaining_prefill, budget)
            budget -= chunk
            batch.append((request, chunk))


@register(
    "sjf",
    kind="policy",
    area="serving",
    family="batching",
    cites=(
        "Jin et al., S3: Increasing GPU Utilization during Generative Inference for Higher Throughput, "
        "arXiv:2306.06000 (length prediction)",
        "Schrage, Operations Research 14(4), 1966 (shortest processing time)",
    ),
    validated_by="closed_form",
)
class ShortestJobFirst(Ordered):
    """The waiting request with the least predicted work goes first; what runs is not interrupted.

    Parameters
    ----------
    error
        σ of the logarithm of predicted over true output length.
    seed
        Of the predictor.
    prompt_weight
        Work of a prompt token relative to an output token.
    """

    def __init__(self, error: float = 0.0, seed: int = 0, prompt_weight: float = 0.0) -> None:
        self._predictor = LengthPredictor(error, seed)
        self._prompt_weight = prompt_weight

    def order(self, replica: ReplicaView, most: int) -> Iterable[RequestState]:
        """By predicted work, then by arrival."""
        return nsmallest(most, replica.waiting, key=self._work)

    def _work(self, request: RequestState) -> tuple[float, float, int]:
        output = self._predictor.output_tokens(request) - request.produced
        return self._prompt_weight * request.input_tokens + max(output, 1), request.arrival, request.index


@register(
    "offline-max-throughput",
    kind="policy",
    area="serving",
    family="batching",
    cites=(
        "Graham, Bounds on Multiprocessing Timing Anomalies, SIAM Journal on Applied Mathematics 17(2), 1969",
        "Sheng et al., FlexGen, ICML 2023, arXiv:2303.06865 (throughput-oriented batches)",
    ),
    validated_by="closed_form",
)
class OfflineThroughput(ShortestJobFirst):
    """For a list that is all there at the start: longest predicted outputs first, whatever fits is taken.

    The makespan ends with few long requests otherwise; latency of single requests does not count.
    """

    first_fit = True

    def _work(self, request: RequestState) -> tuple[float, float, int]:
        return -self._predictor.output_tokens(request), request.arrival, request.index


@register(
    "cache-aware",
    kind="policy",
    area="serving",
    family="batching",
    cites=("Zheng et al., SGLang (RadixAttention, cache-aware scheduling), arXiv:2312.07104, section 3",),
    catalogue=("SGLang / RadixAttention, Prompt Cache",),
    validated_by="closed_form",
)
class CacheAware(Ordered):
    """The waiting request with the longest cached prefix goes first (SGLang's longest prefix match).

    Parameters
    ----------
    most_compared
        With more requests waiting the order is that of arrival, as in SGLang (128).
    """

    kv_policy = "prefix-lru"

    def __init__(self, most_compared: int = 128) -> None:
        self.most_compared = most_compared

    def order(self, replica: ReplicaView, most: int) -> Iterable[RequestState]:
        """By cached prefix, longest first."""
        waiting = replica.waiting
        if len(waiting) > self.most_compared:
            return list(waiting)
        return sorted(waiting, key=lambda r: -replica.look_up(r))
