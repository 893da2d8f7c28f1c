"""One kind of replica on the nodes it runs on: does it fit, what do iterations cost, what does it draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from simulator.cluster.economics import Bill, Draw, bill, mean_draw
from simulator.cluster.tenants import ClusterScenario
from simulator.network.built import never_blocks
from simulator.serving.estimate import ServingCost, estimate_deployment, replica_cost, typical_batch
from simulator.serving.front_end import FrontEnd, front_end_of
from simulator.serving.limits import EngineLimits
from simulator.serving.memory import cache_size
from simulator.serving.setup import engine_limits
from simulator.serving.usage import Progress, ReplicaUsage
from simulator.strategies.protocols import BatchShape
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
        self.cluster = scenario.cluster_of(deployment.name, deployment.home(first))
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

    def front_end(self, replicas: int) -> FrontEnd | None:
        """What is in front of so many replicas, on the hosts of these nodes."""
        d = self.deployment
        return front_end_of(d.framework, replicas, d.renders_chats, self.cluster.groups[0].node.host_speed)

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

    def bill(
        self, usage: Sequence[ReplicaUsage], rented: float, end: float, share: float = 1.0,
        dynamic: float | None = None,
    ) -> Bill:  # fmt: skip
        """Energy and money of these replicas over ``rented`` replica seconds up to ``end`` [s], idle ones included.

        ``dynamic``: what their devices drew beyond idling [J], where it was metered.
        """
        d, busy = self.deployment, sum(r.busy_time for r in usage)
        draw = self._draw(usage, busy)
        if dynamic is None:
            energy = draw.energy(busy, max(0.0, rented - busy))
        else:
            energy = draw.metered(rented, dynamic, self.cluster.site.pue)
        return bill(d.name, self.cluster, d.plan.accelerators, rented, energy, share, (0.0, end))

    def _draw(self, usage: Sequence[ReplicaUsage], busy: float) -> Draw:
        done = Progress(*(sum(column) for column in zip(*(r.progress for r in usage), strict=True)))
        return mean_draw(self.cluster, self.deployment.plan.accelerators, *self.shares(done))

    def shares(self, done: Progress) -> tuple[float, float]:
        """Shares of the peak FLOP/s and of the memory bandwidth in use while replicas did this."""
        d, cost = self.deployment, self.cost
        if not done.busy or not done.iterations:
            return 0.0, 0.0
        device = self.cluster.groups[0].node.accelerator
        batch = self._mean_iteration(done)
        per_second = done.iterations / cost.stages / done.busy
        flops = cost.flops(batch)
        if batch is self._typical:
            flops *= (done.prefill_tokens + done.decode_tokens) / done.iterations / batch.tokens
        compute = per_second * flops / device.peak(d.plan.precision)
        return compute, per_second * cost.traffic(batch)["hbm"] / device.memory_bandwidth

    @cached_property
    def _typical(self) -> BatchShape:
        """A full batch."""
        assert self.cache is not None
        return typical_batch(self.deployment, self.cache)

    @property
    def full(self) -> Progress:
        """One iteration of a full engine."""
        batch = self._typical
        blocks, seconds = batch.decode_context / self.deployment.block_size, self.cost.iteration(batch)
        return Progress(seconds, 1.0, batch.tokens - batch.decodes, batch.decodes, blocks * seconds)

    def _mean_iteration(self, done: Progress) -> BatchShape:
        """Tokens, sequences and context of the mean iteration; what is no plain decoder runs full batches."""
        d = self.deployment
        if not d.model.is_decoder or d.model.encoder is not None or d.denoising is not None:
            return self._typical
        prompt, decodes = (round(n / done.iterations) for n in (done.prefill_tokens, done.decode_tokens))
        if not prompt and not decodes:
            decodes = 1
        context = round(done.kv_block_time / done.busy * d.block_size) if decodes else 0
        ranks = min(d.plan.data_parallel, prompt)  # each has its own requests
        chunks = ((round(prompt / ranks), 0),) * ranks if prompt else ()
        return BatchShape(chunks, decodes, max(context, decodes), max(1, context // max(decodes, 1)))


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
