"""Weighted max-min fair rates: who gets how much of shared links.

Raise the rates of all flows together, each in proportion to its weight. When a link is full (or a flow at its
cap), its flows stay where they are and the rest rises on. Bertsekas & Gallager, *Data Networks*, §6.5.

The textbook fills one bottleneck at a time. Here every link that fills before all links it shares flows with (a
local minimum) is frozen in the same round: its level cannot change any more, because freezing a flow never lowers
the level of the links it leaves. Rounds are then the depth of the bottleneck order, not the number of bottlenecks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Allocation", "max_min_allocation", "max_min_rates"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_TIE = 1e-12
"""Relative difference below which two levels count as equal."""
_NEARLY = 1e-9
"""A link counts as one that can fill when it lacks no more than this share of its bandwidth."""
_MANY = 256
"""Entries (flow, link) from which on it pays to look for links that cannot fill."""


@dataclass(frozen=True, eq=False)
class Allocation:
    """Rates and what limits them.

    Attributes
    ----------
    rates
        [flows], [B/s]; infinite for a flow without links and cap.
    bottleneck
        [flows]: the link that limits it, −1 when its own cap does (or nothing).
    rounds
        Filling rounds that were needed.
    """

    rates: Floats
    bottleneck: Ints
    rounds: int


def max_min_rates(
    link_capacity: Floats,
    indptr: Ints,
    indices: Ints,
    weights: Floats | None = None,
    caps: Floats | None = None,
    shares: Floats | None = None,
) -> Floats:
    """Weighted max-min fair rates of flows [B/s]; see :func:`max_min_allocation`."""
    return max_min_allocation(link_capacity, indptr, indices, weights, caps, shares).rates


def max_min_allocation(
    link_capacity: Floats,
    indptr: Ints,
    indices: Ints,
    weights: Floats | None = None,
    caps: Floats | None = None,
    shares: Floats | None = None,
) -> Allocation:
    """Weighted max-min fair allocation.

    Parameters
    ----------
    link_capacity
        [links], [B/s], at least 0 (0: a link that is down, its flows stand still).
    indptr, indices
        Compressed rows: flow f crosses links ``indices[indptr[f]:indptr[f + 1]]``, each at most once.
    weights
        [flows], above 0; 1 each by default. Rates rise in proportion.
    caps
        [flows], [B/s], above 0; none by default.
    shares
        [len(indices)], above 0; 1 each by default. A flow of rate r loads the link with share·r: a flow sprayed
        over four uplinks has share ¼ on each.

    Raises
    ------
    ValueError
        If an input has a wrong length or sign.
    """
    flows, links = len(indptr) - 1, len(link_capacity)
    weight = np.ones(flows) if weights is None else np.asarray(weights, np.float64)
    cap = np.full(flows, np.inf) if caps is None else np.asarray(caps, np.float64)
    share = np.ones(len(indices)) if shares is None else np.asarray(shares, np.float64)
    link = np.asarray(indices, np.int64)
    _check(link_capacity, link, weight, cap, share, flows)
    # Only links of finite bandwidth can fill; one entry per (flow, link), sorted by flow.
    owner = np.repeat(np.arange(flows), np.diff(indptr))
    room = np.array(link_capacity, np.float64)
    bounded = np.isfinite(room[link])
    if not bounded.all():
        owner, link, share = owner[bounded], link[bounded], share[bounded]
    load, own_cap = share * weight[owner], cap / weight
    used = np.arange(links)
    if len(link) > _MANY:
        kept = _can_fill(room, owner, link, load, own_cap)
        owner, link, load = owner[kept], link[kept], load[kept]
        crossed = np.zeros(links, bool)
        crossed[link] = True
        used, link = used[crossed], (crossed.cumsum() - 1)[link]
    level, bottleneck, rounds = _fill(room[used], owner, link, load, own_cap)
    return Allocation(np.minimum(level * weight, cap), np.append(used, -1)[bottleneck], rounds)


def _can_fill(room: Floats, owner: Ints, link: Ints, load: Floats, own_cap: Floats) -> Ints:
    """Entries on links that fill if every flow gets the most it can: no others can be a bottleneck.

    A flow gets at least the least of the even shares of its links, and at most what is left on each of them when
    all others get that least.
    """
    links = len(room)
    counts = np.bincount(owner, minlength=len(own_cap))
    live = counts.nonzero()[0]
    counts, own_cap = counts[live], own_cap[live]
    first = counts.cumsum() - counts
    total = np.bincount(link, load, links)
    least = np.minimum(np.minimum.reduceat((room / np.where(total > 0, total, 1.0))[link], first), own_cap)
    each = least.repeat(counts)
    left = room - np.bincount(link, load * each, links)
    most = np.minimum(np.minimum.reduceat(left[link] / load + each, first), own_cap).repeat(counts)
    full = np.bincount(link, load * most, links) >= room * (1 - _NEARLY)
    return full[link].nonzero()[0]


def _fill(room: Floats, owner: Ints, link: Ints, load: Floats, own_cap: Floats) -> tuple[Floats, Ints, int]:
    """Level (rate over weight) and bottleneck of every flow, and the rounds of filling; ``room`` is used up."""
    links, flows, rounds = len(room), len(own_cap), 0
    counts = np.bincount(owner, minlength=flows)
    levels, bottleneck = np.where(counts > 0, 0.0, own_cap), np.full(flows, -1, np.int64)
    live = counts.nonzero()[0]
    counts, own_cap = counts[live], own_cap[live]
    level = np.empty(links)
    while len(live):
        rounds += 1
        total = np.bincount(link, load, links)
        np.divide(room, total, out=level, where=total > 0)
        entry_level = level[link]
        first = counts.cumsum() - counts
        lowest = np.minimum(np.minimum.reduceat(entry_level, first), own_cap)
        # A link is a local minimum when it is the lowest of every flow that crosses it.
        fills = np.ones(links, bool)
        fills[link[entry_level > (lowest * (1 + _TIE)).repeat(counts)]] = False
        full = fills[link]
        capped = own_cap <= lowest
        done = np.logical_or.reduceat(full, first) | capped
        levels[live[done]] = lowest[done]
        hit = (full & ~capped.repeat(counts)).nonzero()[0]
        hit = hit[(-total[link[hit]]).argsort(kind="stable")]
        bottleneck[owner[hit]] = link[hit]  # of several full links, the one with the least traffic of others stays
        over = done.repeat(counts)
        left, gone = (~over).nonzero()[0], over.nonzero()[0]
        room -= np.bincount(link[gone], load[gone] * levels[owner[gone]], links)
        np.maximum(room, 0.0, out=room)
        owner, link, load = owner[left], link[left], load[left]
        live, counts, own_cap = live[~done], counts[~done], own_cap[~done]
    return levels, bottleneck, rounds


def _check(capacity: Floats, link: Ints, weight: Floats, cap: Floats, share: Floats, flows: int) -> None:
    if len(weight) != flows or len(cap) != flows or len(share) != len(link):
        raise ValueError("weights and caps need one value per flow, shares one per entry of indices")
    if not ((weight > 0) & np.isfinite(weight)).all() or not (cap > 0).all():
        raise ValueError("weights must be positive and finite, caps positive")
    if not ((share > 0) & np.isfinite(share)).all():
        raise ValueError("shares must be positive and finite")
    if not (np.asarray(capacity) >= 0).all():
        raise ValueError("link capacities must be at least 0")
    if len(link) and not 0 <= link.min() <= link.max() < len(capacity):
        raise ValueError(f"link numbers must lie in [0, {len(capacity)})")
