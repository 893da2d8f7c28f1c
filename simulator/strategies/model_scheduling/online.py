"""Policies that decide query by query: Clockwork, SHEPHERD's Flex, REEF, INFaaS."""

from __future__ import annotations

from simulator.registry import register
from simulator.strategies.model_scheduling.base import Dispatch, Query, ServerView, SharedDevice, largest_batch

__all__ = ["Clockwork", "Infaas", "Reef", "Shepherd"]


def _take(server: ServerView, model: int, size: int) -> Dispatch:
    queue = server.queues[model]
    return Dispatch(model, [queue.popleft() for _ in range(size)])


def _drop_late(server: ServerView, device: SharedDevice, now: float) -> None:
    """Give up what no longer ends in time even alone and at once."""
    for model, queue in enumerate(server.queues):
        limit = now + server.load_seconds(device, model) + server.models[model].latency(1)
        late = [query for query in queue if query.deadline < limit]
        for query in late:
            queue.remove(query)
            server.drop(query)


@register(
    "clockwork",
    kind="policy",
    area="serving",
    family="model_scheduling",
    cites=("Gujarati et al. 2020 (Clockwork), OSDI 2020",),
    catalogue=("Clockwork",),
    validated_by="closed_form",
)
class Clockwork:
    """One batch at a time with a known end: earliest latest-start first, infeasible queries are refused on arrival.

    On arrival a query is predicted to start when the first device has worked off what is promised; where that misses
    the deadline it is dropped at once, so that nothing else pays for it.
    """

    name: str

    def admit(self, query: Query, server: ServerView, now: float) -> bool:
        """Whether the query alone, behind everything promised so far, ends in time on some device."""
        models, own = server.models, query.model
        work = 0.0
        for model, queue in enumerate(server.queues):
            # Those due later give way.
            due = sum(q.deadline <= query.deadline for q in queue) + (model == own)
            work += models[model].alpha * due + models[model].beta * -(-due // models[model].max_batch)
        alone = models[own].latency(1)
        start = min(max(d.free_at, now) + server.load_seconds(d, own) for d in server.devices)
        return start + (work - alone) / len(server.devices) + alone <= query.deadline

    def dispatch(self, device: SharedDevice, server: ServerView, now: float) -> Dispatch | None:
        """The model whose head has to start first, with as many queries as end in time together."""
        _drop_late(server, device, now)
        urgency = [
            (queue[0].deadline - server.load_seconds(device, m) - server.models[m].latency(1), m)
            for m, queue in enumerate(server.queues)
            if queue
        ]
        if not urgency:
            return None
        model = min(urgency)[1]
        return _take(server, model, max(1, largest_batch(server, device, model, now)))

    def preempts(self, query: Query, device: SharedDevice, server: ServerView, now: float) -> bool:
        """Never: what has started ends as predicted."""
        return False


@register(
    "shepherd",
    kind="policy",
    area="serving",
    family="model_scheduling",
    cites=("Zhang et al. 2023 (SHEPHERD), NSDI 2023",),
    catalogue=("SHEPHERD",),
    validated_by="closed_form",
)
class Shepherd:
    """Flex, SHEPHERD's online part: the largest feasible batch first, and preempting one it is λ times as large as.

    The grouping of streams (an integer program over long periods) is not part of it.

    Parameters
    ----------
    ratio
        λ of the paper; by default 3, an assumption of ours.
    """

    name: str

    def __init__(self, ratio: float = 3.0) -> None:
        if ratio < 1.0:
            raise ValueError(f"ratio must be at least 1, not {ratio}")
        self.ratio = ratio

    def admit(self, query: Query, server: ServerView, now: float) -> bool:
        """Everything; what gets too late is dropped when a batch is formed."""
        return True

    def dispatch(self, device: SharedDevice, server: ServerView, now: float) -> Dispatch | None:
        """The model with the largest batch that ends in time."""
        _drop_late(server, device, now)
        size, model = max((largest_batch(server, device, m, now), -m) for m in range(len(server.models)))
        return _take(server, -model, size) if size else None

    def preempts(self, query: Query, device: SharedDevice, server: ServerView, now: float) -> bool:
        """Whether the query's model now has a feasible batch λ times as large as the running one."""
        running = device.running
        return running is not None and largest_batch(server, device, query.model, now) >= self.ratio * len(
            running.queries
        )


@register(
    "reef",
    kind="policy",
    area="serving",
    family="model_scheduling",
    cites=("Han et al. 2022 (REEF), OSDI 2022",),
    catalogue=("REEF",),
    validated_by="closed_form",
)
class Reef:
    """Real-time queries stop best-effort ones at once, which start again later; first come first served in a class.

    Kernels are idempotent, so that nothing is saved; the padding of real-time kernels with best-effort ones is not
    modelled.
    """

    name: str

    def admit(self, query: Query, server: ServerView, now: float) -> bool:
        """Everything."""
        return True

    def dispatch(self, device: SharedDevice, server: ServerView, now: float) -> Dispatch | None:
        """The oldest urgent query, else the oldest one."""
        waiting = [query for queue in server.queues for query in queue]
        if not waiting:
            return None
        query = min(waiting, key=lambda q: (not q.urgent, q.arrival, q.index))
        server.queues[query.model].remove(query)
        return Dispatch(query.model, [query])

    def preempts(self, query: Query, device: SharedDevice, server: ServerView, now: float) -> bool:
        """An urgent query stops a batch without urgent ones."""
        return query.urgent and device.running is not None and not any(q.urgent for q in device.running.queries)


@register(
    "infaas",
    kind="policy",
    area="serving",
    family="model_scheduling",
    cites=("Romero et al. 2021 (INFaaS), USENIX ATC 2021",),
    catalogue=("INFaaS",),
    validated_by="closed_form",
)
class Infaas(Clockwork):
    """The cheapest variant of the asked family that is accurate enough and in time, its loading included.

    Batches are formed and ordered as by ``clockwork``; the autoscaling of INFaaS is not part of it.
    """

    def admit(self, query: Query, server: ServerView, now: float) -> bool:
        """Choose the variant; refuse where none serves."""
        asked = server.models[query.model]
        variants = [
            (profile.cost, profile.latency(1), index)
            for index, profile in enumerate(server.models)
            if profile.accuracy >= query.accuracy
            and (index == query.model or (asked.family and profile.family == asked.family))
        ]
        for _, _, index in sorted(variants):
            query.model = index
            if super().admit(query, server, now):
                return True
        return False
