"""Admission in order of arrival, shared by the batching policies that use it."""

from __future__ import annotations

from simulator.strategies.protocols import ReplicaView, RequestState

__all__ = ["FirstCome", "Seats"]


class Seats:
    """Room for further requests in the batch that is being put together."""

    __slots__ = ("_batch", "_free", "_replica", "_running")

    def __init__(self, replica: ReplicaView, batch: int = 0) -> None:
        self._replica = replica
        self._free = replica.free_blocks - replica.watermark_blocks
        self._running = replica.max_num_seqs - replica.running
        self._batch = replica.max_batch_seqs - batch

    def take(self, request: RequestState) -> bool:
        """Take a seat and the blocks of ``request``; ``False`` and nothing taken where there is no room."""
        # Requests in host memory come first: while there are any, nobody is admitted (vLLM).
        if self._running <= 0 or self._batch <= 0 or self._replica.swapped:
            return False
        blocks = self._replica.blocks_for(request)
        if blocks > self._free:
            return False
        self._free -= blocks
        self._running -= 1
        self._batch -= 1
        return True


class FirstCome:
    """Traits of policies that admit strictly in order of arrival and let requests leave one by one."""

    name: str
    release_together = False
    kv_policy = "paged"
    moves_requests = False
    decodes_when_idle = True

    def arrival_matters(self, replica: ReplicaView) -> bool:
        """Only an arrival that is first in line: behind another it changes nothing."""
        return len(replica.waiting) == 1 and replica.running < replica.max_num_seqs

    def longest_prefill(self, replica: ReplicaView) -> int:
        """No limit of its own."""
        return 1 << 60
