"""Passes over memory that frameworks without fused layers add between the GEMMs and the attention kernel.

Slicing and transposing are free until a kernel wants its input in one piece: then a copy is made, and the backward
joins the gradients of the slices in another. A fused layer never writes what is moved here. Ops that are a view in one
direction and a copy in the other run no kernel (tags ``kernels`` and ``kernels_backward`` of 0) in the first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from simulator.workload.ops import Dim, Op, Tensor

if TYPE_CHECKING:
    from simulator.workload.lowering import LoweringContext

__all__ = [
    "ATTENTION_LAYOUT", "GLU_HALVES", "GROUPED_PROJECTION", "LATENT_ROTARY", "copied_context", "copied_groups",
    "copied_projection", "halved_activation", "unfused_latent_rotary", "without_groups",
]  # fmt: skip

ATTENTION_LAYOUT, GLU_HALVES = "attention_layout", "glu_halves"
GROUPED_PROJECTION, LATENT_ROTARY = "grouped_projection", "latent_rotary"
"""Names in :attr:`~simulator.workload.framework.Framework.composite`."""

_GROUPS = "groups"
"""Tag of the copy of queries: groups of them in the whole layer."""

_FREE_FORWARD = {"kernels": "0"}
_FREE_BACKWARD = {"kernels_backward": "0"}


def halved_activation(name: str, merged: Tensor, activated: Tensor, ctx: LoweringContext) -> list[Op]:
    """A gated activation as four passes: slice the merged projection, activate the gate, multiply by the value; the
    backward joins the gradients of the halves by a copy.

    As ``torch.split``, ``act(gate) * value`` do (huggingface/nanotron @03b83fc src/nanotron/models/llama.py,
    GLUActivation).
    """
    gate, value, gated = (replace(activated, name=f"{name}.{part}") for part in ("gate_in", "value_in", "gate"))
    split = ctx.elementwise(f"{name}.split", (merged,), (gate, value), flops=0.0)
    activate = ctx.elementwise(f"{name}.gate", (gate,), (gated,), saves=(gate,), flops=7.0)
    multiply = ctx.elementwise(name, (gated, value), (activated,), saves=(gated, value))
    return [replace(split, tags=_FREE_FORWARD), activate, replace(multiply, tags={"kernels_backward": "2"})]


def copied_projection(name: str, merged: Tensor, keys: tuple[tuple[int, int], ...], ctx: LoweringContext) -> list[Op]:
    """Copies between the fused projection and the rotation, forward and backward.

    The projection, sequence first, is copied batch first; keys and values are stacked, and the stack is copied with the
    two beside each other. In the backward the gradients of key and value are joined, those of query, key and value
    stacked, and the stack copied sequence first (huggingface/nanotron @03b83fc src/nanotron/models/llama.py,
    CausalSelfAttention.forward in training).

    Parameters
    ----------
    merged
        Output of the projection.
    keys
        Parts of its last dimension that are keys and values.
    """
    width = merged.dims[-1]
    pair = replace(merged, name=f"{name}.kv", dims=(*merged.dims[:-1], Dim(width.name, keys)))

    def passes(part: str, what: Tensor, tags: dict[str, str]) -> Op:
        moved = replace(what, name=f"{name}.{part}.out")
        return replace(ctx.elementwise(f"{name}.{part}", (what,), (moved,), flops=0.0), tags=tags)

    return [
        passes("transpose", merged, {}),
        passes("unbind", merged, _FREE_FORWARD),
        passes("stack_kv", pair, _FREE_BACKWARD),
        passes("interleave_kv", pair, _FREE_BACKWARD),
        passes("split_kv", pair, _FREE_FORWARD),
    ]


def copied_groups(name: str, merged: Tensor, queries: tuple[int, int], groups: int, ctx: LoweringContext) -> list[Op]:
    """Queries copied out of a projection whose groups stand one after another, each with its key and value; the
    backward joins the gradients of queries, keys and values by another copy.

    A group of one query, and a single group, are views (NVIDIA/Megatron-LM @f41b4fd
    megatron/core/transformer/attention.py, get_query_key_value_tensors; the gradients: ``SplitAlongDim`` of Transformer
    Engine).

    Parameters
    ----------
    merged, queries
        Output of the projection, and the part of its last dimension that is queries.
    groups
        Groups of queries that share a key and a value.
    """
    apart = replace(merged, name=f"{name}.queries", dims=(*merged.dims[:-1], Dim(merged.dims[-1].name, (queries,))))
    moved = ctx.elementwise(f"{name}.group", (apart,), (replace(apart, name=f"{name}.queries.out"),), flops=0.0)
    joined = ctx.elementwise(f"{name}.split", (merged,), (replace(merged, name=f"{name}.split.out"),), flops=0.0)
    copies = [replace(moved, tags=_FREE_BACKWARD | {_GROUPS: str(groups)})] if 1 < groups < queries[0] else []
    return [*copies, replace(joined, tags=_FREE_FORWARD)]


def without_groups(op: Op, ranks: int) -> Op:
    """``op`` on one of ``ranks`` tensor-parallel ranks: a rank with a single group copies no queries."""
    return replace(op, tags={**op.tags, **_FREE_FORWARD}) if 0 < int(op.tags.get(_GROUPS, 0)) <= ranks else op


def copied_context(name: str, context: Tensor, ctx: LoweringContext) -> list[Op]:
    """The output of attention, batch first, is copied sequence first for the next GEMM, and its gradient back; one
    sequence has no order to change."""
    if ctx.batch == 1:
        return []
    moved = replace(context, name=f"{name}.context.out")
    return [ctx.elementwise(f"{name}.context_transpose", (context,), (moved,), flops=0.0)]


def unfused_latent_rotary(
    name: str, query: Tensor, expanded: Tensor, compressed: Tensor, sizes: tuple[int, int, int], ctx: LoweringContext
) -> tuple[list[Op], tuple[Tensor, Tensor, Tensor]]:
    """Rotation of slices of queries and of the one key that all heads share, and the joins around them.

    Of a query the rotated slice is put in order, multiplied by cosines, rotated by halves (negated, joined), multiplied
    by sines, added and joined with nothing, each a kernel; then it is joined with the rest. The key is joined head by
    head with the shared one, and values are copied out from beside the keys. Autograd fills zeros for each slice of the
    query and adds (NVIDIA/Megatron-LM @003b4ce megatron/core/transformer/multi_latent_attention.py
    qkv_up_proj_and_rope_apply, @00c51e1 megatron/core/models/common/embeddings/rope_utils.py
    _apply_rotary_pos_emb_bshd). Its fused kernels are experimental: they raise an error unless that flag is given.

    Parameters
    ----------
    query
        Queries of all heads.
    expanded
        Keys without position and values of all heads.
    compressed
        What holds the shared key.
    sizes
        Head size of keys without position, with position, and of values.

    Returns
    -------
    tuple
        The Ops, and queries, keys and values as attention reads them.
    """
    plain, rotated, value = sizes
    heads = query.dims[-1].parts[0][0]

    def part(label: str, *widths: int) -> Tensor:
        return ctx.activation(f"{name}.{label}", Dim("heads", tuple((heads, width) for width in widths)))

    def several(label: str, count: int) -> tuple[Tensor, ...]:
        return tuple(part(f"{label}{i}", rotated) for i in range(count))

    def kernels(label: str, reads: tuple[Tensor, ...], writes: tuple[Tensor, ...], there: int, back: int) -> Op:
        op = ctx.elementwise(f"{name}.{label}", reads, writes, flops=0.0)
        return replace(op, tags={"kernels": str(there), "kernels_backward": str(back)})

    rest, slice_ = part("query.plain", plain), part("query.slice", rotated)
    turned, joined = several("turned", 7), part("query.out", plain, rotated)
    keys, values, beside = part("keys", plain, rotated), part("values", value), part("values.beside", value)
    unrotated, shared = part("keys.plain", plain), part("keys.slice", rotated)
    ops = [
        kernels("query.split", (query,), (rest, slice_), 0, 1),
        # 14 passes over the slice, and as many by the backward of these kernels
        kernels("query.rotary", (slice_, *turned[:6]), turned, 7, 7),
        # 7 passes of the backward: what autograd fills with zeros for slices, and the sums of their gradients
        kernels("query.slices", turned[:4], turned[4:], 0, 5),
        kernels("query.join", (rest, turned[-1]), (joined,), 1, 0),
        kernels("expanded.split", (expanded,), (unrotated, beside), 0, 1),
        kernels("keys.expand", (compressed,), (shared,), 0, 1),
        kernels("keys.join", (unrotated, compressed), (keys,), 1, 0),
        kernels("values.copy", (beside,), (values,), 1, 0),
    ]
    return ops, (joined, keys, values)
