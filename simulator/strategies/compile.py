"""From a plan to the passes it names, applied in their fixed stages."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

from simulator.registry import Area, lookup, record_of
from simulator.strategies.communication.base import CHANGES, CommunicationPass
from simulator.strategies.pipeline.choice import schedule_of
from simulator.strategies.protocols import Communicating, CommunicationTraits, Noted, Pass
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block
from simulator.workload.plan import Plan

__all__ = ["check_plan", "communication_traits", "compile_block", "passes_of", "plan_notes"]

DEFAULTS = {"tensor": "megatron-1d", "context": "ring", "sharding": "zero", "expert": "all-to-all"}
"""Strategy of a family when the plan's options do not name another."""


def passes_of(plan: Plan, area: Area = "training") -> tuple[Pass, ...]:
    """The passes that ``plan`` asks for, in stage order.

    Inside a stage they commute, but for two declared orders: tensor, context, expert, because exchanges of experts send
    slices of tensor ranks and some tensor strategies cut Ops into parts; and communication passes by what they change
    (:data:`~simulator.strategies.communication.base.CHANGES`).
    """
    return tuple(sorted(_named(plan, area), key=lambda p: (p.stage, _rank(p))))


def _rank(step: Pass) -> int:
    return CHANGES.index(step.changes) if isinstance(step, CommunicationPass) else 0


def _tensor(plan: Plan) -> str:
    return str(plan.option("tensor", DEFAULTS["tensor"]))


def _named(plan: Plan, area: Area) -> Iterator[Pass]:
    names = {"tensor": _tensor(plan)}
    if plan.context_parallel > 1:
        names["context"] = str(plan.option("context", DEFAULTS["context"]))
    # Experts come after tensors: their exchanges send slices of rows that tensor-parallel ranks share.
    if plan.expert_parallel > 1 or plan.option("expert") is not None:
        names["expert"] = str(plan.option("expert", DEFAULTS["expert"]))
    if area == "serving":
        names["quantization"] = plan.precision
        if (sparsity := plan.option("sparsity")) is not None:
            names["sparsity"] = str(sparsity)
        if (fusion := plan.option("fusion")) is not None:
            names["fusion"] = str(fusion)
    else:
        names["sharding"] = str(plan.option("sharding", DEFAULTS["sharding"]))
        names["precision"] = plan.precision
        names["recompute"] = plan.recompute
        if (peft := plan.option("peft")) is not None:
            names["peft"] = str(peft)
    if plan.offload != "none":
        names["offload"] = plan.offload
    if area == "training":
        for name in str(plan.option("communication", "")).split("+"):
            if name.strip():
                yield lookup("communication", name.strip())()
    for family, name in names.items():
        yield lookup(family, name)()


def communication_traits(plan: Plan) -> CommunicationTraits:
    """How gradients leave a rank under the plan's communication strategy."""
    plain, chosen = CommunicationTraits(), dict[str, object]()
    for step in passes_of(plan):
        if isinstance(step, Communicating):
            traits = step.traits(plan)
            chosen |= {f.name: v for f in fields(traits) if (v := getattr(traits, f.name)) != getattr(plain, f.name)}
    return replace(plain, **chosen)  # type: ignore[arg-type]


def plan_notes(plan: Plan) -> tuple[str, ...]:
    """What the plan's strategies cost beside time, memory and traffic."""
    chosen = [*passes_of(plan), *([schedule_of(plan)] if plan.pipeline_parallel > 1 else [])]
    return tuple(note for strategy in chosen if isinstance(strategy, Noted) for note in strategy.notes(plan))


def check_plan(model: ModelSpec, plan: Plan, area: Area = "training") -> list[str]:
    """Reasons of all passes why ``plan`` does not work for ``model``; empty when it does."""
    if area == "training" and record_of(lookup("tensor", tensor := _tensor(plan))).area == "serving":
        return [f"{tensor} is a layout of serving, it has no backward pass; use megatron-1d"]
    passes = passes_of(plan, area)
    return [*(reason for p in passes if (reason := p.check(model, plan))), *_clashes(passes)]


def _clashes(passes: Sequence[Pass]) -> Iterator[str]:
    """Communication strategies of a plan that change the same thing."""
    sending = [p for p in passes if isinstance(p, CommunicationPass)]
    for first, second in itertools.pairwise(sending):
        if first.changes == second.changes:
            yield (
                f"communication {first.name} and {second.name} both change the {first.changes} of gradients: use "
                f"one of them"
            )


def compile_block(block: Block, plan: Plan, framework: Framework, area: Area = "training") -> Block:
    """The block after every pass of the plan; a compiler that recomputes elementwise kernels does so unasked."""
    if area == "training" and plan.recompute == "none" and framework.recomputes_elementwise:
        plan = replace(plan, recompute="elementwise")
    for step in passes_of(plan, area):
        block = step.apply(block, plan, framework)
    return block
