"""Recomputation by position in the stage: Megatron's uniform and block methods, √l segments, binomial checkpointing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from simulator.registry import Claim, register
from simulator.strategies.protocols import PassStage
from simulator.strategies.recompute.dropping import again
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Dim, Op, TensorClass
from simulator.workload.plan import Plan

__all__ = ["EveryK", "Revolve", "Sqrt", "binomial_steps", "extra_forwards"]


def binomial_steps(slots: int, repeats: int) -> int:
    """Longest chain that ``slots`` checkpoints and ``repeats`` forward runs of each step can reverse: C(c + r, c).

    Griewank and Walther 2000 (revolve, ACM TOMS algorithm 799), proposition 1.
    """
    return math.comb(slots + repeats, slots)


def extra_forwards(steps: int, slots: int) -> int:
    """Least number of forward steps that reversing a chain of ``steps`` runs again: r·l − C(c + r, c + 1).

    ``slots`` checkpoints include the input of the chain; r is the least number of repeats with C(c + r, c) ≥ l. Each
    step's run that its own reversal needs is not counted among them when it is the step's first.
    """
    repeats = 0
    while binomial_steps(slots, repeats) < steps:
        repeats += 1
    return repeats * steps - math.comb(slots + repeats, slots + 1)


class _ByPosition:
    """Base: the role of a layer (``keep``, ``head`` or ``inner``) comes from its place in the stage."""

    name: str
    stage = PassStage.RECOMPUTE

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Always possible."""
        return ""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Drop what the role does not keep; the forward runs ``recompute_repeats`` times more."""
        role = str(plan.option("recompute_role", "head"))
        if block.name != "layer" or role == "keep":
            return block
        full = block.saved
        forward = tuple(replace(op, saves=()) for op in block.forward)
        if role == "head":
            forward = (replace(forward[0], saves=(block.boundary,)), *forward[1:])
        repeats = int(str(plan.option("recompute_repeats", 1)))
        repeated: list[Op] = [
            again(op, f"recompute.{i}" if i else "recompute") for i in range(repeats) for op in block.forward
        ]
        group = int(str(plan.option("recompute_group", 1)))
        # While one layer of a group runs backward, the recomputed activations of the others of the group are alive.
        others = tuple(
            replace(t, name=f"{t.name}.group", cls=TensorClass.WORKSPACE, dims=(*t.dims, Dim.of("group", group - 1)))
            for t in full
            if group > 1
        )
        return replace(block, forward=forward, backward=(*repeated, *block.backward), states=(*block.states, *others))


@register(
    "every-k", kind="pass", area="training", family="recompute",
    cites=("Megatron-LM --recompute-method uniform|block --recompute-num-layers",), validated_by="closed_form",
)  # fmt: skip
class EveryK(_ByPosition):
    """``recompute_method: uniform`` keeps the input of every ``recompute_num_layers``-th layer and recomputes groups;
    ``block`` recomputes the first ``recompute_num_layers`` layers of each stage and keeps the others whole.
    """

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """A known method and a count of at least one layer (``block`` also takes 0)."""
        method, count = plan.option("recompute_method", "uniform"), int(str(plan.option("recompute_num_layers", 1)))
        if method not in ("uniform", "block"):
            return f"recompute_method {method} does not exist; use uniform or block"
        least = 1 if method == "uniform" else 0
        return "" if count >= least else f"recompute_num_layers {count} must be at least {least} with method {method}"

    def layer_options(self, plan: Plan, layers: int, stage: int, stages: int) -> Sequence[Mapping[str, object]]:
        """Roles of the layers of one stage."""
        count = int(str(plan.option("recompute_num_layers", 1)))
        if plan.option("recompute_method", "uniform") == "block":
            return [{"recompute_role": "head" if i < count else "keep"} for i in range(layers)]
        return _groups(layers, count)


def _groups(layers: int, size: int) -> list[Mapping[str, object]]:
    """Heads and inner layers of groups of ``size``; the last group may be smaller."""
    return [
        {"recompute_role": "head" if i % size == 0 else "inner", "recompute_group": min(size, layers)}
        for i in range(layers)
    ]


@register(
    "sqrt", kind="pass", area="training", family="recompute", cites=("Chen et al. 2016, arXiv 1604.06174",),
    catalogue=("Sublinear memory (Chen)",),
    claims=(Claim("O(√n) memory with one extra forward per mini-batch", "arXiv 1604.06174 abstract"),),
    validated_by="closed_form",
)  # fmt: skip
class Sqrt(_ByPosition):
    """Segments of about √l layers: √l inputs kept, √l layers alive while a segment runs backward."""

    def layer_options(self, plan: Plan, layers: int, stage: int, stages: int) -> Sequence[Mapping[str, object]]:
        """Groups of round(√l)."""
        return _groups(layers, max(1, round(math.sqrt(layers))))


@register(
    "revolve", kind="pass", area="training", family="recompute",
    cites=("Griewank and Walther 2000 (revolve), ACM TOMS 26(1)",), catalogue=("Revolve / binomial checkpointing",),
    claims=(Claim("c checkpoints and r repeats reverse C(c + r, c) steps", "ACM TOMS 26(1) proposition 1"),),
    validated_by="closed_form",
)  # fmt: skip
class Revolve(_ByPosition):
    """``recompute_slots`` layer inputs per stage and the fewest repeated forwards that reverse the chain."""

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """At least one slot, for the input of the stage."""
        slots = int(str(plan.option("recompute_slots", 1)))
        return "" if slots >= 1 else f"recompute_slots {slots} must be at least 1: the input of the stage is kept"

    def layer_options(self, plan: Plan, layers: int, stage: int, stages: int) -> Sequence[Mapping[str, object]]:
        """Which layers keep their input and how often each runs again.

        Only the total matters to the time of the stage, so repeats are spread evenly.
        """
        slots = int(str(plan.option("recompute_slots", 1)))
        runs, more = divmod(extra_forwards(layers, min(slots, layers)), layers)
        return [
            {"recompute_role": "head" if i < slots else "inner", "recompute_repeats": runs + (i < more)}
            for i in range(layers)
        ]
