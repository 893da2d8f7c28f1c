"""Training over slow links: replicas step on their own and meet every H steps."""

from __future__ import annotations

from dataclasses import replace

from simulator.registry import register
from simulator.strategies.communication.base import CommunicationPass, gradient_reductions, number, positive_options
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import FLAT, Block, Collective, Op, OpKind, Phase, Stream, Tensor, TensorClass
from simulator.workload.plan import Plan, base_axis, sub_axis
from simulator.workload.wire import Wire

__all__ = ["DiLoCo", "LocalSteps"]


@register(
    "local-steps",
    kind="pass",
    area="training",
    family="communication",
    cites=("Stich 2019 (Local SGD), arXiv 1805.09767", "Yuan et al. 2022 (DT-FM), arXiv 2206.01288"),
    catalogue=("Decentralised/WAN (DT-FM, SWARM, Petals)",),
    validated_by="closed_form",
)
class LocalSteps(CommunicationPass):
    """Replicas average every ``local_steps`` = H steps; islands of ``local_group`` ranks stay synchronous in between.

    H = 1 is synchronous training. The step time is the mean over H steps.
    """

    changes = "period"
    quality = "replicas drift apart between averages: the loss per token depends on local_steps and must be checked"
    outer_states: tuple[str, ...] = ()

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """States may be sharded inside an island only."""
        if plan.zero_stage or plan.option("sharding", "zero") != "zero":
            return (
                f"{self.name}: replicas differ between averages, states cannot be sharded across them: use zero_stage 0"
            )
        group = plan.option("local_group", 1)
        if not isinstance(group, int) or group < 1 or plan.mesh["dpcp"] % group:
            return f"local_group {group!r} does not divide the {plan.mesh['dpcp']} data-parallel ranks"
        return positive_options(plan, {"local_steps": (1, 1, 1e9)})

    def notes(self, plan: Plan) -> tuple[str, ...]:
        """None where every step synchronises."""
        return super().notes(plan) if number(plan, "local_steps", 1) > 1 else ()

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """All-reduce inside the island in every step, across islands now and then."""
        every = int(number(plan, "local_steps", 1))

        def change(op: Op) -> tuple[Op, ...]:
            axis, n = base_axis(op.axis), plan.mesh[op.axis]
            if op.collective is not Collective.ALL_REDUCE or axis != op.axis:
                return (op,)
            g = plan.group_size("local_group", axis, 1)
            far = replace(op, axis=sub_axis(axis, g, n, n), wire=replace(op.wire, every=every))
            if g == 1:
                return (far, *self._outer_update(op, every))
            # Inside the island: reduce-scatter, exchange of the shards across islands, all-gather.
            near = sub_axis(axis, 1, g, n)
            shards = tuple(t.sharded(FLAT, near) for t in op.reads)
            scatter = replace(
                op, name=f"{op.name}.scatter", collective=Collective.REDUCE_SCATTER, axis=near, writes=shards
            )
            join = replace(op, name=f"{op.name}.join", collective=Collective.ALL_GATHER, axis=near, reads=shards)
            across = replace(far, name=f"{op.name}.across", reads=shards, writes=shards)
            return (scatter, across, join, *self._outer_update(op, every)) if n > g else (scatter, join)

        changed = gradient_reductions(block, change)
        held = [t for t in block.states if t.cls is TensorClass.GRAD]
        return replace(
            changed, states=(*changed.states, *(self._outer(t, name) for t in held for name in self.outer_states))
        )

    def _outer_update(self, op: Op, every: int) -> tuple[Op, ...]:
        """The outer optimizer where replicas meet: it reads and writes their mean and its own states."""
        states = tuple(self._outer(t, name) for t in op.reads for name in self.outer_states)
        if not states:
            return ()
        return (
            Op(
                f"{op.name}.outer", OpKind.ELEMENTWISE, Phase.OPTIMIZER, "fp32", (*op.reads, *states),
                (*op.reads, *states), stream=Stream.COMPUTE, wire=Wire(every=every),
            ),
        )  # fmt: skip

    def _outer(self, gradient: Tensor, name: str) -> Tensor:
        return replace(gradient, name=f"{gradient.name}.{name}", dtype="fp32")


@register(
    "diloco",
    kind="pass",
    area="training",
    family="communication",
    cites=("Douillard et al. 2023 (DiLoCo), arXiv 2311.08105",),
    catalogue=("Decentralised/WAN (DT-FM, SWARM, Petals)",),
    validated_by="closed_form",
)
class DiLoCo(LocalSteps):
    """Local steps with an outer Nesterov optimizer: a copy of the last meeting's parameters and a momentum, in fp32."""

    quality = (
        "8 workers match synchronous training on C4 in its own experiments (arXiv 2311.08105 abstract); "
        "larger counts and models must be checked"
    )
    outer_states = ("outer_parameter", "outer_momentum")
