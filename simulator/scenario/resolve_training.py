"""Training jobs of a scenario: plans filled in, checked against cluster, model and batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from simulator import registry
from simulator.errors import did_you_mean
from simulator.hardware.types import Cluster
from simulator.scenario import checks
from simulator.scenario.deployments import (
    frozen,
)
from simulator.scenario.resolve_base import Loc, ResolverBase
from simulator.scenario.resolve_goal import goal_of
from simulator.scenario.resolve_rollout import generating_accelerators, rollout_of
from simulator.scenario.resolve_stages import range_problems, stage_problems, stages_of, with_degrees
from simulator.scenario.spec import PlanSpec, TrainingSpec
from simulator.strategies.options import unknown_options
from simulator.workload.framework import Framework
from simulator.workload.jobs import Batch, Checkpoint, TrainingJob
from simulator.workload.model import ModelSpec
from simulator.workload.plan import Plan
from simulator.workload.rollout import Rollout

if TYPE_CHECKING:
    pass

__all__ = ["TrainingResolver"]


FAMILIES = ("tensor", "context", "expert", "sharding", "peft")
"""Keys of a training plan that name a strategy and travel as an option of the plan."""


class TrainingResolver(ResolverBase):
    """Builds training jobs."""

    def _training(
        self, spec: TrainingSpec, loc: Loc, cluster: Cluster | None, spare: int, alone: bool
    ) -> TrainingJob | None:
        model, framework = self._software(spec, loc, "training")
        unsure = cluster is None or self._tainted((*loc, "plan"), (*loc, "nodes"))
        given, where = self._room(spec, cluster, spare, alone)
        per_node = cluster.groups[0].node.accelerators if cluster is not None else 1
        plan = _training_plan(spec.plan, framework, given)
        if plan is None:
            if spec.plan.stages and not unsure:
                self._error((*loc, "plan", "stages"), f"no data_parallel of the stages that name none fits: {where}")
                return None
            axes = ("tensor_parallel", "pipeline_parallel", "context_parallel")
            sizes = {axis: int(getattr(spec.plan, axis)) for axis in axes}
            rest = math.prod(sizes.values())
            if not unsure:
                self._error(
                    (*loc, "plan"),
                    f"one data-parallel replica takes {rest} accelerators, which do not divide {given}: {where}"
                    f"{checks.nearest_degrees(sizes, given)}",
                )
            return None
        for name, message in unknown_options(plan):
            self._error((*loc, "plan", "options", name), message)
        batch = Batch(spec.batch.global_batch_size, spec.batch.micro_batch_size, spec.batch.sequence_length)
        shares = not alone and spec.nodes is None and plan.accelerators <= given
        if plan.stages:
            self._report(loc, range_problems(spec.plan.stages))
        if not unsure and not plan.stages:
            if not shares:
                self._report(loc, checks.check_degrees(plan, given, where))
            self._report(loc, checks.check_model(plan, model))
        if not unsure and not self._tainted((*loc, "batch")):
            problems = list(checks.check_batch(plan, batch, model))
            if plan.stages and cluster is not None and not self._tainted((*loc, "plan")):
                one = TrainingJob(spec.training, model, framework, batch, plan)
                self._report(loc, stage_problems(one, cluster, given, where, shares))
            self._report(loc, problems)
            if not problems:
                self._report(loc, checks.check_schedule(plan, batch.microbatches(plan)))
        checkpoint = self._checkpoint(spec, loc, cluster)
        recovery: Any = registry.lookup("recovery", spec.recovery)()
        if not unsure and self.spec.failures is not None and (reason := recovery.check(plan)):
            self._error((*loc, "recovery"), reason)
        goal = goal_of(spec.goal, lambda path, message: self._error((*loc, "goal", *path), message))
        rollout = self._rollout(spec, loc, model, batch, plan.accelerators, per_node)
        return TrainingJob(
            spec.training,
            model,
            framework,
            batch,
            plan,
            spec.steps,
            spec.start,
            checkpoint,
            spec.recovery,
            goal,
            rollout,
        )

    def _room(self, spec: TrainingSpec, cluster: Cluster | None, spare: int, alone: bool) -> tuple[int, str]:
        """Accelerators that train, and in words where they come from.

        Beside other workloads a job with all degrees written takes what they ask for; alone it must use the cluster.
        """
        given, where = spare, f"{max(0, spare)} are free for it"
        if cluster is not None and spec.nodes is not None:
            per_node = cluster.groups[0].node.accelerators
            given = spec.nodes * per_node
            where = f"the job has {spec.nodes} nodes × {per_node} = {given}"
        elif cluster is not None and alone:
            groups = " + ".join(f"{g.count} nodes × {g.node.accelerators}" for g in cluster.groups)
            where = f"the cluster has {groups} = {given}"
        apart = generating_accelerators(spec.rollout, cluster.groups[-1].node.accelerators if cluster else 1)
        return (given - apart, f"{where}, {apart} of them generate") if apart else (given, where)

    def _rollout(
        self, spec: TrainingSpec, loc: Loc, model: ModelSpec, batch: Batch, training: int, per_node: int
    ) -> Rollout | None:
        if spec.rollout is None or self._tainted((*loc, "rollout"), (*loc, "batch")):
            return None
        from simulator.workload.framework_files import load_framework

        engine: Framework = self._load(loc, "workloads/frameworks", spec.rollout.framework, load_framework)
        return rollout_of(
            spec.rollout, model, engine, batch, training, per_node, self.spec.seed,
            lambda path, message: self._error((*loc, "rollout", *path), message),
        )  # fmt: skip

    def _checkpoint(self, spec: TrainingSpec, loc: Loc, cluster: Cluster | None) -> Checkpoint | None:
        if spec.checkpoint is None:
            return None
        tiers = [s.name for s in cluster.storage] if cluster else []
        to = spec.checkpoint.to
        if tiers and to not in (*tiers, "nvme"):
            hint = did_you_mean(to, [*tiers, "nvme"]) or f"known: {', '.join([*tiers, 'nvme'])}"
            self._error((*loc, "checkpoint", "to"), f"the cluster has no storage '{to}', {hint}")
        return Checkpoint(spec.checkpoint.every, to, spec.checkpoint.mode)


def _training_plan(spec: PlanSpec, framework: Framework, given: int) -> Plan | None:
    """The plan with what was left out filled in; ``None`` when no data-parallel degree fits the accelerators."""
    rest = spec.tensor_parallel * spec.context_parallel * spec.pipeline_parallel
    data_parallel = spec.data_parallel
    stages = stages_of(spec.stages)
    if stages and data_parallel is None:
        filled = with_degrees(spec.tensor_parallel, spec.context_parallel, stages, given)
        if not filled:
            return None
        data_parallel = max(stage.data_parallel or 1 for stage in filled)
        stages = tuple(s if f.data_parallel == data_parallel else f for s, f in zip(stages, filled, strict=True))
    elif data_parallel is None:
        if given < rest or given % rest:
            return None
        data_parallel = given // rest
    zero = framework.distributed_optimizer_default if spec.zero_stage is None else spec.zero_stage
    chosen = {family: name for family in FAMILIES if (name := getattr(spec, family)) is not None}
    if spec.communication:
        chosen["communication"] = "+".join(spec.communication)
    pipeline_parallel, virtual_stages = spec.pipeline_parallel, spec.virtual_stages
    if stages and "pipeline_parallel" not in spec.model_fields_set:
        pipeline_parallel = len(stages)
    if stages and "virtual_stages" not in spec.model_fields_set:
        virtual_stages = max(len(stage.layers) for stage in stages)
    schedule = spec.schedule or ("interleaved-1f1b" if virtual_stages > 1 else "1f1b")
    return Plan(
        tensor_parallel=spec.tensor_parallel, context_parallel=spec.context_parallel,
        pipeline_parallel=pipeline_parallel, data_parallel=data_parallel, expert_parallel=spec.expert_parallel,
        sequence_parallel=spec.sequence_parallel, virtual_stages=virtual_stages, schedule=schedule,
        zero_stage=zero, recompute=spec.recompute, precision=spec.precision, offload=spec.offload,
        options=frozen({**spec.options, **chosen}), stages=stages,
    )  # fmt: skip
