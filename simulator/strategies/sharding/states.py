"""The one mechanism behind the ZeRO family: each state has its own group of ranks over which it is sharded.

Groups are nested neighbours on an axis of n replicas. With parameters over p, gradients over g and optimizer states
over o ranks (1 = whole on every rank) the communication follows:

* p > 1: gather the parameters over p before the forward and again before the backward of every micro-batch;
* g > 1: reduce-scatter the gradients over g after every micro-batch;
* once per step: reduce-scatter from g down to o, all-reduce over the n/o replicas, gather updates from o up to p.

DDP is (1, 1, 1), ZeRO-1 (1, 1, n), ZeRO-2 (1, n, n), ZeRO-3 (n, n, n), MiCS and hybrid sharding (s, s, s), PaRO any.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from simulator.strategies.protocols import PassStage
from simulator.strategies.sharding.by_parameter import (
    copied,
    gathered_again,
    messages_of_gathers,
    messages_of_reductions,
    named,
)
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import FLAT, Block, Collective, Op, OpKind, Phase, Stream, Tensor, TensorClass
from simulator.workload.plan import Plan, sub_axis
from simulator.workload.wire import PLAIN, Wire

__all__ = ["Groups", "ShardedStates", "collective", "refuse_pipeline"]


@dataclass(frozen=True, slots=True)
class Groups:
    """Ranks over which the states of one parameter group are sharded; 1 = whole on every rank.

    Attributes
    ----------
    parameter, gradient, optimizer
        Sizes p, g, o; ``gradient`` and ``parameter`` divide ``optimizer``.
    secondary
        Ranks over which the copy that the forward leaves for the backward is spread: 1 keeps it whole (no gather in
        the backward), 0 leaves none (the backward gathers over p again).
    """

    parameter: int
    gradient: int
    optimizer: int
    secondary: int = 0


def collective(
    name: str,
    kind: Collective,
    phase: Phase,
    axis: str,
    reads: tuple[Tensor, ...],
    writes: tuple[Tensor, ...],
    wire: Wire = PLAIN,
) -> Op:
    """A collective over data-parallel ranks, on a stream of its own."""
    return Op(
        name,
        OpKind.COLLECTIVE,
        phase,
        reads[0].dtype,
        reads,
        writes,
        collective=kind,
        axis=axis,
        stream=Stream.SCALE_OUT,
        wire=wire,
    )


def refuse_pipeline(plan: Plan, what: str) -> str:
    """Why shards that are gathered or reduced per micro-batch do not combine with a pipeline; empty without one."""
    if plan.pipeline_parallel == 1:
        return ""
    return (
        f"{what} with pipeline_parallel {plan.pipeline_parallel}: every micro-batch would reduce or gather each shard, "
        "and frameworks refuse it; use zero_stage 1, or pipeline_parallel 1"
    )


class ShardedStates(ABC):
    """Shards states by :class:`Groups` and adds the gathers and reductions they imply."""

    name: str
    stage = PassStage.STATE

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Empty, or why the groups do not work."""
        n = plan.mesh["dpcp"]
        sizes = self.groups(plan, "dpcp")
        asked = [v for k, v in plan.options if k.endswith("_group") and isinstance(v, int)]
        if wrong := [v for v in asked if v < 1 or n % v]:
            return (
                f"groups of {wrong[0]} ranks do not divide the {n} data-parallel ranks; sizes that do: {_divisors(n)}"
            )
        for small in (sizes.parameter, sizes.gradient):
            if sizes.optimizer % small:
                return (
                    f"optimizer states over {sizes.optimizer} ranks with parameters over {sizes.parameter} and "
                    f"gradients over {sizes.gradient}: it must be a multiple of both; use optimizer_group {n}"
                )
        return ""

    @abstractmethod
    def groups(self, plan: Plan, axis: str) -> Groups:
        """Sizes of the groups on ``axis`` (``dpcp``, or ``edp`` for routed experts)."""

    def wire(self, plan: Plan) -> Wire:
        """How parameter gathers travel."""
        return Wire()

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Shard the states and add the gathers and reductions."""
        parameters: dict[str, list[Tensor]] = {"dpcp": [], "edp": []}
        for parameter in block.parameters:
            parameters[_axis_of(parameter)].append(parameter)
        changed = replace(block, states=tuple(s for t in block.states for s in self.place(t, block, plan)))
        for axis, held in parameters.items():
            if held and plan.mesh[axis] > 1:
                gradients = tuple(t for t in block.states if _is_reduced(t) and _axis_of(t) == axis)
                changed = self._publish(changed, tuple(held), axis, plan)
                changed = self._gather(changed, tuple(held), axis, plan, framework)
                if gradients:
                    changed = self._reduce(changed, gradients, axis, plan, framework)
        return changed

    def place(self, tensor: Tensor, block: Block, plan: Plan) -> tuple[Tensor, ...]:
        """What resides of a state: its shard, and for parameters the copy kept for the backward."""
        axis = _axis_of(tensor)
        groups = self.groups(plan, axis)
        size = {
            TensorClass.PARAM: groups.parameter,
            TensorClass.GRAD: groups.gradient,
            TensorClass.OPTIM: groups.optimizer,
        }.get(tensor.cls, 1)
        shard = shard_over(tensor, plan, axis, 1, size)
        if tensor.cls is not TensorClass.PARAM or groups.parameter == 1 or not groups.secondary:
            return (shard,)
        copy = replace(tensor, name=f"{tensor.name}.secondary")
        return (shard, shard_over(copy, plan, axis, 1, groups.secondary))

    # -- communication -----------------------------------------------------------------------------------------------

    def _gather(self, block: Block, held: tuple[Tensor, ...], axis: str, plan: Plan, framework: Framework) -> Block:
        groups, n = self.groups(plan, axis), plan.mesh[axis]
        if groups.parameter == 1:
            return block
        assert n % groups.parameter == 0

        def gathers(ranks: int, phase: Phase, mark: str = "") -> tuple[Op, ...]:
            messages = messages_of_gathers(held, framework, plan.mesh)
            if messages == [held]:
                return self.gather_ops(block, held, axis, ranks, phase, plan)
            found: list[Op] = []
            for message in messages:
                made = named(self.gather_ops(block, message, axis, ranks, phase, plan), message, mark)
                found += [*made, *copied(made[-1], message, framework.message_copies_gather)]
            return tuple(found)

        forward = gathers(groups.parameter, Phase.FORWARD)
        again = groups.secondary or groups.parameter
        backward = gathers(again, Phase.BACKWARD) if again > 1 else ()
        if backward and gathered_again(held, framework, plan):
            backward = (*backward, *gathers(again, Phase.BACKWARD, ".again"))
        return replace(
            block,
            gather_forward=(*block.gather_forward, *forward),
            gather_backward=(*block.gather_backward, *backward),
        )

    def gather_ops(
        self, block: Block, held: tuple[Tensor, ...], axis: str, ranks: int, phase: Phase, plan: Plan
    ) -> tuple[Op, ...]:
        """Ops that make whole parameters from shards over ``ranks``."""
        shards = tuple(shard_over(t, plan, axis, 1, ranks) for t in held)
        name = f"{block.name}.param.all_gather{suffix(axis)}"
        over = sub_axis(axis, 1, ranks, plan.mesh[axis])
        return (collective(name, Collective.ALL_GATHER, phase, over, shards, held, self.wire(plan)),)

    def _reduce(
        self, block: Block, gradients: tuple[Tensor, ...], axis: str, plan: Plan, framework: Framework
    ) -> Block:
        groups, n = self.groups(plan, axis), plan.mesh[axis]
        g, o = groups.gradient, groups.optimizer
        each = self._scatter(block, gradients, axis, g, plan, framework) if g > 1 else ()
        once: list[Op] = []
        shards = tuple(shard_over(t, plan, axis, 1, g) for t in gradients)
        if o > g:
            fine = tuple(shard_over(t, plan, axis, g, o) for t in shards)
            name = f"{block.name}.grad.reduce_scatter{suffix(axis)}"
            once.append(
                collective(name, Collective.REDUCE_SCATTER, Phase.OPTIMIZER, sub_axis(axis, g, o, n), shards, fine)
            )
            shards = fine
        if n > o:
            name = f"{block.name}.grad.all_reduce{suffix(axis)}"
            once.append(
                collective(name, Collective.ALL_REDUCE, Phase.OPTIMIZER, sub_axis(axis, o, n, n), shards, shards)
            )
        return replace(block, reduce_each=(*block.reduce_each, *each), reduce=(*block.reduce, *once))

    def _scatter(
        self, block: Block, gradients: tuple[Tensor, ...], axis: str, ranks: int, plan: Plan, framework: Framework
    ) -> tuple[Op, ...]:
        messages = messages_of_reductions(gradients, framework, plan.mesh)
        if self.groups(plan, axis).parameter == 1 or messages == [gradients]:
            return self.scatter_ops(block, gradients, axis, ranks, plan)
        found: list[Op] = []
        for message in messages:
            made = named(self.scatter_ops(block, message, axis, ranks, plan), message)
            found += [*copied(made[0], message, framework.message_copies_reduce), *made]
        return tuple(found)

    def scatter_ops(
        self, block: Block, gradients: tuple[Tensor, ...], axis: str, ranks: int, plan: Plan
    ) -> tuple[Op, ...]:
        """Ops that reduce whole gradients to shards over ``ranks`` after every micro-batch."""
        shards = tuple(shard_over(t, plan, axis, 1, ranks) for t in gradients)
        name = f"{block.name}.grad.reduce_scatter_each{suffix(axis)}"
        over = sub_axis(axis, 1, ranks, plan.mesh[axis])
        return (collective(name, Collective.REDUCE_SCATTER, Phase.OPTIMIZER, over, gradients, shards),)

    def _publish(self, block: Block, held: tuple[Tensor, ...], axis: str, plan: Plan) -> Block:
        groups, n = self.groups(plan, axis), plan.mesh[axis]
        p, o = groups.parameter, groups.optimizer
        updated = tuple(t for t in held if t.trainable)
        if o <= p or not updated:
            return block
        coarse = tuple(shard_over(t, plan, axis, 1, p) for t in updated)
        fine = tuple(shard_over(t, plan, axis, p, o) for t in coarse)
        name = f"{block.name}.param.publish{suffix(axis)}"
        gather = collective(name, Collective.ALL_GATHER, Phase.OPTIMIZER, sub_axis(axis, p, o, n), fine, coarse)
        return replace(block, publish=(*block.publish, gather))


def shard_over(tensor: Tensor, plan: Plan, axis: str, inner: int, outer: int) -> Tensor:
    """``tensor`` as one flat buffer cut over the sub-axis from ``inner`` to ``outer``."""
    return tensor.sharded(FLAT, sub_axis(axis, inner, outer, plan.mesh[axis])) if outer > inner else tensor


def suffix(axis: str) -> str:
    """Marks collectives of routed experts."""
    return "" if axis == "dpcp" else ".experts"


def _axis_of(tensor: Tensor) -> str:
    return "edp" if "experts" in tensor.dim_names else "dpcp"


def _is_reduced(tensor: Tensor) -> bool:
    """Whether a state is the gradient that replicas reduce, not a half-precision copy or a bucket beside it."""
    return tensor.cls is TensorClass.GRAD and tensor.name.endswith(".grad")


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)
