"""S³: memory reserved by a predicted length, bins filled with the longest first, restart on a miss."""

from __future__ import annotations

from collections.abc import Iterable

from simulator.registry import register
from simulator.strategies.batching.ordered import Ordered
from simulator.strategies.batching.prediction import LengthPredictor
from simulator.strategies.protocols import BatchPlan, Moves, ReplicaView, RequestState

__all__ = ["S3"]


@register(
    "s3",
    kind="policy",
    area="serving",
    family="batching",
    cites=("Jin et al., S3: Increasing GPU Utilization during Generative Inference for Higher Throughput, "
           "arXiv:2306.06000",),
    catalogue=("S³",),
    validated_by="closed_form",
)  # fmt: skip
class S3(Ordered):
    """Decreasing first fit by predicted length into the KV cache; who outgrows its prediction starts over with twice.

    Parameters
    ----------
    error
        σ of the logarithm of predicted over true output length.
    bucket
        Predictions are rounded up to a multiple of this [tokens].
    seed
        Of the predictor.
    """

    kv_policy = "reserve-predicted"
    first_fit = True

    decodes_when_idle = False

    def __init__(self, error: float = 0.0, bucket: int = 16, seed: int = 0) -> None:
        self._predictor = LengthPredictor(error, seed)
        self.bucket = bucket

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """Misses start over; the rest runs until the next one."""
        for request in replica.waiting:
            if request.data is None:
                tokens = self._predictor.output_tokens(request)
                self._allow(request, replica, -(-tokens // self.bucket) * self.bucket)
        misses = []
        horizon = 1 << 60
        for request in replica.decoding:
            left = request.data - replica.produced(request)
            if left <= 0:
                self._allow(request, replica, 2 * request.data)
                misses.append(request)
            else:
                horizon = min(horizon, left)
        if misses:
            return BatchPlan(moves=Moves(preempt=misses))
        # While somebody waits, what fits is judged anew before every iteration.
        return super().schedule(replica, now)._replace(horizon=1 if replica.waiting else horizon)

    def _allow(self, request: RequestState, replica: ReplicaView, tokens: int) -> None:
        most = (replica.kv_blocks - max(replica.watermark_blocks, 1)) * replica.block_size - request.input_tokens
        if replica.max_model_len:
            most = min(most, replica.max_model_len - request.input_tokens)
        request.data = min(tokens, most)

    def order(self, replica: ReplicaView, most: int) -> Iterable[RequestState]:
        """Longest predicted sequence first."""
        return sorted(replica.waiting, key=lambda r: (-(r.input_tokens + r.data), r.arrival, r.index))
