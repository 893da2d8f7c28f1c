"""The seam between calls that can run at several sites and the policy that picks one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

__all__ = ["Call", "SitePlacement", "SiteView", "check_site_placement"]


class Call(NamedTuple):
    """What a policy knows of a call.

    Attributes
    ----------
    function
        Number of the function.
    seconds
        Execution on the first site's hardware, as expected [s].
    origin
        Site that the caller is nearest to.
    """

    function: int
    seconds: float
    origin: int


class SiteView(NamedTuple):
    """What a policy sees of a site, as old and as noisy as the telemetry is.

    Attributes
    ----------
    capacity, free
        Containers that fit, and those that could start now without waiting.
    queued
        Calls that wait.
    warm
        Idle containers of the function in question.
    latency
        Time to the site and back, the payload's transfer included [s].
    slowness
        Execution time here over that at the first site.
    cold
        Time that a new container of the function takes to start here [s].
    price
        Of a container [USD/s].
    carbon
        Of a container at work [g/s], at the present hour.
    """

    name: str
    capacity: int
    free: float
    queued: float
    warm: float
    latency: float
    slowness: float
    cold: float
    price: float
    carbon: float

    @property
    def load(self) -> float:
        """Containers at work and calls that wait, per container that fits."""
        return (self.capacity - self.free + self.queued) / self.capacity

    def steady(self, call: Call) -> float:
        """Expected time of a call that meets a warm container [s]; waiting as if what is queued were like it."""
        wait = 0.0 if self.free >= 1 or self.warm >= 1 else (self.queued + 1) / self.capacity * call.seconds
        return self.latency + (wait + call.seconds) * self.slowness

    def response(self, call: Call) -> float:
        """Expected time of a call here [s], a cold start included where it needs one."""
        return self.steady(call) + (0.0 if self.warm >= 1 else self.cold)


@runtime_checkable
class SitePlacement(Protocol):
    """Picks the site of a call."""

    name: str

    def choose(self, call: Call, sites: Sequence[SiteView]) -> int:
        """Number of the site in ``sites``; every one of them has room for a container at all."""


def check_site_placement(policy: SitePlacement) -> None:
    """Raise ``AssertionError`` where a policy breaks the seam: a site that is not there, or answers that change.

    What one site alone, empty sites, full sites and sites with zero prices must not upset.
    """
    assert policy.name, "a policy has a name"
    call = Call(0, 1.0, 0)
    base = SiteView("a", 4, 4.0, 0.0, 0.0, 0.01, 1.0, 2.0, 1e-3, 0.1)
    cases = (
        (base,),
        (base, base._replace(name="b")),
        (base._replace(free=0.0, queued=9.0), base._replace(name="b", free=0.0, queued=3.0)),
        (base._replace(price=0.0, carbon=0.0), base._replace(name="b", warm=1.0), base._replace(name="c", capacity=1)),
    )
    for sites in cases:
        chosen = policy.choose(call, sites)
        assert isinstance(chosen, int) and 0 <= chosen < len(sites), f"{policy.name} chose {chosen} of {len(sites)}"
        assert policy.choose(call, sites) == chosen, f"{policy.name} changed its answer to the same question"
