"""Dropping any set of saved tensors: the forward Ops that bring them back run where the backward first needs them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from simulator.workload.ops import Block, Op, Phase, Tensor, TensorClass

__all__ = ["again", "recompute_chain", "recompute_tensors"]


def again(op: Op, suffix: str = "recompute") -> Op:
    """The Op as it runs a second time."""
    return replace(op, name=f"{op.name}.{suffix}", phase=Phase.RECOMPUTE, saves=())


def recompute_chain(forward: Iterable[Op], wanted: Collection[str], available: Collection[str]) -> list[Op]:
    """The forward Ops, in order, that produce ``wanted`` from what is ``available``."""
    needed, chain = set(wanted) - set(available), list[Op]()
    for op in reversed(tuple(forward)):
        if needed & {t.name for t in op.writes}:
            chain.append(op)
            needed |= {t.name for t in op.reads if t.cls is TensorClass.ACTIVATION} - set(available)
    return chain[::-1]


def recompute_tensors(block: Block, dropped: Collection[str]) -> Block:
    """The block without saving ``dropped``; each is recomputed just before its first use in the backward.

    Inputs that are neither saved nor the block's boundary are recomputed as well. What comes from outside the block
    (its boundary, the encoder's output) cannot be recomputed and stays saved.
    """
    made = {t.name for op in block.forward for t in op.writes}
    dropped = {t.name for t in block.saved if t.name in dropped and t.name in made}
    if not dropped:
        return block
    forward = [replace(op, saves=tuple(t for t in op.saves if t.name not in dropped)) for op in block.forward]
    kept = {t.name for t in block.saved} - dropped
    have, order = set(kept), list[Op]()
    for op in block.backward:
        missing = {t.name for t in op.reads if t.name in dropped} - have
        for step in recompute_chain(block.forward, missing, have) if missing else ():
            order.append(again(step))
            have |= {t.name for t in step.writes}
        order.append(op)
    outside = _read_from_outside(block, order, made, kept)
    if outside:  # inputs of the block that only the recomputation reads
        forward[0] = replace(forward[0], saves=(*forward[0].saves, *outside))
    return replace(block, forward=tuple(forward), backward=tuple(order))


def _read_from_outside(block: Block, order: Iterable[Op], made: set[str], kept: set[str]) -> tuple[Tensor, ...]:
    found: dict[str, Tensor] = {}
    for op in order:
        for tensor in op.reads if op.phase is Phase.RECOMPUTE else ():
            if tensor.cls is TensorClass.ACTIVATION and tensor.name not in made and tensor.name not in kept:
                found[tensor.name] = tensor
    return tuple(found.values())
