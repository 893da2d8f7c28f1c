"""What limited the flows of each tag, for how long, and whom they met there."""

from __future__ import annotations

from collections.abc import Collection

from simulator.network.flows import Flow
from simulator.network.links import Links

__all__ = ["FlowBooks"]


class FlowBooks:
    """Books by tag, kept to the end of a run.

    Parameters
    ----------
    links
        For their names.
    live
        The flows under way, by number.
    """

    def __init__(self, links: Links, live: dict[int, Flow]) -> None:
        self._links, self._live = links, live
        self._limits: dict[str, dict[int, float]] = {}
        self._met: dict[str, dict[tuple[int, str], float]] = {}

    def close(self, flow: Flow) -> None:
        """Enter a flow that is over."""
        limits = self._limits.setdefault(flow.tag, {})
        for link, seconds in flow.limited.items():
            limits[link] = limits.get(link, 0.0) + seconds
        met = self._met.setdefault(flow.tag, {}) if flow.met else {}
        for key, seconds in flow.met.items():
            met[key] = met.get(key, 0.0) + seconds

    def limits(self, tag: str, now: float) -> dict[str, float]:
        """Link → seconds in which it limited ``tag``, longest first; ``own cap`` while nothing was in the way."""
        total = dict(self._limits.get(tag, {}))
        for flow in self._of(tag):
            for booked in (flow.limited, flow.waited(now)):
                for link, seconds in booked.items():
                    total[link] = total.get(link, 0.0) + seconds
        ranked = sorted(((s, i) for i, s in total.items() if s > 0), key=lambda x: (-x[0], x[1]))
        return {self._links.name(i) if i >= 0 else "own cap": s for s, i in ranked}

    def met(self, tag: str, now: float) -> dict[str, dict[str, float]]:
        """Link → other tag → seconds in which the link limited ``tag`` while the other used it too."""
        total = dict(self._met.get(tag, {}))
        for flow in self._of(tag):
            waited = flow.waited(now).items()
            fresh = {(link, other): seconds for link, seconds in waited for other in flow.beside.get(link, ())}
            for booked in (flow.met, fresh):
                for key, seconds in booked.items():
                    total[key] = total.get(key, 0.0) + seconds
        found: dict[str, dict[str, float]] = {}
        for (link, other), seconds in sorted(total.items(), key=lambda item: (-item[1], item[0])):
            found.setdefault(self._links.name(link), {})[other] = seconds
        return found

    def _of(self, tag: str) -> Collection[Flow]:
        return [flow for flow in self._live.values() if flow.tag == tag]
