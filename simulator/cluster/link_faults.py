"""Links, switches and ports that are degraded or lost for a while, on the clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from simulator.hardware.types import LinkFault

if TYPE_CHECKING:
    from simulator.network.fabric import Fabric

__all__ = ["LinkFaults"]


class LinkFaults:
    """Changes the bandwidth of links when their faults begin and end.

    Where several faults meet on a link, the worst counts.

    Parameters
    ----------
    fabric
        The shared network.
    faults
        What happens when; a pattern that fits nothing is refused.
    """

    def __init__(self, fabric: Fabric, faults: Sequence[LinkFault]) -> None:
        self.fabric = fabric
        self._of = [(fault, fabric.topology.links.matching(fault.of)) for fault in faults]
        for moment in sorted({t for fault in faults for t in (fault.begin, fault.end) if math.isfinite(t)}):
            if moment > fabric.clock.now:
                fabric.clock.at(moment, self._change)
        self._change()

    def _change(self) -> None:
        now, whole = self.fabric.clock.now, self.fabric.topology.links.capacity
        left = np.ones(len(whole))
        for fault, links in self._of:
            if fault.begin <= now < fault.end:
                left[links] = np.minimum(left[links], fault.share)
        wanted = whole * left
        for link in np.flatnonzero(wanted != self.fabric.capacity).tolist():
            self.fabric.set_capacity(link, float(wanted[link]))
        for tell in self.fabric.watchers:
            tell()
