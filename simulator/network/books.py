"""What crossed each link; what limited the flows of each tag, for how long, and whom they met there."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from simulator.network.flows import Flow, Way

__all__ = ["FlowBooks", "LinkBytes", "Offered"]

_WIDE = 512
"""Ways of more links than this are added up before they are spread over the links."""


class FlowBooks:
    """Books by tag, kept to the end of a run.

    Parameters
    ----------
    live
        The flows under way, by number.
    """

    def __init__(self, live: dict[int, Flow]) -> None:
        self._live = live
        self._limits: dict[str, dict[int, float]] = {}
        self._met: dict[str, dict[tuple[int, str], float]] = {}

    def close(self, flow: Flow) -> None:
        """Enter a flow that is over."""
        self.enter((flow.tag, link, seconds) for link, seconds in flow.limited.items())
        met = self._met.setdefault(flow.tag, {}) if flow.met else {}
        for key, seconds in flow.met.items():
            met[key] = met.get(key, 0.0) + seconds

    def enter(self, waits: Iterable[tuple[str, int, float]]) -> None:
        """Book what limited flows: tag, link and seconds."""
        for tag, link, seconds in waits:
            limits = self._limits.setdefault(tag, {})
            limits[link] = limits.get(link, 0.0) + seconds

    def limits(self, tag: str, now: float) -> dict[int, float]:
        """Link → seconds in which it limited ``tag``, longest first; −1 while nothing was in the way."""
        total = dict(self._limits.get(tag, {}))
        for flow in self._of(tag):
            for booked in (flow.limited, flow.waited(now)):
                for link, seconds in booked.items():
                    total[link] = total.get(link, 0.0) + seconds
        ranked = sorted(((s, i) for i, s in total.items() if s > 0), key=lambda x: (-x[0], x[1]))
        return {i: s for s, i in ranked}

    def met(self, tag: str, now: float) -> dict[int, dict[str, float]]:
        """Link → other tag → seconds in which the link limited ``tag`` while the other used it too."""
        total = dict(self._met.get(tag, {}))
        for flow in self._of(tag):
            waited = flow.waited(now).items()
            fresh = {(link, other): seconds for link, seconds in waited for other in flow.beside.get(link, ())}
            for booked in (flow.met, fresh):
                for key, seconds in booked.items():
                    total[key] = total.get(key, 0.0) + seconds
        found: dict[int, dict[str, float]] = {}
        for (link, other), seconds in sorted(total.items(), key=lambda item: (-item[1], item[0])):
            found.setdefault(link, {})[other] = seconds
        return found

    def _of(self, tag: str) -> Collection[Flow]:
        return [flow for flow in self._live.values() if flow.tag == tag]


class LinkBytes:
    """Bytes that crossed each of ``count`` links."""

    def __init__(self, count: int) -> None:
        self._links = np.zeros(count)
        self._wide: dict[Way, float] = {}

    def add(self, way: Way, size: float) -> None:
        """Book ``size`` bytes over a way."""
        if len(way.links) > _WIDE:
            self._wide[way] = self._wide.get(way, 0.0) + size
        else:
            self._links[way.links] += size * way.shares

    def total(self) -> NDArray[np.float64]:
        """Bytes by link [links]."""
        total = self._links.copy()
        for way, size in self._wide.items():
            total[way.links] += size * way.shares
        return total


class Offered:
    """What links could have carried since ``began`` [s], over changes of their bandwidth."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._until: dict[int, tuple[float, float]] = {}  # changed links: bytes up to a time, that time

    def change(self, link: int, capacity: float, now: float) -> None:
        """The bandwidth of a link, ``capacity`` [B/s] so far, changes now."""
        self._until[link] = (self.until(link, capacity, now), now)

    def until(self, link: int, capacity: float, now: float) -> float:
        """Bytes that a link of ``capacity`` [B/s] since its last change could have carried."""
        before, since = self._until.get(link, (0.0, self._began))
        return before + capacity * (now - since) if now > since else before
