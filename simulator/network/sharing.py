"""Who really is in whose way: links that can never fill are left out, and what then falls apart is answered apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from simulator.network.flows import Flow
from simulator.network.maxmin import Allocation, max_min_allocation
from simulator.network.periodic import Periodic, Steady, slow_down, steady_state

__all__ = ["Change", "Party", "Problem", "mean_changes", "share_links"]

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
Party = tuple[Periodic, list[int]]

_FULL = 1e-9
"""Relative distance from its capacity from which on a link counts as one that can fill."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Flows and the links that can fill, by flow.

    Attributes
    ----------
    links, shares
        [flows] arrays: link numbers of the network, and the load that one byte puts on each.
    caps, weights
        [flows]
    part
        [flows]: which component each belongs to.
    """

    links: list[Ids]
    shares: list[Floats]
    caps: Floats
    weights: Floats
    part: Ids


def share_links(
    flows: Sequence[Flow], parties: Sequence[Party], capacity: Floats, tightest: Callable[[Ids], Ids]
) -> tuple[Steady, Problem]:
    """Mean rates of ``flows``, among them the phases of ``parties``.

    Parameters
    ----------
    parties
        Periodic loads with the places of their phases in ``flows``.
    capacity
        [links], [B/s].
    tightest
        Of links with the same flows only the narrowest: :meth:`FlowIndex.tightest`.
    """
    problem = _problem(flows, parties, capacity, tightest)
    rates, active = np.zeros(len(flows)), np.ones(len(flows))
    limits: list[dict[int, float]] = [{} for _ in flows]
    states = 0
    of_party = {f: party for party in parties for f in party[1]}
    for part in np.unique(problem.part).tolist():
        mine = np.flatnonzero(problem.part == part).tolist()
        local = {f: i for i, f in enumerate(mine)}
        inside = {id(of_party[f]): of_party[f] for f in mine if f in of_party}.values()
        answer = steady_state(
            [(load, [local[f] for f in phases]) for load, phases in inside],
            problem.caps[mine],
            [local[f] for f in mine if f not in of_party],
            _allocator(problem, mine, capacity),
        )
        rates[mine], active[mine] = answer.rates, answer.shares
        for f, limit in zip(mine, answer.limits, strict=True):
            limits[f] = limit
        states += answer.states
    return Steady(rates, active, tuple(limits), states), problem


@dataclass(frozen=True, eq=False)
class Change:
    """What one flow gets: mean rate [B/s], what limits it for which share of the time, whom it meets there."""

    flow: Flow
    rate: float
    limits: dict[int, float]
    beside: dict[int, tuple[str, ...]]


def mean_changes(
    flows: Sequence[Flow], parties: Sequence[Party], capacity: Floats, tightest: Callable[[Ids], Ids]
) -> tuple[list[Change], dict[Periodic, tuple[float, ...]], int]:
    """:func:`share_links` flow by flow; the slow-downs of the periodic loads; the number of joint states."""
    answer, problem = share_links(flows, parties, capacity, tightest)
    users: dict[int, dict[str, set[int]]] = {}
    for flow, links in zip(flows, problem.links, strict=True):
        for link in links.tolist():
            users.setdefault(link, {}).setdefault(flow.tag, set()).add(id(flow.load) if flow.load is not None else 0)
    changes = []
    for i, flow in enumerate(flows):
        active = float(answer.shares[i])
        limits = {link: share * active for link, share in answer.limits[i].items()}
        # Loads of one name, as the replicas of a deployment, meet each other; phases of one load do not.
        beside = {
            link: tuple(t for t, who in users[link].items() if t != flow.tag or len(who) > 1)
            for link in limits
            if link >= 0
        }
        changes.append(Change(flow, float(answer.rates[i]) * active, limits, beside))
    slow = {load: tuple(slow_down(flows[i].cap, float(answer.rates[i])) for i in phases) for load, phases in parties}
    return changes, slow, answer.states


def _allocator(problem: Problem, mine: list[int], capacity: Floats) -> Callable[[tuple[int, ...]], Allocation]:
    """Division of the links among some of the flows ``mine``."""

    def allocate(active: tuple[int, ...]) -> Allocation:
        chosen = [mine[i] for i in active]
        if not chosen:
            return Allocation(np.zeros(0), np.zeros(0, np.int64), 0)
        used, local = np.unique(np.concatenate([problem.links[f] for f in chosen]), return_inverse=True)
        indptr = np.r_[0, np.cumsum([len(problem.links[f]) for f in chosen])]
        shares = np.concatenate([problem.shares[f] for f in chosen])
        found = max_min_allocation(
            capacity[used], indptr, local.ravel(), problem.weights[chosen], problem.caps[chosen], shares
        )
        link = np.where(found.bottleneck >= 0, used[found.bottleneck] if len(used) else -1, -1)
        return Allocation(found.rates, link, found.rounds)

    return allocate


def _problem(
    flows: Sequence[Flow], parties: Sequence[Party], capacity: Floats, tightest: Callable[[Ids], Ids]
) -> Problem:
    every = np.concatenate([f.solved.links for f in flows])
    shares = np.concatenate([f.solved.shares for f in flows])
    owner = np.repeat(np.arange(len(flows)), [len(f.solved.links) for f in flows])
    caps, weights = np.array([f.cap for f in flows]), np.array([f.weight for f in flows])
    used = tightest(every)
    place = np.full(len(capacity), -1, np.int64)
    place[used] = np.arange(len(used))
    keep = place[every] >= 0
    every, shares, owner = every[keep], shares[keep], owner[keep]
    group = np.arange(len(flows)) + len(parties)
    for number, (_, phases) in enumerate(parties):
        group[phases] = number
    keep = _can_fill(place[every], shares, owner, caps, group, capacity[used])
    every, shares, owner = every[keep], shares[keep], owner[keep]
    ends = np.searchsorted(owner, np.arange(len(flows) + 1))
    links = [every[a:b] for a, b in pairwise(ends.tolist())]
    loads = [shares[a:b] for a, b in pairwise(ends.tolist())]
    return Problem(links, loads, caps, weights, _parts(group, owner, every))


def _can_fill(link: Ids, shares: Floats, owner: Ids, caps: Floats, group: Ids, capacity: Floats) -> NDArray[np.bool_]:
    """Entries on links that are full when everything is under way at once; of a periodic load one phase at a time."""
    narrowest = np.full(len(caps), np.inf)
    np.minimum.at(narrowest, owner, capacity[link] / shares)
    most = np.where(np.isfinite(caps), caps, narrowest)[owner] * shares
    key, which = np.unique(group[owner] * len(capacity) + link, return_inverse=True)
    by_group = np.zeros(len(key))
    np.maximum.at(by_group, which.ravel(), most)
    total = np.bincount(key % len(capacity), by_group, minlength=len(capacity))
    full: NDArray[np.bool_] = total >= capacity * (1 - _FULL)
    return full[link]


def _parts(group: Ids, owner: Ids, link: Ids) -> Ids:
    """Component of every flow: joined by links that can fill, and by belonging to one periodic load."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first_link = int(group.max()) + 1
    _, numbered = np.unique(link, return_inverse=True)
    size = first_link + (int(numbered.max()) + 1 if len(numbered) else 0)
    joins = coo_array((np.ones(len(link)), (group[owner], first_link + numbered.ravel())), shape=(size, size))
    found: Ids = connected_components(joins, directed=False)[1]
    return found[group].astype(np.int64)
