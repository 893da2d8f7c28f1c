"""Traits of cache policies that keep nothing for later requests."""

from __future__ import annotations

from simulator.strategies.protocols import CacheTier

__all__ = ["NoReuse"]


class NoReuse:
    """Blocks are gone with their request."""

    prefix_caching = False
    modular = False
    tiers: tuple[CacheTier, ...] = ()
    layerwise = False
