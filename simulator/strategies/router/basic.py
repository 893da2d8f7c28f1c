"""Routers that look at the number of requests at most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from simulator.registry import register
from simulator.strategies.protocols import ReplicaView, RequestState

__all__ = ["LeastOutstanding", "PowerOfTwo", "RandomReplica", "RoundRobin"]


def _draws(seed: int) -> Iterator[float]:
    """Uniform numbers of [0, 1), drawn in blocks."""
    generator = np.random.Generator(np.random.PCG64(seed))
    while True:
        yield from generator.random(1024).tolist()


@register("round-robin", kind="policy", area="serving", family="router", validated_by="closed_form")
class RoundRobin:
    """One replica after the other."""

    name: str

    def __init__(self, seed: int = 0) -> None:
        self.last = -1

    def route(self, request: RequestState, replicas: Sequence[ReplicaView], now: float) -> int:
        """The one after the last."""
        self.last = (self.last + 1) % len(replicas)
        return self.last


@register("random", kind="policy", area="serving", family="router", validated_by="closed_form")
class RandomReplica:
    """Each replica with equal probability."""

    name: str

    def __init__(self, seed: int = 0) -> None:
        self.draws = _draws(seed)

    def route(self, request: RequestState, replicas: Sequence[ReplicaView], now: float) -> int:
        """A uniform draw."""
        return int(next(self.draws) * len(replicas))


@register("least-outstanding", kind="policy", area="serving", family="router", validated_by="closed_form")
class LeastOutstanding:
    """The replica with the fewest requests that wait or run; among equals, in turn."""

    name: str

    def __init__(self, seed: int = 0) -> None:
        self.last = -1

    def route(self, request: RequestState, replicas: Sequence[ReplicaView], now: float) -> int:
        """The least loaded, searched from the one after the last so that ties do not pile up on one replica."""
        size = len(replicas)
        start = self.last + 1
        best, fewest = 0, -1
        for step in range(size):
            index = (start + step) % size
            load = replicas[index].outstanding
            if fewest < 0 or load < fewest:
                best, fewest = index, load
        self.last = best
        return best


@register(
    "power-of-two",
    kind="policy",
    area="serving",
    family="router",
    cites=(
        "Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, IEEE Transactions on Parallel and "
        "Distributed Systems 12(10), 2001",
    ),
    validated_by="closed_form",
)
class PowerOfTwo:
    """Two different replicas at random, the less loaded of them."""

    name: str

    def __init__(self, seed: int = 0) -> None:
        self.draws = _draws(seed)

    def route(self, request: RequestState, replicas: Sequence[ReplicaView], now: float) -> int:
        """The less loaded of two; the first drawn on a tie."""
        size = len(replicas)
        if size == 1:
            return 0
        first = int(next(self.draws) * size)
        second = int(next(self.draws) * (size - 1))
        second += second >= first
        return first if replicas[first].outstanding <= replicas[second].outstanding else second
