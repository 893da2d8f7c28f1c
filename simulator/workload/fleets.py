"""How many replicas a deployment has and when: what is asked of an autoscaler and of a spot market."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Autoscaling", "Functions", "Instances", "LiveMigration", "SpotMarket"]


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


@dataclass(frozen=True)
class Instances:
    """Machines that come and go under one model, whose plan follows them.

    Attributes
    ----------
    policy
        Registered name of family ``replanning``.
    count, accelerators, initial
        Machines there may be, accelerators of each, and those that are there at the start.
    changes
        (time [s], machines that come, or that get their notice: negative).
    mean_life
        From being usable to the notice, exponential [s], another is ordered then; 0: only ``changes``.
    grace
        From the notice to the end [s].
    startup
        From the order until a machine can be used [s].
    restart
        Start of engines that lose their context, before they load weights [s].
    rate
        What a plan is to keep up with [requests/s]; 0: the mean rate of the requests.
    price
        Share of the usual rent.
    load_from
        Where weights come from that no machine has.
    """

    policy: str
    count: int
    accelerators: int
    initial: int
    changes: tuple[tuple[float, int], ...] = ()
    mean_life: float = 0.0
    grace: float = 30.0
    startup: float = 0.0
    restart: float = 0.0
    rate: float = 0.0
    price: float = 1.0
    load_from: str = "nvme"
