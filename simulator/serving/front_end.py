"""The process in front of an engine: it takes requests, turns their text into tokens and hands them on.

Clients see this time, the engine does not: a prompt of 8,192 tokens is tens of milliseconds of work of one process
before the scheduler hears of it, and a thousand requests sent at once keep it busy for seconds. Where one request is
worked off after the other (:class:`FrontEnd`), the engine begins with the first while the last still waits. Where an
event loop holds them all and goes on with each in turn (:class:`InTurns`), the first leaves hardly before the last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from simulator.workload.framework import Framework

__all__ = ["FrontEnd", "InTurns", "front_end_of"]


@dataclass
class FrontEnd:
    """A first-come-first-served server of requests.

    Requests enter in order of time, none after the next one leaves (:attr:`next_leave`), and leave in that order.

    Parameters
    ----------
    per_request, per_token
        Work of one request, and of one token of its prompt [s].
    servers
        Processes, one per replica. Together they take requests as one that is as many times as fast; each request
        still takes its whole work, and leaves no sooner than the one before it.
    latency
        Time on the way that keeps no process busy: requests do not wait for each other in it [s].

    Attributes
    ----------
    free
        When the next request can be begun [s].
    """

    per_request: float
    per_token: float
    servers: int = 1
    latency: float = 0.0
    free: float = field(default=0.0, init=False)
    _last: float = field(default=0.0, init=False)
    _leaving: deque[float] = field(default_factory=deque, init=False, repr=False)

    def work(self, tokens: int) -> float:
        """Work of a request with so many tokens of prompt [s]."""
        return self.per_request + self.per_token * tokens

    def enter(self, came: float, tokens: int) -> None:
        """A request comes at ``came`` [s]."""
        begins, work = max(came + self.latency, self.free), self.work(tokens)
        self._last = max(self._last, begins + work)
        self.free = begins + work / self.servers
        self._leaving.append(self._last)

    @property
    def next_leave(self) -> float:
        """When the next request leaves [s], infinity while none is inside."""
        return self._leaving[0] if self._leaving else float("inf")

    def leave(self) -> None:
        """The next request leaves."""
        self._leaving.popleft()

    def take_all(self, came: Sequence[float], tokens: Sequence[int]) -> list[float]:
        """Requests in order of arrival, the last ones: when each leaves [s], and those that were inside before."""
        for time, count in zip(came, tokens, strict=True):
            self.enter(time, count)
        self._finish()
        return self.take_left()

    def take_left(self) -> list[float]:
        """When requests leave whose time is known already; they leave [s]."""
        left = list(self._leaving)
        self._leaving.clear()
        return left

    def _finish(self) -> None:
        """Nobody comes any more."""


@dataclass
class InTurns(FrontEnd):
    """A server that works on all requests it holds in turns, a little at a time.

    Egalitarian processor sharing: of n requests each gets the n-th part of the servers, at most one of them. Requests
    leave when sharing lets one go, the longest there first, so that nobody overtakes.

    Parameters
    ----------
    tokenizers
        Prompts that are turned into tokens at once: requests share this part of the work of their tokens alone, the
        rest passes beside that of the others.
    """

    tokenizers: float = 1.0
    _now: float = field(default=0.0, init=False)
    _served: float = field(default=0.0, init=False)
    _ends: list[float] = field(default_factory=list, init=False, repr=False)
    _beside: deque[float] = field(default_factory=deque, init=False, repr=False)

    def _slowness(self) -> float:
        return max(1.0, len(self._ends) / self.servers)

    def _next_shared(self) -> float:
        """When sharing lets the next request go [s]."""
        return self._now + max(0.0, self._ends[0] - self._served) * self._slowness()

    def _advance(self, until: float) -> None:
        """Requests that sharing lets go up to ``until`` [s] finish what passes beside the others."""
        while self._ends and (time := self._next_shared()) <= until:
            self._now, self._served = time, heappop(self._ends)
            self._last = max(self._last, time + self._beside.popleft())
            self._leaving.append(self._last)
        if not self._ends:
            self._served = 0.0

    def enter(self, came: float, tokens: int) -> None:
        """See :meth:`FrontEnd.enter`."""
        came += self.latency
        self._advance(came)
        if self._ends:
            self._served += max(0.0, came - self._now) / self._slowness()
        self._now = max(self._now, came)
        beside = self.per_token * tokens * (1.0 - 1.0 / self.tokenizers)
        heappush(self._ends, self._served + self.work(tokens) - beside)
        self._beside.append(beside)

    @property
    def next_leave(self) -> float:
        """See :attr:`FrontEnd.next_leave`."""
        if self._leaving:
            return self._leaving[0]
        return max(self._last, self._next_shared() + self._beside[0]) if self._ends else float("inf")

    def leave(self) -> None:
        """See :meth:`FrontEnd.leave`."""
        self._advance(self.next_leave)
        self._leaving.popleft()

    def _finish(self) -> None:
        self._advance(float("inf"))


def front_end_of(framework: Framework, servers: int = 1, chat: bool = False, speed: float = 1.0) -> FrontEnd | None:
    """The front ends of so many replicas; ``None`` where the framework states no time for them.

    ``chat``: requests are messages, for which a template is rendered; ``speed``: of a thread of the host, which does
    the work (:class:`~simulator.hardware.types.Node`).
    """

    def value(what: str, default: float = 0.0) -> float:
        constant = framework.constants.get(f"front_end_{what}")
        return constant.value if constant else default

    each, token, latency = value("per_request"), value("per_token"), value("latency")
    each += value("per_chat") if chat else 0.0
    if not (each or token or latency):
        return None
    each, token = each / speed, token / speed
    if framework.front_end == "queue":
        return FrontEnd(each, token, servers, latency)
    return InTurns(each, token, servers, latency, value("tokenizers", 1.0))
