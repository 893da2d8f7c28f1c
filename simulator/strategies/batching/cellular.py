"""Batching below the request: cells, slices and slack, between request-level batches and iteration-level scheduling."""

from __future__ import annotations

from simulator.registry import register
from simulator.strategies.batching.first_come import FirstCome, Seats
from simulator.strategies.protocols import BatchPlan, BatchShape, ReplicaView, RequestState

__all__ = ["Cellular", "DVABatch", "LazyBatching"]

_DECODE = BatchPlan()


def _whole_prompts(replica: ReplicaView, most: int) -> list[tuple[RequestState, int]]:
    """Up to ``most`` whole prompts in order of arrival."""
    seats = Seats(replica, replica.decodes)
    batch: list[tuple[RequestState, int]] = []
    for request in replica.waiting:
        if len(batch) >= most or not seats.take(request):
            break
        batch.append((request, request.remaining_prefill))
    return batch


@register(
    "cellular",
    kind="policy",
    area="serving",
    family="batching",
    cites=("Gao et al., Low Latency RNN Inference with Cellular Batching, EuroSys 2018",),
    catalogue=("Cellular batching (BatchMaker)",),
    validated_by="closed_form",
)
class Cellular(FirstCome):
    """One queue per kind of cell, here prompts and decode steps; each pass runs cells of one kind.

    Requests join and leave at cell boundaries. As in BatchMaker a kind with a full batch goes first, among those the
    later stage; without a full batch, decode steps do. A waiting prompt gets its turn when decode steps do not fill a
    batch and it could join them.

    Parameters
    ----------
    max_batch_size
        Cells that make a batch full; 0 = ``max_num_seqs``.
    """

    def __init__(self, max_batch_size: int = 0) -> None:
        self.max_batch_size = max_batch_size

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """Decode steps if they fill a batch or no prompt can start, else prompts."""
        full = self.max_batch_size or replica.max_num_seqs
        if not replica.waiting or replica.decodes >= full:
            return _DECODE
        batch = _whole_prompts(replica, full - replica.decodes)
        return BatchPlan(batch, decode=False) if batch else _DECODE


@register(
    "dvabatch",
    kind="policy",
    area="serving",
    family="batching",
    cites=("Cui et al., DVABatch: Diversity-aware Multi-Entry Multi-Exit Batching for Efficient Processing of DNN "
           "Services on GPUs, USENIX ATC 2022",),
    catalogue=("DVABatch",),
    validated_by="closed_form",
)  # fmt: skip
class DVABatch(FirstCome):
    """A batch may be entered and left at slice boundaries: new, stretch and split.

    *New*: an idle engine starts a batch when it is full or its oldest request has waited ``max_delay``. *Stretch*:
    those who come later enter the running batch at a boundary while it is not full, together when they fill it or the
    oldest has waited. *Split*: members leave at their own end. The slice of an autoregressive model is one iteration.

    Parameters
    ----------
    max_batch_size
        Requests that make a batch full; 0 = ``max_num_seqs``.
    max_delay
        Longest time the oldest request waits for others [s].
    """

    def __init__(self, max_batch_size: int = 0, max_delay: float = 0.005) -> None:
        self.max_batch_size = max_batch_size
        self.max_delay = max_delay

    def arrival_matters(self, replica: ReplicaView) -> bool:
        """It may fill the batch, or be the one whose waiting counts."""
        return replica.running < replica.max_num_seqs

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """Enter when full or due."""
        if not replica.waiting:
            return _DECODE
        full = self.max_batch_size or replica.max_num_seqs
        places = full - replica.decodes
        due = replica.waiting[0].arrival + self.max_delay
        if places <= 0:
            return _DECODE
        if now < due and len(replica.waiting) < places:
            return BatchPlan(wake=due, until=due)
        batch = _whole_prompts(replica, places)
        return BatchPlan(batch, decode=False) if batch else _DECODE


@register(
    "lazybatching",
    kind="policy",
    area="serving",
    family="batching",
    cites=("Choi, Kim & Rhu, LazyBatching: An SLA-aware Batching System for Cloud Machine Learning Inference, HPCA "
           "2021, arXiv:2010.13103",),
    catalogue=("LazyBatching, E-Batch",),
    validated_by="closed_form",
)  # fmt: skip
class LazyBatching(FirstCome):
    """A new request interrupts the running batch to catch up with it, if nobody's predicted slack falls below zero.

    Slack of a running request: its objective less the time it has been here, less the tokens it has to go at the
    batch's present pace, less the prompts it would stand aside for. Its granularity is one iteration, a node of the
    unrolled graph.

    Parameters
    ----------
    slo
        Objective of the end-to-end latency [s].
    """

    def __init__(self, slo: float = 30.0) -> None:
        self.slo = slo

    def arrival_matters(self, replica: ReplicaView) -> bool:
        """Wherever a place is free."""
        return replica.running < replica.max_num_seqs

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """As many of the first in line as the slack of those who run allows; all if nobody runs."""
        if not replica.waiting:
            return _DECODE
        batch = _whole_prompts(replica, replica.max_num_seqs)
        if not batch:
            return _DECODE
        slack = self._slack(replica, now)
        while batch:
            chunks = tuple((tokens, request.computed_tokens) for request, tokens in batch)
            if replica.predict(BatchShape(chunks, 0, 0)) <= slack:
                return BatchPlan(batch, decode=False)
            batch.pop()
        # As tokens come out the prediction changes: look again after each.
        return BatchPlan(horizon=1)

    def _slack(self, replica: ReplicaView, now: float) -> float:
        """Least slack of those who decode [s]; those who miss their objective anyway do not count."""
        running = replica.decoding
        least = float("inf")
        if not running:
            return least
        contexts = [r.input_tokens + replica.produced(r) for r in running]
        step = replica.predict(BatchShape((), len(running), sum(contexts), max(contexts)))
        for request in running:
            left = (request.output_tokens - replica.produced(request)) * step
            slack = request.arrival + self.slo - now - left
            if slack >= 0.0:
                least = min(least, slack)
        return least
