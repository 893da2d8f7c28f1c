"""Separate pools for prompts and tokens: Splitwise, DistServe, and pools whose machines help each other out."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.registry import Claim, register
from simulator.strategies.disaggregation.base import Placement, fewest_outstanding, fewest_queued_tokens
from simulator.strategies.serving_protocols import ReplicaView, RequestState

__all__ = ["DistServe", "MixedPool", "Splitwise"]

_SPLITWISE = "Patel et al. 2023 (Splitwise), arXiv 2311.18677"


@register(
    "splitwise",
    kind="policy",
    area="serving",
    family="disaggregation",
    cites=(_SPLITWISE,),
    catalogue=("Splitwise",),
    validated_by="closed_form",
)
class Splitwise:
    """Shortest queue in both pools, chosen together at arrival; keys and values leave layer by layer."""

    name: str
    layerwise, borrows = True, False

    def place(
        self, request: RequestState, prefill: Sequence[ReplicaView], decode: Sequence[ReplicaView], now: float
    ) -> Placement:
        """The prompt machine with the fewest queued tokens and the token machine with the fewest requests."""
        return Placement(fewest_queued_tokens(prefill).index, fewest_outstanding(decode).index)

    def choose_decode(self, request: RequestState, decode: Sequence[ReplicaView], now: float) -> int:
        """Only asked where the first choice was none."""
        return fewest_outstanding(decode).index


@register(
    "distserve",
    kind="policy",
    area="serving",
    family="disaggregation",
    cites=("Zhong et al. 2024 (DistServe), arXiv 2401.09670",),
    catalogue=("DistServe",),
    claims=(
        Claim(
            "4.6 times vLLM's requests per second and accelerator at 90 % attainment: OPT-13B on ShareGPT, A100-80GB, "
            "two accelerators for prompts and one for tokens (headline: 7.4 times DeepSpeed-MII)",
            "github.com/LLMServe/DistServe evaluation/2-benchmark-serving/plot.ipynb; arXiv 2401.09670",
        ),
    ),
    validated_by="ratio",
)
class DistServe:
    """Shortest prompt queue; the least loaded decoder pulls the keys and values once the prompt is complete.

    Until the decoder has room they stay in the memory of the prefill replica, which so is the buffer between the
    phases.
    """

    name: str
    layerwise, borrows = False, False

    def place(
        self, request: RequestState, prefill: Sequence[ReplicaView], decode: Sequence[ReplicaView], now: float
    ) -> Placement:
        """The prefill replica with the fewest queued tokens."""
        return Placement(fewest_queued_tokens(prefill).index)

    def choose_decode(self, request: RequestState, decode: Sequence[ReplicaView], now: float) -> int:
        """The decode replica with the fewest requests."""
        return fewest_outstanding(decode).index


@register(
    "mixed-pool",
    kind="policy",
    area="serving",
    family="disaggregation",
    cites=(_SPLITWISE,),
    catalogue=("Splitwise",),
    claims=(
        Claim(
            "2.15 times the requests per second of 70 DGX-A100 at the same power and cost with 45 of them for prompts "
            "and 25 for tokens: BLOOM-176B, Azure's conversations, nine limits on latency; under SplitwiseSim's own "
            "iteration times, which do not grow with the requests of a batch",
            "arXiv 2311.18677, section VI-B; github.com/Mutinifni/splitwise-sim scripts/run_throughput_isopower.sh",
        ),
    ),
    validated_by="ratio",
)
class MixedPool(Splitwise):
    """Splitwise's pools, but overloaded ones borrow: a machine of the other pool then serves a request as a whole.

    Parameters
    ----------
    queue_limit
        Prompt tokens queued on the best prompt machine from which on a token machine with fewer is asked.
    """

    borrows = True

    def __init__(self, queue_limit: int = 8192) -> None:
        if queue_limit < 0:
            raise ValueError(f"queue_limit must be at least 0 tokens, not {queue_limit}")
        self.queue_limit = queue_limit

    def place(
        self, request: RequestState, prefill: Sequence[ReplicaView], decode: Sequence[ReplicaView], now: float
    ) -> Placement:
        """Apart while both pools keep up; else both phases on the machine that has room."""
        first, second = fewest_queued_tokens(prefill), fewest_outstanding(decode)
        if first.queued_tokens > self.queue_limit:
            other = fewest_queued_tokens(decode)
            if other.queued_tokens < first.queued_tokens:
                return Placement(other.index, other.index)
        needed = -(-request.input_tokens // second.block_size)
        if second.free_blocks - second.watermark_blocks <= needed < first.free_blocks - first.watermark_blocks:
            return Placement(first.index, first.index)
        return Placement(first.index, second.index)
