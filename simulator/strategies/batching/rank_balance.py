"""Data-parallel attention that waits with prompts until every rank has one."""

from __future__ import annotations

from collections import Counter

from simulator.errors import ConfigError
from simulator.registry import register
from simulator.strategies.batching.first_come import FirstCome, Seats
from simulator.strategies.protocols import BatchPlan, ReplicaView, RequestState

__all__ = ["RankBalance"]

_DECODE = BatchPlan()


@register(
    "rank-balance",
    kind="policy",
    area="serving",
    family="batching",
    cites=(
        "NVIDIA/TensorRT-LLM tensorrt_llm/_torch/pyexecutor/py_executor.py _balance_adp_requests: "
        "attention_dp_config enable_balance, timeout_iters",
    ),
    validated_by="closed_form",
)
class RankBalance(FirstCome):
    """Whole prompts go when every rank has one that fits, or when ``iterations`` are over (TensorRT-LLM).

    A request belongs to the rank with the fewest. Budget and sequences are dealt out evenly over the ranks, so that
    with a budget of one prompt each release computes one per rank at most; the next waits again. The count runs on
    while nobody waits: a lone prompt is held for half of it in the mean.

    Parameters
    ----------
    ranks
        Data-parallel ranks of the attention.
    iterations
        ``timeout_iters``; 0: nobody is held.

    Notes
    -----
    Nobody waits while a rank has nothing to decode.
    """

    kv_policy = "reserve-exact"

    def __init__(self, ranks: int = 1, iterations: int = 0) -> None:
        if ranks < 1 or iterations < 0:
            raise ConfigError(f"ranks is 1 or more and iterations 0 or more, not {ranks} and {iterations}")
        self.ranks, self.iterations = ranks, iterations
        self._anchor = 0

    def arrival_matters(self, replica: ReplicaView) -> bool:
        """Any arrival may be the one that the last rank has been waiting for."""
        return replica.running < replica.max_num_seqs

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """Decodes alone until the wait is over, then whole prompts of every rank that has some."""
        if not replica.waiting:
            return _DECODE
        decodes = min(replica.secure_decodes(), replica.max_batch_seqs)
        held = Counter(request.data for request in replica.decoding)
        batch = self._fitting(replica, decodes, held)
        passed = (replica.iterations - self._anchor) % self.iterations if self.iterations else 0
        over = not passed and replica.iterations > self._anchor
        complete = len({request.data for request, _ in batch}) == self.ranks
        if self.iterations and not (complete or over) and len(held) == self.ranks:
            return BatchPlan(horizon=self.iterations - passed)
        if not batch:
            return _DECODE
        self._anchor = replica.iterations
        return BatchPlan(batch)

    def _fitting(self, replica: ReplicaView, decodes: int, held: Counter[int]) -> list[tuple[RequestState, int]]:
        """The prompts that ranks could begin with, first come first; ``held``: requests that each decodes."""
        owned = held + Counter(request.data for request in replica.waiting if request.data is not None)
        budget = {rank: replica.max_num_batched_tokens // self.ranks - held[rank] for rank in range(self.ranks)}
        seats, batch = Seats(replica, decodes), list[tuple[RequestState, int]]()
        full: set[int] = set()
        for request in replica.waiting:
            if request.data is None:
                request.data = min(range(self.ranks), key=owned.__getitem__)
                owned[request.data] += 1
            rank, tokens = request.data, request.prefill_target - replica.look_up(request)
            if rank in full or tokens > budget[rank]:
                full.add(rank)
            elif seats.take(request):
                budget[rank] -= tokens
                batch.append((request, tokens))
            else:
                break
        return batch

    def longest_prefill(self, replica: ReplicaView) -> int:
        """A prompt is never split, so it must fit the budget of a rank."""
        return replica.max_num_batched_tokens // self.ranks
