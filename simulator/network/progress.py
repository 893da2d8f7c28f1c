"""How far many flows are, in arrays: while one after another ends, none of the others is touched one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from simulator.network.completions import SAME_TIME
from simulator.network.flows import Flow

__all__ = ["Progress"]

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


class Progress:
    """Bytes sent, rates and limits of flows that are divided together.

    The flows themselves stand still meanwhile: who wants to know one takes it back with :meth:`give_back` first.

    Parameters
    ----------
    flows
        In the order that places refer to. Their rates until now are booked.
    now
        [s].

    Attributes
    ----------
    next_end
        When the first of them will have sent everything [s]; infinite when none ever has.
    """

    def __init__(self, flows: Sequence[Flow], now: float) -> None:
        for flow in flows:
            flow.advance(now)
            flow.version += 1  # what is known of its end no longer holds
        self._flows, self._place = list(flows), {flow.number: i for i, flow in enumerate(flows)}
        self._left = np.array([flow.size - flow.sent for flow in flows])
        self._rate, self._since = np.zeros(len(flows)), np.full(len(flows), now)
        self._limit = np.full(len(flows), -2, np.int64)
        self._finish = np.full(len(flows), math.inf)
        self._log: list[tuple[Ids, Ids, Floats]] = []
        self.next_end = math.inf

    def __contains__(self, flow: Flow) -> bool:
        return flow.number in self._place

    def change(self, which: Ids, rates: Floats, limits: Ids, now: float) -> None:
        """From ``now`` on the flows at these places have new rates [B/s] and limits (−1: their own cap)."""
        before = self._rate[which]
        differs = np.abs(rates - before) > SAME_TIME * np.maximum(rates, before)
        differs |= self._limit[which] != limits
        which, rates, limits = which[differs], rates[differs], limits[differs]
        elapsed = now - self._since[which]
        if elapsed.any():
            self._log.append((which, self._limit[which], elapsed))
        left = np.maximum(self._left[which] - self._rate[which] * elapsed, 0.0)
        self._left[which], self._since[which], self._rate[which], self._limit[which] = left, now, rates, limits
        with np.errstate(divide="ignore", invalid="ignore"):
            self._finish[which] = np.where(rates > 0, now + left / rates, math.inf)
        self.next_end = float(self._finish.min())

    def due(self, until: float) -> list[Flow]:
        """Flows that have sent everything by then [s]."""
        if self.next_end > until:
            return []
        return [self._flows[i] for i in np.flatnonzero(self._finish <= until).tolist()]

    def show(self) -> None:
        """Bring all flows up to date for somebody who looks at them."""
        for i in self._place.values():
            self._bring(self._flows[i], i)

    def give_back(self, flow: Flow) -> int:
        """Bring a flow up to date and keep it no longer; returns its place."""
        i = self._place.pop(flow.number)
        self._bring(flow, i)
        flow.finish, flow.version = float(self._finish[i]), flow.version + 1
        self._finish[i] = math.inf
        return i

    def give_back_all(self) -> list[Flow]:
        """Bring every flow that is still kept up to date, and keep none; returns them."""
        left = [self._flows[i] for i in self._place.values()]
        for flow in left:
            self.give_back(flow)
        return left

    def _bring(self, flow: Flow, i: int) -> None:
        flow.rate, flow.since, flow.sent = float(self._rate[i]), float(self._since[i]), flow.size - float(self._left[i])
        flow.limits, flow.beside = {int(self._limit[i]): 1.0}, {}

    def booked(self) -> list[tuple[str, int, float]]:
        """Tag, link, and for how long [s] that link limited flows of the tag; told once."""
        if not self._log:
            return []
        which, limit, seconds = (np.concatenate(column) for column in zip(*self._log, strict=True))
        self._log = []
        tags = {tag: i for i, tag in enumerate(dict.fromkeys(flow.tag for flow in self._flows))}
        names, of_flow = list(tags), np.array([tags[flow.tag] for flow in self._flows])
        width = int(limit.max()) + 3
        key, place = np.unique(of_flow[which] * width + limit + 2, return_inverse=True)
        sums = np.bincount(place.ravel(), seconds)
        return [(names[k // width], k % width - 2, s) for k, s in zip(key.tolist(), sums.tolist(), strict=True)]
