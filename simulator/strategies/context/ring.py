"""Ring attention: keys and values travel around the ranks while queries stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from simulator.registry import register
from simulator.strategies.context.recurrent import pass_states
from simulator.strategies.context.tokens import (
    AXIS,
    busiest_context,
    is_fused,
    key_value,
    packed_key_value,
    query,
    shard_tokens,
)
from simulator.strategies.protocols import PassStage
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Collective, Op, OpKind, Stream, Tensor, TensorClass
from simulator.workload.plan import Plan

__all__ = ["RingAttention"]

SPLITS = ("zig-zag", "contiguous")


@register(
    "ring",
    kind="pass",
    area="training",
    family="context",
    cites=(
        "Li et al. 2021, arXiv 2105.13120",
        "Liu et al. 2023 (Ring Attention), arXiv 2310.01889",
        "Sun et al. 2024 (LASP), arXiv 2404.02882",
    ),
    catalogue=("Ring / Colossal sequence parallelism",),
    validated_by="closed_form",
)
class RingAttention:
    """c−1 sends of the local keys and values, each under the attention with the chunk before; option ``context_split``.

    ``context_split: zig-zag`` (default) gives every rank a chunk from the front and its mirror image from the back, so
    causal work is equal; ``contiguous`` gives neighbours, and the rank with the last tokens does up to twice the mean.
    The backward sends keys and values around again, and their gradients once all the way round. Recurrent mixers send
    their states instead, from one run of neighbouring tokens to the next (LASP, arXiv 2404.02882).
    """

    name: str
    stage = PassStage.PARTITION

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """A known split."""
        split = plan.option("context_split", SPLITS[0])
        if split not in SPLITS:
            return f"context_split '{split}' is unknown; use {' or '.join(SPLITS)}"
        return ""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Cut the tokens and unroll each attention into one step per chunk of keys."""
        ranks = plan.context_parallel
        if ranks == 1:
            return block
        balanced = plan.option("context_split", SPLITS[0]) == SPLITS[0]
        cut = shard_tokens(block)
        forward = tuple(step for op in cut.forward for step in _forward(op, ranks, balanced))
        backward = tuple(step for op in cut.backward for step in _backward(op, ranks, balanced))
        runs = 2 if balanced else 1
        forward, backward = (
            tuple(made for op in ops for made in pass_states(op, ranks, runs, "ring")) for ops in (forward, backward)
        )
        return replace(cut, forward=forward, backward=backward)


def _chunk(kv: Tensor, name: str, index: int) -> Tensor:
    return kv if index == 0 else replace(kv, name=f"{name}.kv{index}")


def _send(op: Op, name: str, read: Tensor, write: Tensor) -> Op:
    return Op(
        f"{op.name}.{name}",
        OpKind.P2P,
        op.phase,
        read.dtype,
        (read,),
        (write,),
        collective=Collective.SEND_RECV,
        axis=AXIS,
        stream=Stream.SCALE_UP,
        recomputable=op.recomputable,
    )


def _step(op: Op, index: int, ranks: int, balanced: bool) -> Op:
    """One chunk's share of the attention ``op``, with its FLOPs and keys."""
    shape = op.attention
    assert shape is not None
    mean = shape.kv_len if balanced else busiest_context(op, ranks)
    return replace(
        op,
        name=f"{op.name}.step{index}",
        saves=op.saves if index == 0 else (),
        flop_coefficient=op.flop_coefficient * mean / shape.kv_len / ranks,
        attention=replace(shape, kv_len=mean / ranks),
    )


def _forward(op: Op, ranks: int, balanced: bool) -> Iterator[Op]:
    if not is_fused(op):
        yield from _chain(op, ranks)
        return
    kv, others = key_value(op), tuple(t for t in op.reads if t.cls is TensorClass.PARAM)
    context = op.writes[0]
    for index in range(ranks):
        chunk = _chunk(kv, op.name, index)
        if index + 1 < ranks:
            yield _send(op, f"send{index}", chunk, _chunk(kv, op.name, index + 1))
        before = (context,) if index else others  # later steps rescale what the earlier ones summed up
        yield replace(_step(op, index, ranks, balanced), reads=(query(op), chunk, *before))


def _backward(op: Op, ranks: int, balanced: bool) -> Iterator[Op]:
    if not is_fused(op):
        yield from _chain(op, ranks)
        return
    kv, q = key_value(op), query(op)
    kept = tuple(t for t in op.reads if t.name.endswith((".grad", ".context", ".logsumexp")))
    query_gradient = replace(q, name=f"{q.name}.query.grad")
    for index in range(ranks):
        chunk = _chunk(kv, op.name, index)
        if index + 1 < ranks:
            yield _send(op, f"send{index}", chunk, _chunk(kv, op.name, index + 1))
        gradient = replace(kv, name=f"{op.name}.dkv{index}")
        yield replace(_step(op, index, ranks, balanced), reads=(q, chunk, *kept), writes=(query_gradient, gradient))
        yield _send(op, f"send_gradient{index}", gradient, replace(kv, name=f"{op.name}.dkv{index}|arrived"))
    home = replace(kv, name=f"{op.name}.dkv{ranks - 1}|arrived")
    yield Op(
        f"{op.name}.join",
        OpKind.ELEMENTWISE,
        op.phase,
        op.dtype,
        (home, query_gradient),
        op.writes,
        op.writes[0].dims,
        1.0,
        sharding=op.sharding,
    )


def _chain(op: Op, ranks: int) -> Iterator[Op]:
    """Kernels that need whole rows of scores wait until all keys have come by."""
    first = op.name.endswith((".scores", ".values.backward.0")) and "batched" in op.tags
    if first:
        last = packed_key_value(op)
        for index in range(ranks - 1):
            yield _send(op, f"send{index}", _chunk(last, op.name, index), _chunk(last, op.name, index + 1))
        op = replace(op, reads=(*op.reads, _chunk(last, op.name, ranks - 1)))
    yield op
