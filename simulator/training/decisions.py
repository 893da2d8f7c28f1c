"""Decisions that need prices: a strategy that offers ``decide(view)`` settles its options once, before anything runs.

The result is a plan with the decisions in its options, so it can be printed, compared and run again as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from simulator.hardware.types import Cluster
from simulator.registry import lookup
from simulator.workload.jobs import TrainingJob
from simulator.workload.ops import Block, Mesh, Op, Tier
from simulator.workload.plan import Plan

if TYPE_CHECKING:
    from simulator.training.pipelined import PipelinedJob

__all__ = ["JobView", "settle"]


def settle(job: TrainingJob, cluster: Cluster) -> TrainingJob:
    """The job with the decisions of its strategies in the options of its plan; the same job where there are none."""
    for family, name in (("recompute", job.plan.recompute), ("offload", job.plan.offload)):
        if name == "none":
            continue
        decide = getattr(lookup(family, name)(), "decide", None)
        if decide is not None:
            options: Mapping[str, object] = decide(JobView(job, cluster))
            job = replace(job, plan=job.plan.with_(**options)) if options else job
    return job


class JobView:
    """What a deciding strategy may ask of the job it is for."""

    def __init__(self, job: TrainingJob, cluster: Cluster) -> None:
        self.job, self.cluster, self.plan = job, cluster, job.plan
        self.microbatches = job.batch.microbatches(job.plan)
        self._known: dict[Plan, PipelinedJob] = {}

    def _under(self, plan: Plan) -> PipelinedJob:
        from simulator.training.pipelined import PipelinedJob

        if plan not in self._known:
            self._known[plan] = PipelinedJob(replace(self.job, plan=plan), self.cluster, settled=True)
        return self._known[plan]

    @property
    def mesh(self) -> Mesh:
        """Axis sizes."""
        return self.plan.mesh

    @cached_property
    def layers_per_stage(self) -> int:
        """Layers of the fullest virtual stage."""
        return max(chunk.layer_count for chunk in self._under(self.plan).chunks)

    @cached_property
    def layers(self) -> tuple[Block, ...]:
        """The distinct layers as the other passes leave them."""
        chunks = self._under(self.plan).chunks
        return tuple({id(b): b for c in chunks for b, _ in c.blocks if b.name == "layer"}.values())

    def seconds(self, op: Op) -> float:
        """Time of an Op [s]."""
        return self._under(self.plan).pricer(0).price(op).priced.seconds

    def copy_seconds(self, size: float, tier: Tier = Tier.HOST) -> float:
        """Time of moving ``size`` bytes to a tier [s]; infinite where there is none."""
        return self._under(self.plan).pricer(0).tiers.copy(Tier.HBM, tier, size).seconds

    def pass_seconds(self, block: Block) -> tuple[float, float]:
        """Forward and backward of a layer [s]."""
        pricer = self._under(self.plan).pricer(0)
        return pricer.forward(block).seconds, pricer.backward(block).seconds

    def room(self, plan: Plan) -> float:
        """HBM left on the fullest rank under ``plan`` [B]; negative when it does not fit."""
        ledger = self._under(plan).memory()
        return min(s.capacity - s.peak for s in ledger.stages if s.tier is Tier.HBM)

    def activations(self, plan: Plan) -> float:
        """Peak of saved activations on the rank with the least room [B]."""
        stages = [s for s in self._under(plan).memory().stages if s.tier is Tier.HBM]
        return min(stages, key=lambda s: s.capacity - s.peak).by_class["activation"]
