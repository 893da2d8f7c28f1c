"""The process in front of an engine: it takes requests, turns their text into tokens and hands them on, one by one.

Clients see this time, the engine does not: a prompt of 8,192 tokens is tens of milliseconds of work of one process
before the scheduler hears of it, and a thousand requests sent at once leave it one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.workload.framework import Framework

__all__ = ["FrontEnd", "front_end_of"]


@dataclass
class FrontEnd:
    """A first-come-first-served server of requests.

    Parameters
    ----------
    per_request, per_token
        Work of one request, and of one token of its prompt [s].
    servers
        Processes, one per replica. Together they take requests as one that is as many times as fast; each request
        still takes its whole work, and leaves no sooner than the one before it.

    Attributes
    ----------
    free
        When the next request can be begun [s].
    last
        When the last request left [s].
    """

    per_request: float
    per_token: float
    servers: int = 1
    free: float = 0.0
    last: float = 0.0

    def leaves(self, came: float, tokens: int) -> float:
        """When a request that came at ``came`` with ``tokens`` of prompt would leave, were it the next [s]."""
        return max(self.last, max(came, self.free) + self.per_request + self.per_token * tokens)

    def take(self, came: float, tokens: int) -> float:
        """The next request: when it leaves [s]."""
        self.last = self.leaves(came, tokens)
        self.free = max(came, self.free) + (self.per_request + self.per_token * tokens) / self.servers
        return self.last

    def take_all(self, came: Sequence[float], tokens: Sequence[int]) -> list[float]:
        """The next requests in order of arrival: when each leaves [s]."""
        return [self.take(time, count) for time, count in zip(came, tokens, strict=True)]


def front_end_of(framework: Framework, servers: int = 1) -> FrontEnd | None:
    """The front ends of so many replicas; ``None`` where the framework states no time for them."""
    each, token = (framework.constants.get(f"front_end_per_{what}") for what in ("request", "token"))
    times = (each.value if each else 0.0, token.value if token else 0.0)
    return FrontEnd(*times, servers) if any(times) else None
