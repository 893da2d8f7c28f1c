"""Which flows are on which links, and how few of the links need to be looked at.

Three exact reductions keep solves small. Only the component that is joined to a change by shared links is solved.
Of parallel links that every flow loads evenly (the uplinks of a leaf under spraying) one stands for all. And of
links that carry the same flows with the same shares (the ports of a node inside one job) only the narrowest counts.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from simulator.network.flows import Flow, Way
from simulator.network.links import Ids, Links

__all__ = ["FlowIndex"]

_WIDE = 64
"""A flow over more links than this is found by comparing arrays instead of being entered link by link."""
_EVEN = 1e-9
"""Relative difference of shares up to which a bundle counts as evenly used."""


class FlowIndex:
    """The flows in transit.

    Parameters
    ----------
    links, capacity
        The network, and its current capacities [links] (shared with the fabric, which changes them).

    Attributes
    ----------
    flows
        Number → flow.
    """

    def __init__(self, links: Links, capacity: NDArray[np.float64]) -> None:
        self._links, self._capacity = links, capacity
        self.flows: dict[int, Flow] = {}
        self._on_link: dict[int, set[int]] = {}
        self._wide: set[int] = set()
        # Two links with equal sums of signatures carry the same flows with the same shares (64-bit hashes).
        self._signature = np.zeros(len(capacity), np.uint64)
        self._bundle_size = np.bincount(links.bundle, minlength=len(capacity))
        self._split: set[int] = set()
        self._bundled: WeakKeyDictionary[Way, tuple[Way, Ids]] = WeakKeyDictionary()
        self._coming: dict[int, Flow] = {}
        self._going: list[Flow] = []

    def add(self, flow: Flow) -> None:
        """Put a flow among those in transit; its links are looked at when a component is asked for."""
        self.flows[flow.number] = self._coming[flow.number] = flow

    def remove(self, flow: Flow) -> bool:
        """Take a flow out; ``False`` when it is not in transit."""
        if self.flows.pop(flow.number, None) is None:
            return False
        if self._coming.pop(flow.number, None) is None:
            self._going.append(flow)
        return True

    def component(self, touched: list[NDArray[np.int64]]) -> list[Flow]:
        """Flows joined to the touched links by shared links, in the order they were requested."""
        touched = [*touched, *(flow.solved.links for flow in self._settle())]
        seen = np.zeros(len(self._capacity), bool)
        found: set[int] = set()
        wide = set(self._wide)
        stack = touched
        while stack:
            links = stack.pop()
            fresh = links[~seen[links]]
            seen[fresh] = True
            for link in fresh.tolist() if len(self._on_link) and len(self.flows) > len(self._wide) else ():
                for number in self._on_link.get(link, ()):
                    if number not in found:
                        found.add(number)
                        stack.append(self.flows[number].solved.links)
            if not stack:
                joined = {n for n in wide if seen[self.flows[n].solved.links].any()}
                wide -= joined
                found |= joined
                stack = [self.flows[n].solved.links for n in sorted(joined)]
        return [self.flows[n] for n in sorted(found)]

    def tightest(self, links: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of the links that carry the same flows with the same shares only the narrowest can limit them."""
        mask = np.zeros(len(self._capacity), bool)
        mask[links] = True
        used = np.flatnonzero(mask)
        ranked = used[np.lexsort((used, self._capacity[used], self._signature[used]))]
        signature = self._signature[ranked]
        return ranked[np.r_[True, signature[1:] != signature[:-1]]]

    def _settle(self) -> list[Flow]:
        """Enter and take out what came and went; returns flows to be solved anew because a bundle was split."""
        for flow in self._going:
            self._leave(flow)
        coming, moved = list(self._coming.values()), list[Flow]()
        self._going, self._coming = [], {}
        for flow in coming:
            moved += self._reduce(flow)
            self._enter(flow)
        return moved

    def _reduce(self, flow: Flow) -> list[Flow]:
        """Keep one link of every bundle that the flow loads evenly; a bundle used unevenly is split for good."""
        if (self._bundle_size[self._links.bundle[flow.way.links]] == 1).all():
            return []
        if flow.way not in self._bundled:
            self._bundled[flow.way] = self._one_of_each(flow.way)
        reduced, uneven = self._bundled[flow.way]
        moved = self.split({b for b in uneven.tolist() if self._bundle_size[b] > 1})
        bundles = frozenset(reduced.links[self._bundle_size[reduced.links] > 1].tolist())
        if not bundles & self._split:
            flow.solved, flow.bundles = reduced, bundles
        return moved

    def _one_of_each(self, way: Way) -> tuple[Way, Ids]:
        """The first link of every bundle with the most any of it carries, and the bundles that are not used evenly."""
        first, which, used = np.unique(self._links.bundle[way.links], return_inverse=True, return_counts=True)
        most, least = np.zeros(len(first)), np.full(len(first), np.inf)
        np.maximum.at(most, which, way.shares)
        np.minimum.at(least, which, way.shares)
        even = (used == self._bundle_size[first]) & (most - least <= _EVEN * most)
        return Way(first, most), first[~even]

    def split(self, bundles: set[int]) -> list[Flow]:
        """Look at every link of these bundles from now on; returns the flows under way for which that is new."""
        fresh = {b for b in bundles if self._bundle_size[b] > 1} - self._split
        moved: list[Flow] = []
        if not fresh:
            return moved
        self._split |= fresh
        for flow in self.flows.values():
            if flow.bundles & fresh and flow.solved is not flow.way:
                self._leave(flow)
                flow.solved, flow.bundles = flow.way, frozenset()
                self._enter(flow)
                moved.append(flow)
        return moved

    def _enter(self, flow: Flow) -> None:
        self._signature[flow.solved.links] += flow.signature()
        if len(flow.solved.links) > _WIDE:
            self._wide.add(flow.number)
        else:
            for link in flow.solved.links.tolist():
                self._on_link.setdefault(link, set()).add(flow.number)

    def _leave(self, flow: Flow) -> None:
        self._signature[flow.solved.links] -= flow.signature()
        if flow.number in self._wide:
            self._wide.discard(flow.number)
        else:
            for link in flow.solved.links.tolist():
                self._on_link[link].discard(flow.number)
