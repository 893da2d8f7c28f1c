"""The seam of autoscaling: what a policy sees, and what it decides."""

from __future__ import annotations

from typing import NamedTuple, Protocol

__all__ = ["Autoscaler", "FleetView"]


class FleetView(NamedTuple):
    """What a policy sees.

    Attributes
    ----------
    ready, starting
        Instances.
    outstanding
        Requests that wait or run.
    rate
        Arrivals per second since the last regular decision, over the interval between two of them at least.
    idle
        Time since a request was there [s]; 0 while there is one.
    service
        Mean seconds a request takes on an instance.
    lead
        Time from an order to a ready instance [s].
    """

    ready: int
    starting: int
    outstanding: int
    rate: float
    idle: float
    service: float
    lead: float


class Autoscaler(Protocol):
    """Decides the size of a fleet."""

    name: str

    def desired(self, view: FleetView, now: float) -> int:
        """Instances there should be, those that are starting included."""

    def bursts(self, view: FleetView, now: float) -> bool:
        """Whether the request that arrives now goes to a function."""
