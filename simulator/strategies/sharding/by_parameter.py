"""Shards that are exchanged parameter by parameter, as DeepSpeed's ZeRO-3 does it.

A layer has no message of its own there: hooks gather each weight before the module that uses it and reduce its
gradient when it is complete. Small parameters stay on every rank within a step, and a parameter that is used again soon
is not released.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from simulator.workload.framework import Framework
from simulator.workload.ops import Mesh, Op, OpKind, Tensor
from simulator.workload.plan import Plan
from simulator.workload.wire import Wire

__all__ = ["copied", "gathered_again", "messages_of_gathers", "messages_of_reductions", "named"]

Message = tuple[Tensor, ...]


def messages_of_gathers(held: Message, framework: Framework, mesh: Mesh) -> list[Message]:
    """Parameters by message: all of a block in one, or each of those that do not persist in one of its own."""
    if not framework.gathers_by_parameter:
        return [held]
    return [(t,) for t in held if _large(t, framework, mesh)]


def messages_of_reductions(gradients: Message, framework: Framework, mesh: Mesh) -> list[Message]:
    """Gradients by message: a large one leaves alone and takes the small ones beside it along."""
    if not framework.gathers_by_parameter:
        return [gradients]
    found: list[list[Tensor]] = []
    for tensor in gradients:
        if not found or (_large(tensor, framework, mesh) and any(_large(t, framework, mesh) for t in found[-1])):
            found.append([])
        found[-1].append(tensor)
    return [tuple(message) for message in found]


def gathered_again(held: Message, framework: Framework, plan: Plan) -> bool:
    """Whether what the recomputation of a layer gathered is released before the layer's backward wants it.

    Between the two uses the layer's other parameters are used, once on the way forth and once on the way back.
    """
    passed = sum(t.elements(plan.mesh) for t in held)
    return framework.gathers_by_parameter and plan.recompute == "full" and passed > framework.reuse_elements


def named(ops: Sequence[Op], message: Message, mark: str = "") -> tuple[Op, ...]:
    """The Ops of one of several messages under names of their own; none of them is for the next layer."""
    return tuple(
        replace(op, name=f"{op.name}.{message[0].name}{mark}", wire=replace(op.wire, prefetch=0)) for op in ops
    )


def copied(op: Op, message: Message, times: int) -> tuple[Op, ...]:
    """So many passes over a message on the device: into the order of the ranks, out of it, times their share."""
    return tuple(
        Op(
            f"{op.name}.copy.{i}", OpKind.ELEMENTWISE, op.phase, message[0].dtype, message, message,
            wire=Wire(prefetch=op.wire.prefetch),
        )
        for i in range(times)
    )  # fmt: skip


def _large(tensor: Tensor, framework: Framework, mesh: Mesh) -> bool:
    return tensor.elements(mesh) > framework.persistent_elements
