"""How many replicas a deployment has and when: what is asked of an autoscaler and of a spot market."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Autoscaling", "Functions", "LiveMigration", "SpotMarket"]


@dataclass(frozen=True)
class Functions:
    """Instances that start with a request and are paid by the request.

    Attributes
    ----------
    startup
        From the request until its prompt begins [s].
    speed
        Of a replica with nobody else on it: 0.5 takes twice as long.
    price
        Of a request [USD].
    """

    startup: float = 0.0
    speed: float = 1.0
    price: float = 0.0


@dataclass(frozen=True)
class LiveMigration:
    """Running requests may move to another replica: registered name of family ``migration``, and how often it is asked.

    Attributes
    ----------
    interval
        Between two questions [s]; 50 ms is Llumnix' ``--polling-interval``.
    """

    policy: str
    interval: float = 0.05
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)


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
    functions
        Where a policy may send requests that would wait too long; ``None``: nowhere.
    """

    policy: str
    minimum: int
    maximum: int
    initial: int
    interval: float = 15.0
    startup: float = 0.0
    load_from: str = "nvme"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    functions: Functions | None = None


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
    recovery
        Registered name of what saves requests within the grace; empty: they begin again.
    """

    mean_life: float
    grace: float = 30.0
    price: float = 1.0
    recovery: str = ""
