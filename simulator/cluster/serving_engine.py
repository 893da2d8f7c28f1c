"""One kind of replica on the nodes it runs on: does it fit, what do iterations cost, what does it draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from simulator.cluster.economics import Bill, Draw, bill, mean_draw
from simulator.cluster.tenants import ClusterScenario
from simulator.network.built import never_blocks
from simulator.serving.estimate import ServingCost, estimate_deployment, replica_cost, typical_batch
from simulator.serving.limits import EngineLimits
from simulator.serving.memory import cache_size
from simulator.serving.setup import engine_limits
from simulator.serving.usage import ReplicaUsage
from simulator.workload.jobs import Deployment

__all__ = ["Engine", "engines_of", "joint_bill"]


class Engine:
    """Equal replicas of a deployment, of which one is priced.

    Parameters
    ----------
    deployment
        The whole deployment, or one of its parts.
    scenario, first
        Where it runs: number of its first replica.
    """

    def __init__(self, deployment: Deployment, scenario: ClusterScenario, first: int = 0) -> None:
        self.deployment, self.first = deployment, first
        self.cluster = scenario.cluster_of(deployment.name, first)
        # The part of the cluster handed in holds one replica; feasibility of one is feasibility of all.
        self.estimate = estimate_deployment(replace(deployment, replicas=1), self.cluster, "step")
        self.cache = cache_size(deployment, self.cluster.groups[0].node) if self.estimate.feasible else None

    @property
    def spans_domains(self) -> bool:
        """Whether a replica sends messages from one scale-up domain to another."""
        return self.deployment.plan.accelerators > self.cluster.groups[0].node.scale_up.domain

    @property
    def on_blocking_links(self) -> bool:
        """Whether a replica sends over links between nodes that can be narrower than its ports."""
        return self.spans_domains and not never_blocks(self.cluster)

    @property
    def replicas(self) -> range:
        """Their numbers in the whole deployment."""
        return range(self.first, self.first + self.deployment.replicas)

    @cached_property
    def cost(self) -> ServingCost:
        """Iteration times."""
        return replica_cost(self.deployment, self.cluster)

    @cached_property
    def limits(self) -> EngineLimits:
        """Sizes of the engine."""
        assert self.cache is not None
        return engine_limits(self.deployment, self.cache, self.cluster.groups[0].node)

    def bill(self, usage: Sequence[ReplicaUsage], rented: float, end: float, share: float = 1.0) -> Bill:
        """Energy and money of these replicas over ``rented`` replica seconds up to ``end`` [s], idle ones included."""
        d, busy = self.deployment, sum(r.busy_time for r in usage)
        energy = self._draw(usage, busy).energy(busy, max(0.0, rented - busy))
        return bill(d.name, self.cluster, d.plan.accelerators, rented, energy, share, (0.0, end))

    def _draw(self, usage: Sequence[ReplicaUsage], busy: float) -> Draw:
        d, cost = self.deployment, self.cost
        assert self.cache is not None
        device = self.cluster.groups[0].node.accelerator
        batch = typical_batch(d, self.cache)
        tokens = sum(r.prefill_tokens + r.decode_tokens for r in usage)
        flops = tokens * cost.flops(batch) / batch.tokens / cost.stages
        weights_and_cache = sum(r.iterations for r in usage) * cost.traffic(batch)["hbm"] / cost.stages
        compute = flops / busy / device.peak(d.plan.precision) if busy else 0.0
        memory = weights_and_cache / busy / device.memory_bandwidth if busy else 0.0
        return mean_draw(self.cluster, d.plan.accelerators, compute, memory)


def engines_of(deployment: Deployment, scenario: ClusterScenario) -> tuple[Engine, ...]:
    """One per part of the deployment, in the order of its replicas."""
    found: list[Engine] = []
    first = 0
    for part in deployment.parts:
        found.append(Engine(part, scenario, first))
        first += part.replicas
    return tuple(found)


def joint_bill(bills: Sequence[Bill]) -> Bill:
    """All bills of one deployment together, item by item."""
    if len(bills) == 1:
        return bills[0]
    usd, low, high, energy, carbon = (
        sum(getattr(b, key) for b in bills) for key in ("usd", "low", "high", "energy", "carbon")
    )
    return Bill(usd, low, high, energy, carbon, tuple(item for b in bills for item in b.items))
