"""Fairness between clients: the virtual token counter."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush

from simulator.registry import register
from simulator.strategies.batching.ordered import Ordered
from simulator.strategies.protocols import BatchPlan, ReplicaView, RequestState

__all__ = ["VirtualTokenCounter"]


@register(
    "vtc",
    kind="policy",
    area="serving",
    family="batching",
    cites=("Sheng et al., Fairness in Serving Large Language Models, OSDI 2024, arXiv:2401.00588",),
    validated_by="closed_form",
)
class VirtualTokenCounter(Ordered):
    """The client that has been served least goes first; one that comes back after a pause is lifted to the others.

    Each replica keeps its own counters. A client's counter grows by ``prompt_weight`` per prompt token when a request
    is admitted and by ``output_weight`` per token produced.

    Parameters
    ----------
    prompt_weight, output_weight
        Charge per token (1 and 2 in the paper).
    """

    decodes_when_idle = False

    def __init__(self, prompt_weight: float = 1.0, output_weight: float = 2.0) -> None:
        self.prompt_weight = prompt_weight
        self.output_weight = output_weight
        self.counters: dict[int, float] = {}
        """Service of every client so far."""
        self._served: dict[int, tuple[RequestState, float]] = {}
        self._active: set[int] = set()

    def arrival_matters(self, replica: ReplicaView) -> bool:
        """If there is a seat, or the client was away: its counter is lifted as of now."""
        return super().arrival_matters(replica) or replica.waiting[-1].client not in self._active

    def schedule(self, replica: ReplicaView, now: float) -> BatchPlan:
        """Counters are brought up to date first."""
        self._charge(replica)
        self._lift(replica)
        plan = super().schedule(replica, now)
        for request, _ in plan.prefill:
            if request.index not in self._served:
                self._served[request.index] = (request, 0.0)
        if replica.waiting and not plan.prefill:
            return plan._replace(horizon=self._same_head(replica))
        return plan

    def _same_head(self, replica: ReplicaView) -> int:
        """Iterations for which the same client is next, as the counters of those who decode grow."""
        pace: dict[int, float] = {}
        for request in replica.decoding:
            pace[request.client] = pace.get(request.client, 0.0) + self.output_weight
        queued = {r.client for r in replica.waiting}
        head = min(queued, key=lambda client: (self.counters[client], client))
        horizon = 1 << 60
        for client in queued - {head}:
            closing = pace.get(head, 0.0) - pace.get(client, 0.0)
            if closing > 0.0:
                horizon = min(horizon, int((self.counters[client] - self.counters[head]) / closing))
        return max(1, horizon)

    def _charge(self, replica: ReplicaView) -> None:
        for index, (request, charged) in list(self._served.items()):
            admitted = request.blocks > 0 or request.produced > 0
            prompt = self.prompt_weight * request.input_tokens if admitted else 0.0
            due = prompt + self.output_weight * replica.produced(request)
            if due > charged:
                self.counters[request.client] = self.counters.get(request.client, 0.0) + due - charged
                self._served[index] = (request, due)
            if request.produced >= request.output_tokens:
                del self._served[index]

    def _lift(self, replica: ReplicaView) -> None:
        present = {r.client for r in replica.waiting} | {r.client for r, _ in self._served.values()}
        floor = min((self.counters[c] for c in present & self._active), default=0.0)
        for client in present - self._active:
            self.counters[client] = max(self.counters.get(client, 0.0), floor)
        self._active = present

    def order(self, replica: ReplicaView, most: int) -> Iterable[RequestState]:
        """Client by client, the least served first; in order of arrival within a client."""
        return self._turns(replica)

    def _turns(self, replica: ReplicaView) -> Iterator[RequestState]:
        queues: dict[int, deque[RequestState]] = {}
        for request in replica.waiting:
            queues.setdefault(request.client, deque()).append(request)
        heap = [(self.counters[client], client) for client in queues]
        heapify(heap)
        while heap:
            counter, client = heappop(heap)
            request = queues[client].popleft()
            yield request
            if queues[client]:
                charge = self.prompt_weight * request.input_tokens if request.index not in self._served else 0.0
                heappush(heap, (counter + charge, client))
