"""One iteration of reinforcement learning: generate, score, update, and bring the new weights to the engine.

The stages are those of HybridFlow (arXiv 2409.19256): generation by a serving engine, preparation by forward passes,
training. Each is priced by the part of the simulator it belongs to: generation runs on the serving clock until its
longest answer is done, scoring and update are pipelines of the training job, and weights change layout over the
network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from simulator.cost.network import CommGroup
from simulator.hardware.types import Cluster, Node
from simulator.registry import lookup
from simulator.results.estimate import Estimate, MemoryLedger, TimeBreakdown, Traffic
from simulator.serving.estimate import check_deployment, replica_cost
from simulator.serving.memory import cache_size
from simulator.serving.setup import engine_limits, policies
from simulator.serving.simulate import simulate_deployment
from simulator.strategies.rollout.methods import RolloutMethod
from simulator.training.nearest import nearest_fit
from simulator.training.step import estimate_step
from simulator.workload.counting import parameters
from simulator.workload.dims import DTYPE_BYTES
from simulator.workload.jobs import Deployment, TrainingJob
from simulator.workload.ops import Collective, OpKind, TensorClass, Tier, Work
from simulator.workload.rollout import Rollout

if TYPE_CHECKING:
    from simulator.training.pipelined import PipelinedJob

__all__ = ["estimate_job"]

STATES = (TensorClass.PARAM, TensorClass.GRAD, TensorClass.OPTIM)


def estimate_job(
    job: TrainingJob, cluster: Cluster, depth: Literal["estimate", "step"] = "step", *, with_interval: bool = True
) -> Estimate:
    """Time, memory and traffic of one step of any training job, generation included where it has one.

    An iteration with generation has no interval, nor has a step ``with_interval`` false.
    """
    if job.rollout is None:
        update = estimate_step(job, cluster, depth, with_interval)
    else:
        update = estimate_step(job, cluster, "step", with_interval=False)
    if not update.feasible:
        fits = nearest_fit(job, cluster) if update.reason.startswith("out of memory") else ""
        return replace(update, reason=f"{update.reason}; the nearest plan that fits: {fits}") if fits else update
    if job.rollout is None:
        return update
    answer = _Iteration(job, job.rollout, cluster, update).estimate()
    return replace(answer, depth=depth) if answer.feasible else answer


@dataclass(frozen=True)
class _Iteration:
    """One iteration of ``job``; ``update`` is its training step alone."""

    job: TrainingJob
    rollout: Rollout
    cluster: Cluster
    update: Estimate

    def estimate(self) -> Estimate:
        """The iteration, or why the engine cannot generate."""
        memory = self._memory()
        if not memory.fits:
            return self._refused(memory.reason(), memory)
        deployment, node = self._engine(), self._node
        cache = cache_size(deployment, node)
        reasons = check_deployment(deployment, self.cluster) or ([cache.reason] if cache.reason else [])
        if reasons:
            return self._refused("generation: " + "; ".join(reasons) + self._cure(), cache.ledger)
        generation = self._generation(deployment)
        scoring = self._method.scoring_passes * self._scoring_pass()
        training = self._method.updated_models * self.update.seconds
        moving, moved = self._weights()
        parts = self._parts(generation, scoring, training, moving)
        seconds = sum(parts.values())
        tokens = float(deployment.requests.output_tokens.sum())
        metrics = {
            **{k: v for k, v in self.update.metrics.items() if not k.startswith("bubble")},
            "rollout_time": generation, "scoring_time": scoring, "update_time": training, "resharding_time": moving,
            "generated_tokens_per_s": tokens / seconds,
        }  # fmt: skip
        scale = self.update.seconds / seconds  # utilisation and rates of the update, spread over the iteration
        rates = ("mfu", "mfu_causal", "hfu", "tokens_per_s", "tokens_per_s_per_accelerator",
                 "model_tflops_per_accelerator")  # fmt: skip
        metrics |= {name: metrics[name] * scale for name in rates if name in metrics}
        metrics["step_time"] = seconds
        if "time_to_train" in metrics:
            metrics["time_to_train"] = metrics["steps_needed"] * seconds
        return replace(
            self.update, seconds=seconds, time=TimeBreakdown(parts), memory=memory,
            traffic=self.update.traffic.scaled(self._method.updated_models) + Traffic(moved), interval=None,
            metrics=metrics, warnings=(*self.update.warnings, *self._notes()),
        )  # fmt: skip

    def _memory(self) -> MemoryLedger:
        """The update's, with the states of every model that learns and the weights of those that only score."""
        learning, frozen = self._method.updated_models, self._method.scoring_passes - self._method.updated_models
        copies = {TensorClass.PARAM.value: learning + frozen}
        copies |= {cls.value: learning for cls in (TensorClass.GRAD, TensorClass.OPTIM)}
        stages = tuple(
            replace(s, by_class={k: copies.get(k, 1) * v for k, v in s.by_class.items()})
            for s in self.update.memory.stages
        )
        return MemoryLedger(stages)

    def _parts(self, generation: float, scoring: float, training: float, moving: float) -> dict[str, float]:
        """Seconds of the iteration; a generation that runs ahead hides under the rest, or the rest under it."""
        if self.rollout.lag == 0:
            return {"generation": generation, "scoring": scoring, "update": training, "resharding": moving}
        exposed = max(0.0, generation - scoring - training)
        return {"generation": exposed, "scoring": scoring, "update": training, "resharding": moving}

    # -- generation --------------------------------------------------------------------------------------------------

    @property
    def _method(self) -> RolloutMethod:
        method: RolloutMethod = lookup("rollout", self.rollout.method)()
        return method

    @property
    def _node(self) -> Node:
        groups = self.cluster.groups
        return groups[-1].node if self.rollout.placement == "disaggregated" else groups[0].node

    def _engine(self) -> Deployment:
        """The engine with the memory that training leaves it."""
        deployment = self.rollout.deployment
        if self.rollout.placement == "disaggregated" or self.rollout.offload:
            return deployment
        share = self._states / self._node.accelerator.memory_usable
        return replace(deployment, memory_utilization=max(0.01, deployment.memory_utilization - share))

    @property
    def _states(self) -> float:
        """Model states in the HBM of the fullest rank while it trains [B]."""
        hbm = (s.by_class for s in self._memory().stages if s.tier is Tier.HBM)
        return max(sum(held.get(cls.value, 0.0) for cls in STATES) for held in hbm)

    def _generation(self, deployment: Deployment) -> float:
        """Until the last answer is done [s]."""
        node = self._node
        limits = engine_limits(deployment, cache_size(deployment, node), node)
        run = simulate_deployment(
            deployment.requests, replica_cost(deployment, self.cluster, node), kv_blocks=limits.kv_blocks,
            block_size=limits.block_size, replicas=deployment.replicas, max_num_seqs=limits.max_num_seqs,
            max_num_batched_tokens=limits.max_num_batched_tokens, max_model_len=limits.max_model_len,
            pipeline_stages=limits.pipeline_stages, **policies(deployment, 0),
        )  # fmt: skip
        return float(np.nanmax(run.finish))

    # -- the other stages --------------------------------------------------------------------------------------------

    @property
    def _pipeline(self) -> PipelinedJob:
        pipeline: PipelinedJob = self.update.details["pipeline"]
        return pipeline

    def _scoring_pass(self) -> float:
        """A forward pass of all sequences through the training layout: fill, then the slowest stage [s]."""
        pipeline = self._pipeline
        stages = np.zeros(pipeline.ranks)
        for rank in range(pipeline.ranks):
            stages[rank] = sum(pipeline.forward_times[p].seconds for p in pipeline.work_of(rank))
        return float(stages.sum() - stages.max() + pipeline.microbatches * stages.max())

    def _weights(self) -> tuple[float, dict[str, float]]:
        """Seconds and bytes per accelerator of bringing new weights to the engine, and states out of its way.

        Colocated: every rank gathers its part of the engine's layout from the ranks that hold the rest of it.
        Disaggregated: the part travels over the NIC of the accelerator that needs it.
        """
        engine, plan, pipeline = self.rollout.deployment.plan, self.job.plan, self._pipeline
        need = parameters(self.job.model) * DTYPE_BYTES["bf16"] / (engine.tensor_parallel * engine.pipeline_parallel)
        pricer = pipeline.pricer(0)
        if self.rollout.placement == "disaggregated":
            work = Work(OpKind.P2P, "bf16", collective=Collective.SEND_RECV.value, message=need, ranks=2)
            seconds = pricer.network.price(work, CommGroup(2, 1, 2)).seconds
            return seconds, {"scale_out": need}
        held = plan.tensor_parallel * plan.pipeline_parallel * (plan.mesh["dpcp"] if plan.zero_stage == 3 else 1)
        ranks = max(1, held // (engine.tensor_parallel * engine.pipeline_parallel))
        inside = math.gcd(ranks, self._node.accelerators)
        group = CommGroup(ranks, inside, ranks // inside)
        work = Work(
            OpKind.COLLECTIVE, "bf16", collective=Collective.ALL_GATHER.value, message=need, axis="pp", ranks=ranks
        )
        seconds = pricer.network.price(work, group).seconds if ranks > 1 else 0.0
        moved = pricer.layout.wire_bytes(Collective.ALL_GATHER, need, group) if ranks > 1 else {}
        copies = 0.0
        if self.rollout.offload:
            copies = self._states
            seconds += pricer.tiers.copy(Tier.HBM, Tier.HOST, copies).seconds
            seconds += pricer.tiers.copy(Tier.HOST, Tier.HBM, copies).seconds
        return seconds, {**moved, "host": 2 * copies}

    # -- words -------------------------------------------------------------------------------------------------------

    def _notes(self) -> tuple[str, ...]:
        notes = [
            f"rollout: {self._method.scoring_passes} scoring passes and {self._method.updated_models} updated models, "
            "all of the actor's size; each iteration updates once; samples of one prompt do not share its cache",
            "rollout: bytes are those of the update and of moving weights, and no interval is given: those of the "
            "generation are not part of it",
        ]
        if self.rollout.lag:
            notes.append(
                f"rollout: answers come from weights {self.rollout.lag} update old; tokens to a target are those of "
                "synchronous training unless goal.extra_tokens says otherwise"
            )
        if self.rollout.placement == "colocated" and self.rollout.offload:
            notes.append("rollout: training states leave to host memory while the engine generates, and come back")
        return tuple(notes)

    def _cure(self) -> str:
        if self.rollout.placement == "colocated" and not self.rollout.offload:
            return "; set rollout.offload true, or shard the training states (zero_stage)"
        return "; use a larger rollout.plan.tensor_parallel"

    def _refused(self, reason: str, memory: MemoryLedger) -> Estimate:
        empty: dict[str, Any] = {}
        return Estimate(
            self.update.depth, math.nan, math.nan, TimeBreakdown(empty), memory, Traffic(empty), feasible=False,
            reason=reason,
        )  # fmt: skip
