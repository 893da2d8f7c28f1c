"""Prompts that are let in only if the cache also holds part of what the running requests may still write (SGLang)."""

from __future__ import annotations

from simulator.registry import register
from simulator.strategies.batching.prefill_first import ChunkedPrefillFirst
from simulator.strategies.protocols import BatchPlan, ReplicaView, RequestState

__all__ = ["ReservingPrefillFirst"]

_DECODE = BatchPlan()

CLIP = 4096
"""Tokens of an answer that are counted at most (``SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION``)."""

RETRACTED_STEPS = 20
"""Decodes that every request is thought to go on for after a retraction (``SGLANG_RETRACT_DECODE_STEPS``)."""


@register(
    "reserving-prefill-first",
    kind="policy",
    area="serving",
    family="batching",
    cites=(
        "sgl-project/sglang schedule_policy.PrefillAdder: a request needs its prompt and its whole answer beside "
        "new_token_ratio of what the running ones may still write",
        "sgl-project/sglang scheduler.py: SGLANG_INIT_NEW_TOKEN_RATIO 0.7, SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR 0.14, "
        "SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS 600; batch_is_full until a request ends",
    ),
    validated_by="mechanism",
)
class ReservingPrefillFirst(ChunkedPrefillFirst):
    """Chunked prefill first, with room kept for the answers of running requests.

    Parameters
    ----------
    ratio
        Share of the answers' rest that is kept free at first, and after the engine was idle.
    least
        Factor on it after ``steps`` decodes without a retraction; it falls linearly.
    steps
        Decodes.

    Notes
    -----
    What a request may write is taken as the length of its answer, as if it had asked for just that. A batch found full
    stays full until a request leaves it, so that nothing is decided inside a run of decodes. After a retraction the
    ratio is what the running requests have written and 20 tokens each, over what they may write.
    """

    def __init__(self, ratio: float = 0.7, least: float = 0.14, steps: int = 600) -> None:
        self.ratio, self.least, self.steps = ratio, least, max(1, steps)
        self._start = ratio
        self._since = self._prefills = self._retracted = 0
        self._full = 0

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """Pieces of prompts, if those under way or the first in line fit; else all decodes."""
        if not replica.waiting and not replica.prefilling:
            return _DECODE
        if not replica.running:
            self._start, self._since, self._prefills = self.ratio, replica.iterations, 0
        self._note_retractions(replica)
        waits = self._full and replica.running >= self._full
        plan = _DECODE
        if replica.prefilling or not waits:
            self._full = 0
            plan = super().schedule(_Reserved(replica, self.reserve(replica)), now)  # type: ignore[arg-type]
        if plan.prefill:
            self._prefills += 1
        if replica.waiting and not plan.prefill:
            self._full = replica.running
        return plan

    def now_ratio(self, replica: ReplicaView) -> float:
        """Share that is kept free now."""
        decodes = replica.iterations - self._since - self._prefills
        fallen = min(1.0, max(0, decodes) / self.steps) * self.ratio * (1.0 - self.least)
        return max(self.ratio * self.least, self._start - fallen)

    def reserve(self, replica: ReplicaView) -> int:
        """Blocks that running requests are thought to take yet."""
        left = sum(min(CLIP, r.output_tokens - replica.produced(r)) for r in replica.decoding)
        return int(self.now_ratio(replica) * left / replica.block_size)

    def _note_retractions(self, replica: ReplicaView) -> None:
        """Requests are back in line: the ratio follows what those that stayed have written."""
        retracted = sum(r.preemptions for r in replica.waiting)
        if retracted > self._retracted and (running := replica.decoding):
            written = sum(replica.produced(r) + RETRACTED_STEPS for r in running)
            self._start = min(1.0, written / (1 + sum(r.output_tokens for r in running)))
            self._since, self._prefills = replica.iterations, 0
            self._full = replica.running
        self._retracted = retracted


class _Reserved:
    """A replica whose free blocks lack a reserve, and whose newcomers need room for their answers; one that finds it
    empty only needs room for its prompt, or it would wait for ever."""

    def __init__(self, replica: ReplicaView, reserve: int) -> None:
        self._replica = replica
        self._alone = replica.waiting[0] if replica.waiting and not replica.running else None
        self.free_blocks = replica.free_blocks - reserve

    def __getattr__(self, name: str) -> object:
        return getattr(self._replica, name)

    def blocks_for(self, request: RequestState) -> int:
        """Blocks of the prompt and of the answer."""
        prompt = self._replica.blocks_for(request)
        answer = min(CLIP, request.output_tokens - self._replica.produced(request))
        room = self._replica.free_blocks - self._replica.watermark_blocks
        whole = prompt + -(-answer // self._replica.block_size)
        return min(whole, max(prompt, room)) if request is self._alone else whole
