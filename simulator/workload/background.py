"""Traffic beside jobs and deployments: dataset reads, replication, backups."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["BackgroundTraffic"]


@dataclass(frozen=True)
class BackgroundTraffic:
    """Bytes that move at a steady rate.

    Attributes
    ----------
    name
        For the books.
    source, to
        A shared storage by name, a workload by name (all its nodes), or a node by number.
    rate
        Wanted [B/s], over all connections.
    start, until
        [s]
    """

    name: str
    source: str | int
    to: str | int
    rate: float
    start: float = 0.0
    until: float = math.inf
