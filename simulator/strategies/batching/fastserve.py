"""FastServe: a multi-level feedback queue that new requests join below the levels they would only pass through."""

from __future__ import annotations

import math

from simulator.registry import register
from simulator.strategies.batching.preemptive import Preemptive, Rank
from simulator.strategies.protocols import BatchPlan, BatchShape, ReplicaView, RequestState

__all__ = ["FastServe"]


class _Service:
    """What the queue knows of a request."""

    __slots__ = ("level", "prefill", "since", "used", "written")

    def __init__(self, level: int, prefill: int, since: float) -> None:
        self.level = level
        self.prefill = prefill
        """Its prefill in iterations of one decoding request."""
        self.since: float | None = since
        """Since when it has had no service [s]; ``None`` while it runs."""
        self.used = 0
        """Iterations of its quantum."""
        self.written = 0
        """Output tokens accounted for."""


@register(
    "fastserve",
    kind="policy",
    area="serving",
    family="batching",
    cites=("Wu et al., Fast Distributed Inference Serving for Large Language Models, arXiv:2305.05920v1",),
    catalogue=("FastServe",),
    validated_by="closed_form",
)
class FastServe(Preemptive):
    """Skip-join multi-level feedback queue with preemption after every token and proactive swapping (version 1).

    Level i has a quantum of ``ratio``^i iterations. A request joins the first level whose quantum covers its prefill,
    drops a level when the quantum is used up, and returns to the top when it has not run for ``promote_after``.
    Where the KV cache is short, those who run last give their blocks to host memory (if the deployment has any),
    beside the computation.

    Parameters
    ----------
    levels
        Queues; in the last one requests run to their end.
    ratio
        Of the quanta of neighbouring levels.
    promote_after
        Longest time without service [s].
    """

    def __init__(self, levels: int = 8, ratio: int = 2, promote_after: float = 10.0) -> None:
        self.levels = levels
        self.ratio = ratio
        self.promote_after = promote_after

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """The best ranked until the first quantum ends or someone has waited too long."""
        everybody = [*replica.decoding, *replica.paused, *replica.prefilling, *replica.waiting, *replica.swapped]
        for request in everybody:
            self._account(request, replica, now)
        if not (replica.waiting or replica.prefilling or replica.paused or replica.swapped):
            return BatchPlan()
        plan, decode = self.choose(replica)
        runs = {*decode, *(r for r, _ in plan.prefill)}
        horizon, until = 1 << 60, math.inf
        for request in everybody:
            service = request.data
            if request not in runs:
                service.since = now if service.since is None else service.since
                if service.level:
                    until = min(until, service.since + self.promote_after)
            else:
                service.since = None
                if service.level < self.levels - 1:
                    horizon = min(horizon, self.ratio**service.level - service.used)
        return plan._replace(horizon=max(1, horizon), until=until)

    def _account(self, request: RequestState, replica: ReplicaView, now: float) -> None:
        """Charge what it has had since the last look, and move it between levels."""
        service = request.data
        if service is None:
            service = request.data = self._join(request, replica)
        written = replica.produced(request)
        if written > service.written:
            service.used += written - service.written + (service.prefill - 1 if not service.written else 0)
            service.written = written
            while service.level < self.levels - 1 and service.used >= self.ratio**service.level:
                service.used -= self.ratio**service.level
                service.level += 1
        if service.since is not None and service.level and now >= service.since + self.promote_after:
            service.level = service.used = 0
            service.since = now

    def _join(self, request: RequestState, replica: ReplicaView) -> _Service:
        length = request.input_tokens
        single = replica.predict(BatchShape((), 1, length + 1, length + 1))
        prefill = max(1, math.ceil(replica.predict(BatchShape(((length, 0),), 0, 0)) / single))
        level = 0
        while level < self.levels - 1 and self.ratio**level < prefill:
            level += 1
        return _Service(level, min(prefill, self.ratio**level), request.arrival)

    def rank(self, request: RequestState, replica: ReplicaView) -> Rank:
        """Level, then arrival."""
        return request.data.level, request.arrival, request.index
