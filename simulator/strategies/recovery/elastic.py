"""Recovery that goes on with fewer nodes: redundant stages, pipeline templates, morphing."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.registry import register
from simulator.strategies.cluster_protocols import JobFacts, Protection, Restoration
from simulator.strategies.recovery.checkpoint import copies_left
from simulator.workload.plan import Plan

__all__ = ["Bamboo", "Oobleck", "Varuna"]


@register(
    "bamboo", kind="policy", area="cluster", family="recovery", cites=("Thorpe et al., Bamboo, NSDI 2023",),
    catalogue=("Varuna, Bamboo, Oobleck",), validated_by="closed_form",
)  # fmt: skip
class Bamboo:
    """Every stage also computes the forward of its successor, inside the pipeline's bubble as far as it fits.

    A failed node's neighbour takes its stage over; two neighbouring losses fall back to the last checkpoint.
    """

    name: str

    FORWARD = 1.0 / 3.0
    """Share of the forward in a step: the backward has twice its FLOPs."""

    def check(self, plan: Plan) -> str:
        """A neighbour is needed."""
        if plan.pipeline_parallel < 2:
            return "bamboo keeps a stage's copy on its pipeline neighbour, but pipeline_parallel is 1"
        return ""

    def protect(self, job: JobFacts) -> Protection:
        """One more forward per stage, less what the bubble hides."""
        busy = 1.0 - job.bubble
        return Protection(slow_down=1.0 + max(0.0, self.FORWARD * busy - job.bubble))

    def restore(self, job: JobFacts, missing: Sequence[int]) -> Restoration:
        """The neighbour holds weights and states of two stages, and computes both: half the speed of its pipeline."""
        stages = job.plan.pipeline_parallel
        per_stage = max(1, job.nodes // stages)
        gone = set(missing)
        if any((p + per_stage) % job.nodes in gone for p in gone) or (job.nodes < stages and missing):
            return Restoration("storage")
        pipelines = {p % per_stage for p in gone}
        # Data-parallel pipelines wait for one another at the end of the step: the slowest sets the pace.
        return Restoration("step", waits=False, starts_again=False, speed=0.5 if pipelines else 1.0)


@register(
    "oobleck", kind="policy", area="cluster", family="recovery", cites=("Jang et al., Oobleck, SOSP 2023",),
    catalogue=("Varuna, Bamboo, Oobleck",), validated_by="closed_form",
)  # fmt: skip
class Oobleck:
    """Pipelines are made anew from templates planned ahead; missing layers come from the copies that are left."""

    name: str

    def check(self, plan: Plan) -> str:
        """Other pipelines must hold the state."""
        if plan.data_parallel < 2:
            return "oobleck takes lost layers from another pipeline, but data_parallel is 1"
        if plan.zero_stage >= 1:
            return f"zero_stage {plan.zero_stage} leaves one copy of the optimizer states only: use zero_stage 0"
        return ""

    def protect(self, job: JobFacts) -> Protection:
        """The copies are those of data parallelism."""
        return Protection()

    def restore(self, job: JobFacts, missing: Sequence[int]) -> Restoration:
        """Templates cover any number of nodes, so the speed falls with the nodes that are left."""
        speed = (job.nodes - len(missing)) / job.nodes
        if not copies_left(job, missing):
            return Restoration("storage", waits=not speed, speed=speed or 1.0)
        share = job.state * job.per_node / job.accelerators_per_replica
        return Restoration(
            "step", waits=False, starts_again=False, moves=share if missing else 0.0, speed=speed
        )  # fmt: skip


@register(
    "varuna", kind="policy", area="cluster", family="recovery", cites=("Athlur et al., Varuna, EuroSys 2022",),
    catalogue=("Varuna, Bamboo, Oobleck",), validated_by="closed_form",
)  # fmt: skip
class Varuna:
    """Job morphing: the layout is changed to what fits the nodes that are left, from the last checkpoint."""

    name: str

    def check(self, plan: Plan) -> str:
        """Any layout."""
        return ""

    def protect(self, job: JobFacts) -> Protection:
        """Checkpoints only."""
        return Protection()

    def restore(self, job: JobFacts, missing: Sequence[int]) -> Restoration:
        """The deepest useful pipeline depth, at least the one that fits in memory today."""
        left = (job.nodes - len(missing)) * job.per_node
        tensor = job.plan.tensor_parallel * job.plan.context_parallel
        depths = range(job.plan.pipeline_parallel, job.layers + 1)
        used = max((left // (tensor * p) * tensor * p for p in depths), default=0)
        if not used:
            return Restoration("storage")
        return Restoration("storage", waits=False, speed=min(1.0, used / job.plan.accelerators))
