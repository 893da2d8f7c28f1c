"""The seam of live migration: who gives requests to whom, and which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from simulator.strategies.serving_protocols import ReplicaView, RequestState

__all__ = ["MigrationPolicy"]


class MigrationPolicy(Protocol):
    """Chooses which requests move."""

    name: str
    last_blocks: int
    """A request stops decoding for the rest of its keys and values once they fill fewer KV blocks than this."""
    max_stages: int
    """Copies of what had been added during the one before, after which the migration is given up."""

    def pairs(
        self, replicas: Sequence[ReplicaView], leaving: Sequence[ReplicaView], now: float
    ) -> list[tuple[int, int]]:
        """(source, target) by ``index``; ``leaving`` ones are to be emptied, ``replicas`` take requests."""

    def pick(self, replica: ReplicaView) -> RequestState | None:
        """Who goes of those that decode; ``None``: nobody."""
