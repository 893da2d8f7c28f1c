"""How many replicas a deployment has and when: what is asked of an autoscaler and of a spot market."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Autoscaling", "SpotMarket"]


@dataclass(frozen=True)
class Autoscaling:
    """A fleet that follows the load.

    Attributes
    ----------
    policy, options
        Registered name of family ``autoscaling``, and its own parameters.
    minimum, maximum, initial
        Replicas; ``initial`` ones are ready when the run begins.
    interval
        Between two decisions [s].
    startup
        From the order until weights can be loaded: machine, container, engine [s].
    load_from
        Where the weights come from: ``nvme``, ``host``, or a shared storage of the cluster.
    """

    policy: str
    minimum: int
    maximum: int
    initial: int
    interval: float = 15.0
    startup: float = 0.0
    load_from: str = "nvme"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class SpotMarket:
    """Machines that may be taken away.

    Attributes
    ----------
    mean_life
        From being ready to the notice, exponential [s].
    grace
        From the notice to the end [s].
    price
        Share of the usual rent.
    """

    mean_life: float
    grace: float = 30.0
    price: float = 1.0
