"""What communication passes share: finding the gradient reductions of a block and changing how they travel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal, cast, get_args

from simulator.strategies.protocols import CommunicationTraits, PassStage
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Op, OpKind
from simulator.workload.plan import Plan, base_axis

__all__ = ["CHANGES", "CommunicationPass", "gradient_reductions", "number", "positive_options"]

DATA_AXES = ("dpcp", "edp")

Changes = Literal["period", "compression", "aggregation", "embedding", "messages", "schedule"]
"""What a communication pass changes, in the order in which several of them are applied whatever order they are named
in: how often gradients meet, how small they travel, who adds them up, rows of the embedding, messages between stages,
and when all of this leaves. Two that change the same do not go together.
"""


CHANGES: tuple[str, ...] = get_args(Changes)


class CommunicationPass:
    """A pass that leaves Ops as they are; subclasses change Ops, traits, or both."""

    name: str
    stage = PassStage.COMMUNICATION
    changes: ClassVar[Changes] = "schedule"
    quality: ClassVar[str] = ""
    """What it costs beside time, memory and traffic, with its source."""

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Always possible."""
        return ""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Nothing changes."""
        return block

    def traits(self, plan: Plan) -> CommunicationTraits:
        """Facts for the link queue."""
        return CommunicationTraits()

    def notes(self, plan: Plan) -> tuple[str, ...]:
        """The quality note, if there is one."""
        return (f"{self.name}: {self.quality}",) if self.quality else ()


def number(plan: Plan, name: str, default: float) -> float:
    """A numeric option."""
    value = plan.option(name, default)
    return float(cast(float, value)) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")


def positive_options(plan: Plan, limits: dict[str, tuple[float, float, float]]) -> str:
    """Empty, or which of the options ``name: (default, least, most)`` is not a number within its limits."""
    for name, (default, least, most) in limits.items():
        value = number(plan, name, default)
        if not least <= value <= most:
            return f"{name} must be a number from {least:g} to {most:g}, have {plan.option(name)!r}"
    return ""


def gradient_reductions(block: Block, change: Callable[[Op], tuple[Op, ...]]) -> Block:
    """The block with every once-per-step reduction over data-parallel ranks replaced by ``change(op)``."""
    reduce: list[Op] = []
    for op in block.reduce:
        mine = op.kind is OpKind.COLLECTIVE and base_axis(op.axis) in DATA_AXES
        reduce += change(op) if mine else (op,)
    return replace(block, reduce=tuple(reduce))
