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
    # One entry per (flow, link), for as long as the flow is live; entries stay sorted by flow.
    owner = np.repeat(np.arange(flows), np.diff(indptr))
    load = share * weight[owner]
    room = np.array(link_capacity, np.float64)
    cap_level = cap / weight
    rates = np.where(np.bincount(owner, minlength=flows) == 0, cap, 0.0)
    bottleneck = np.full(flows, -1, np.int64)
    level = np.empty(links)
    flow_level = np.empty(flows)
    rounds = 0
    while len(owner):
        rounds += 1
        total = np.bincount(link, load, minlength=links)
        np.divide(room, total, out=level, where=total > 0)
        entry_level = level[link]
        first = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
        live = owner[first]
        own_cap = cap_level[live]
        flow_level[live] = np.minimum(np.minimum.reduceat(entry_level, first), own_cap)
        limited = entry_level <= flow_level[owner] * (1 + _TIE)
        # A link is a local minimum when it is the lowest of every flow that crosses it.
        blocked = np.bincount(link[~limited], minlength=links) > 0
        frozen_by_link = limited & ~blocked[link]
        done = np.zeros(flows, bool)
        done[live[own_cap <= flow_level[live]]] = True
        hit = np.flatnonzero(frozen_by_link & ~done[owner])
        hit = hit[np.argsort(-total[link[hit]], kind="stable")]
        bottleneck[owner[hit]] = link[hit]  # of several full links, the one with the least traffic of others stays
        done[owner[hit]] = True
        gone = done[owner]
        rates[done] = flow_level[done] * weight[done]
        used = np.bincount(link[gone], (load * flow_level[owner])[gone], minlength=links)
        np.maximum(np.subtract(room, used, out=room, where=np.isfinite(room)), 0.0, out=room)
        keep = ~gone
        owner, link, load = owner[keep], link[keep], load[keep]
    capped = bottleneck < 0
    rates[capped] = np.minimum(rates[capped], cap[capped])
    return Allocation(rates, bottleneck, rounds)


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
