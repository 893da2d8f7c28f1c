"""Routers that look at what replicas hold and have queued: cached prefixes, KV blocks, prompts, foreseen latency."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from simulator.registry import register
from simulator.strategies.admission.forecast import first_token_seconds
from simulator.strategies.protocols import ReplicaView, RequestState

__all__ = [
    "CostAware", "KVAware", "LeastPrefill", "LeastUncachedPrefill", "PrefixAware", "SLOAware", "SessionSticky",
]  # fmt: skip

_MOONCAKE = "Qin et al., Mooncake: Trading More Storage for Less Computation, FAST 2025, arXiv:2407.00079, Algorithm 1"


class _InTurn:
    """Among equal replicas, the one after the last chosen."""

    name: str

    def __init__(self, seed: int = 0) -> None:
        self._last = -1

    def least(self, replicas: Sequence[ReplicaView], load: Callable[[ReplicaView], Any]) -> int:
        """The first least, searched from the one after the last chosen, so that ties do not pile up on one replica."""
        start = self._last + 1
        order = [(start + step) % len(replicas) for step in range(len(replicas))]
        self._last = min(order, key=lambda index: load(replicas[index]))
        return self._last


class _Least(_InTurn, ABC):
    """The replica with the least of one number."""

    @abstractmethod
    def load(self, request: RequestState, replica: ReplicaView, now: float) -> float | tuple[float, float]:
        """What is to be least."""

    def route(self, request: RequestState, replicas: Sequence[ReplicaView], now: float) -> int:
        """The least loaded."""
        return self.least(replicas, lambda replica: self.load(request, replica, now))


@register("kv-aware", kind="policy", area="serving", family="router", cites=(_MOONCAKE,), validated_by="closed_form")
class KVAware(_Least):
    """The replica with the smallest share of KV blocks held or asked for by those who wait."""

    def load(self, request: RequestState, replica: ReplicaView, now: float) -> float:
        """Blocks held, and those of the prompts in the queue, over all blocks."""
        return (replica.kv_blocks_at(now) + replica.queued_tokens / replica.block_size) / replica.kv_blocks


@register("least-prefill", kind="policy", area="serving", family="router", validated_by="closed_form")
class LeastPrefill(_Least):
    """The replica with the fewest prompt tokens outstanding."""

    def load(self, request: RequestState, replica: ReplicaView, now: float) -> float:
        """Prompt tokens whose prefill is not complete."""
        return replica.queued_tokens


@register(
    "least-uncached-prefill",
    kind="policy",
    area="serving",
    family="router",
    cites=("Vidur, branch canary (2025): routing policy lop_uncached",),
    validated_by="published",
)
class LeastUncachedPrefill(_Least):
    """The replica with the fewest prompt tokens to compute once this request is there: its cached prefix counts.

    Among equals, as when all queues are empty, the least outstanding.
    """

    def load(self, request: RequestState, replica: ReplicaView, now: float) -> tuple[float, float]:
        """Uncached prompt tokens, the request's own included; outstanding requests."""
        own = request.input_tokens - replica.cached_prefix(request, now)
        return replica.queued_tokens + own, replica.outstanding


@register(
    "session-sticky",
    kind="policy",
    area="serving",
    family="router",
    cites=("Vidur, branch canary (2025): routing policy sticky_lor",),
    validated_by="published",
)
class SessionSticky(_InTurn):
    """A session stays on the replica that was least outstanding when it began; so do requests of no session.

    Where that replica takes no more requests, the session moves to the least outstanding one of those that do.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self._home: dict[int, int] = {}

    def route(self, request: RequestState, replicas: Sequence[ReplicaView], now: float) -> int:
        """Its home, or the least outstanding."""
        if request.session < 0:
            return self.least(replicas, lambda replica: replica.outstanding)
        home = self._home.get(request.session)
        if home is not None:
            if home < len(replicas) and replicas[home].index == home:
                return home
            place = next((at for at, replica in enumerate(replicas) if replica.index == home), None)
            if place is not None:
                return place
        place = self.least(replicas, lambda replica: replica.outstanding)
        self._home[request.session] = replicas[place].index
        return place


@register(
    "prefix-aware",
    kind="policy",
    area="serving",
    family="router",
    cites=("SGLang router v0.4 (cache-aware load balancing): lmsys.org blog, 4 December 2024",),
    catalogue=("SGLang / RadixAttention, Prompt Cache",),
    validated_by="closed_form",
)
class PrefixAware(_InTurn):
    """The replica with the longest cached prefix, unless loads are out of balance or too little is cached anywhere.

    Parameters
    ----------
    seed
        Not used.
    cache_threshold
        Least share of the prompt that has to be cached to follow the cache.
    balance_abs_threshold, balance_rel_threshold
        Loads are out of balance when the largest exceeds the smallest by more than so many requests and by more than
        this factor: then the least outstanding replica is taken.
    """

    def __init__(
        self, seed: int = 0, cache_threshold: float = 0.5, balance_abs_threshold: int = 32,
        balance_rel_threshold: float = 1.1,
    ) -> None:  # fmt: skip
        super().__init__(seed)
        self.cache_threshold = cache_threshold
        self.balance_abs_threshold = balance_abs_threshold
        self.balance_rel_threshold = balance_rel_threshold

    def route(self, request: RequestState, replicas: Sequence[ReplicaView], now: float) -> int:
        """By balance first, then by cache, else the least outstanding."""
        loads = [replica.outstanding for replica in replicas]
        high, low = max(loads), min(loads)
        if high - low <= self.balance_abs_threshold or high <= self.balance_rel_threshold * low:
            cached = {replica.index: replica.cached_prefix(request, now) for replica in replicas}
            if max(cached.values()) > self.cache_threshold * request.input_tokens:
                return self.least(replicas, lambda replica: -cached[replica.index])
        return self.least(replicas, lambda replica: replica.outstanding)


@register(
    "slo-aware",
    kind="policy",
    area="serving",
    family="router",
    cites=(_MOONCAKE,),
    catalogue=("MLLM/PD routers (Llumnix, Mooncake)",),
    validated_by="closed_form",
)
class SLOAware(_Least):
    """The replica with the earliest foreseen first token: queued prompts, and what of its own is not cached there."""

    def load(self, request: RequestState, replica: ReplicaView, now: float) -> float:
        """Foreseen time to first token [s]."""
        return first_token_seconds(request, replica, now)


@register("cost-aware", kind="policy", area="serving", family="router", validated_by="closed_form")
class CostAware(_InTurn):
    """The cheapest replica that is foreseen to give the first token in time; if none is, the earliest.

    Parameters
    ----------
    seed
        Not used.
    ttft
        Limit of the time to first token [s].
    prices
        Price of every replica, in any unit; all equal where left out. Equals share by outstanding requests.
    """

    def __init__(self, seed: int = 0, ttft: float = 1.0, prices: Sequence[float] = ()) -> None:
        super().__init__(seed)
        self.ttft = ttft
        self.prices = tuple(prices)

    def route(self, request: RequestState, replicas: Sequence[ReplicaView], now: float) -> int:
        """In time and cheap, else early."""
        seconds = {replica.index: first_token_seconds(request, replica, now) for replica in replicas}
        in_time = [index for index, value in seconds.items() if value <= self.ttft]
        if not in_time:
            return self.least(replicas, lambda replica: seconds[replica.index])
        price = self.prices or (1.0,) * (1 + max(in_time))
        cheapest = min(price[index] for index in in_time)
        chosen = {index for index in in_time if price[index] == cheapest}
        most = 1 + max(replica.outstanding for replica in replicas)
        return self.least(replicas, lambda r: r.outstanding if r.index in chosen else most)
