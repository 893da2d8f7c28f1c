"""The seam of disaggregation: a placement for every request over the replicas of all pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from simulator.strategies.serving_protocols import ReplicaView, RequestState

__all__ = ["DisaggregationPolicy", "Placement", "fewest_outstanding", "fewest_queued_tokens"]


class Placement(NamedTuple):
    """Replicas of a request by index; equal ones: no transfer; ``decode`` −1: chosen once the prompt is complete."""

    prefill: int
    decode: int = -1


class DisaggregationPolicy(Protocol):
    """Chooses the replicas of an arriving request."""

    name: str
    layerwise: bool
    """Whether the keys and values of a layer leave while the next one is computed; else after the whole prompt."""
    borrows: bool
    """Whether a replica of either pool may be asked to serve a request as a whole."""

    def place(
        self, request: RequestState, prefill: Sequence[ReplicaView], decode: Sequence[ReplicaView], now: float
    ) -> Placement:
        """Where the prompt is computed, and where it decodes if that is known by then."""

    def choose_decode(self, request: RequestState, decode: Sequence[ReplicaView], now: float) -> int:
        """Index of the replica that decodes a request whose prompt is complete."""


def fewest_queued_tokens(replicas: Sequence[ReplicaView]) -> ReplicaView:
    """Join the shortest queue, by prompt tokens still to compute; the first among equals."""
    return min(replicas, key=lambda r: (r.queued_tokens, r.outstanding, r.index))


def fewest_outstanding(replicas: Sequence[ReplicaView]) -> ReplicaView:
    """Join the shortest queue, by requests; among equals the one with more free KV blocks."""
    return min(replicas, key=lambda r: (r.outstanding, -r.free_blocks, r.index))
