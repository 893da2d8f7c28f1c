"""SpotServe's changes of the plan, and the two baselines of its evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.registry import Claim, register
from simulator.strategies.replanning.base import Layout

__all__ = ["Reroute", "Restart", "SpotServeReplanner"]

_PAPER = "Miao et al. 2024 (SpotServe), ASPLOS, arXiv 2311.15566"


def _adaptive(layouts: Sequence[Layout], rate: float) -> Layout | None:
    """The lowest latency among those that keep up with ``rate`` [requests/s], else the highest throughput."""
    enough = [layout for layout in layouts if layout.throughput >= rate]
    if enough:
        return min(enough, key=lambda layout: (layout.latency, layout.accelerators))
    return max(layouts, key=lambda layout: (layout.throughput, -layout.latency), default=None)


@register(
    "spotserve",
    kind="policy",
    area="serving",
    family="replanning",
    cites=(_PAPER,),
    catalogue=("SpotServe",),
    claims=(
        Claim(
            "P99 latency 2.4 to 9.1 times lower than rerouting or reparallelisation with a restart, OPT-6.7B to "
            "LLaMA-30B on up to 12 instances of 4 T4 under two traces of preemptions; the order is tested",
            "arXiv 2311.15566, abstract; github.com/Hsword/SpotServe elastic-switch",
        ),
    ),
    validated_by="ratio",
)
class SpotServeReplanner:
    """The best plan for the machines left, with weights, keys and values carried over within the grace."""

    name: str
    carries = True
    spares = True

    def choose(self, layouts: Sequence[Layout], rate: float, current: Layout | None) -> Layout | None:
        """See :class:`~simulator.strategies.replanning.base.Replanner`; the paper's algorithm 1."""
        return _adaptive(layouts, rate)


@register(
    "restart",
    kind="policy",
    area="serving",
    family="replanning",
    cites=(_PAPER + ", baseline 'reparallelization'",),
    catalogue=("SpotServe",),
    validated_by="ratio",
)
class Restart(SpotServeReplanner):
    """The best plan for the machines left; everything stops, loads its weights anew and begins again."""

    carries = False
    spares = False


@register(
    "reroute",
    kind="policy",
    area="serving",
    family="replanning",
    cites=(_PAPER + ", baseline 'rerouting'",),
    catalogue=("SpotServe",),
    validated_by="ratio",
)
class Reroute:
    """The first plan for good: pipelines that lose a machine are dropped, whole new ones load their weights."""

    name: str
    carries = False
    spares = True

    def choose(self, layouts: Sequence[Layout], rate: float, current: Layout | None) -> Layout | None:
        """See :class:`~simulator.strategies.replanning.base.Replanner`."""
        if current is None:
            return _adaptive(layouts, rate)
        return next((layout for layout in layouts if layout.shape == current.shape), None)
