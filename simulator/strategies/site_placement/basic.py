"""Placements of calls on sites: by order, load, nearness, price and carbon."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.registry import register
from simulator.strategies.site_protocols import Call, SiteView

__all__ = ["BinPack", "Cheapest", "FastestSite", "FirstFitSite", "Greenest", "LeastLoaded", "Locality"]

SLACK = 2.0
"""Expected response of warm sites that cost and carbon may go up to, over the fastest one's."""

CNC = "CNC brain: Policies"
CITES = ("Hong et al. 2023, CNC brain, arXiv 2308.03450",)


def _best(scores: Sequence[tuple[float, ...]]) -> int:
    return min(range(len(scores)), key=lambda i: (*scores[i], i))


@register(
    "first-fit", kind="policy", area="cluster", family="site_placement", cites=CITES, catalogue=(CNC,),
    validated_by="closed_form",
)  # fmt: skip
class FirstFitSite:
    """The first site, in the order of the scenario, where the call need not wait; else the least loaded."""

    name: str

    def choose(self, call: Call, sites: Sequence[SiteView]) -> int:
        """In order."""
        ready = (i for i, site in enumerate(sites) if site.warm >= 1 or site.free >= 1)
        return next(ready, _best([(site.load,) for site in sites]))


@register(
    "least-loaded", kind="policy", area="cluster", family="site_placement", cites=CITES,
    catalogue=(CNC, "latency and cost"), validated_by="closed_form",
)  # fmt: skip
class LeastLoaded:
    """The site with the smallest share of its containers at work, calls that wait included."""

    name: str

    def choose(self, call: Call, sites: Sequence[SiteView]) -> int:
        """By load, then nearness."""
        return _best([(site.load, site.latency) for site in sites])


@register(
    "bin-pack", kind="policy", area="cluster", family="site_placement", cites=CITES, catalogue=(CNC,),
    validated_by="closed_form",
)  # fmt: skip
class BinPack:
    """The fullest site where the call need not wait, so that others can scale to zero; else the least loaded."""

    name: str

    def choose(self, call: Call, sites: Sequence[SiteView]) -> int:
        """Warm containers first, then the highest load."""
        ready = [i for i, site in enumerate(sites) if site.warm >= 1 or site.free >= 1]
        if not ready:
            return _best([(site.load,) for site in sites])
        return min(ready, key=lambda i: (sites[i].warm < 1, -sites[i].load, i))


@register(
    "locality", kind="policy", area="cluster", family="site_placement", cites=CITES,
    catalogue=(CNC, "geo-distributed / computing-power networks"), validated_by="closed_form",
)  # fmt: skip
class Locality:
    """The site nearest to the caller, whatever its load."""

    name: str

    def choose(self, call: Call, sites: Sequence[SiteView]) -> int:
        """By latency, the payload's transfer included."""
        return _best([(site.latency, site.load) for site in sites])


@register(
    "fastest", kind="policy", area="cluster", family="site_placement", cites=CITES,
    catalogue=(CNC, "heterogeneity"), validated_by="closed_form",
)  # fmt: skip
class FastestSite:
    """The site with the shortest expected response: way, cold start, queue and the speed of its hardware."""

    name: str

    def choose(self, call: Call, sites: Sequence[SiteView]) -> int:
        """By expected response."""
        return _best([(site.response(call),) for site in sites])


def _among_quick(call: Call, sites: Sequence[SiteView], slack: float) -> list[bool]:
    """Sites whose expected response, once warm, is at most ``slack`` times the shortest.

    A cold start does not count: it would keep a policy from a better site for good, because nobody else warms it.
    """
    expected = [site.steady(call) for site in sites]
    return [e <= slack * min(expected) * (1 + 1e-12) for e in expected]


@register(
    "cost", kind="policy", area="cluster", family="site_placement", cites=CITES,
    catalogue=(CNC, "latency and cost"), validated_by="closed_form",
)  # fmt: skip
class Cheapest:
    """The cheapest site for the call among those at most twice as slow as the fastest when warm."""

    name: str

    def __init__(self, slack: float = SLACK) -> None:
        self.slack = slack

    def choose(self, call: Call, sites: Sequence[SiteView]) -> int:
        """Price of the container over the whole call, a cold start included."""
        quick = _among_quick(call, sites, self.slack)
        usd = [s.price * (call.seconds * s.slowness + (0.0 if s.warm >= 1 else s.cold)) for s in sites]
        return _best([(not q, u, s.load) for q, u, s in zip(quick, usd, sites, strict=True)])


@register(
    "carbon", kind="policy", area="cluster", family="site_placement", cites=CITES,
    catalogue=(CNC, "energy / sustainability"), validated_by="closed_form",
)  # fmt: skip
class Greenest:
    """The site with the least carbon at this hour among those at most twice as slow as the fastest when warm."""

    name: str

    def __init__(self, slack: float = SLACK) -> None:
        self.slack = slack

    def choose(self, call: Call, sites: Sequence[SiteView]) -> int:
        """Carbon of the execution."""
        quick = _among_quick(call, sites, self.slack)
        grams = [s.carbon * call.seconds * s.slowness for s in sites]
        return _best([(not q, g, s.load) for q, g, s in zip(quick, grams, sites, strict=True)])
