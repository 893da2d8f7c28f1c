"""The seam of autoscaling: kinds of instances, what a policy sees, what it decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from simulator.errors import ConfigError

__all__ = ["Autoscaler", "FleetView", "InstanceKind"]


@dataclass(frozen=True)
class InstanceKind:
    """Something to rent.

    Attributes
    ----------
    price
        [USD/h] from the order to the release.
    startup
        From the order until weights can be loaded [s].
    load_bandwidth
        Weights from storage into it [B/s].
    speed
        Requests take their service time over this.
    per_request
        [USD] of a request on a function, which is not rented by the hour and scales by itself.
    """

    name: str
    price: float
    startup: float = 0.0
    load_bandwidth: float = float("inf")
    speed: float = 1.0
    per_request: float = 0.0

    def __post_init__(self) -> None:
        if min(self.price, self.startup, self.per_request) < 0.0 or self.load_bandwidth <= 0.0 or self.speed <= 0.0:
            raise ConfigError(
                f"instance kind '{self.name}': price, startup and per_request from 0 on, bandwidth and speed above 0"
            )

    def ready_after(self, weights: float) -> float:
        """From the order to the first request, for ``weights`` [B] [s]."""
        return self.startup + weights / self.load_bandwidth


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
