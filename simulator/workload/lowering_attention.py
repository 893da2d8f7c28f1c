"""Ops of a token mixer: grouped-query, sliding-window and latent attention, and recurrent mixers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from simulator.workload.lowering_index import lower_index
from simulator.workload.lowering_layout import (
    ATTENTION_LAYOUT,
    GROUPED_PROJECTION,
    LATENT_ROTARY,
    copied_context,
    copied_groups,
    copied_projection,
    unfused_latent_rotary,
)
from simulator.workload.model import AttentionSpec
from simulator.workload.ops import AttentionShape, Dim, Op, OpKind, Phase, Tensor, TensorClass

if TYPE_CHECKING:
    from simulator.workload.lowering import LoweringContext

__all__ = ["CORE_ATTENTION", "SCAN_FLOPS", "linear_projection", "lower_attention", "mean_context", "part_of"]

CORE_ATTENTION = "core_attention"
"""Recomputation group of everything between the projections (Korthikanti's selective recomputation)."""


def mean_context(q_len: int, kv_len: int, causal: bool, window: int) -> float:
    """Mean number of keys a query attends to, queries being the last ``q_len`` of ``kv_len`` positions.

    Causal without a window: kv_len − (q_len − 1)/2. FLOP conventions that ignore causality use ``kv_len``;
    kernels skip the masked half, so time uses the mean.
    """
    if not causal:
        return float(min(kv_len, window) if window else kv_len)
    first = kv_len - q_len + 1  # keys the first query sees
    if not window or window >= kv_len:
        return first + (q_len - 1) / 2
    growing = max(0, min(q_len, window - first + 1))  # queries whose view is still shorter than the window
    seen = growing * (2 * first + growing - 1) / 2 + (q_len - growing) * window
    return seen / q_len


def lower_attention(
    name: str, spec: AttentionSpec, source: Tensor, ctx: LoweringContext, cross: bool = False
) -> tuple[list[Op], Tensor]:
    """Ops of one mixer that reads ``source`` [batch, seq, hidden], and its output before the residual addition."""
    if spec.kind == "linear":
        return _linear(name, spec, source, ctx)
    if spec.kind == "latent":
        return _latent(name, spec, source, ctx)
    heads = Dim("heads", ((spec.num_attention_heads, spec.head_dim),))
    kv_heads = Dim("kv_heads", ((spec.num_key_value_heads, spec.head_dim),))
    inputs: tuple[Tensor, ...]
    if cross:
        kv_dim = Dim(
            "kv_heads", ((spec.num_key_value_heads, spec.head_dim), (spec.num_key_value_heads, spec.v_head_dim))
        )
        encoder = Tensor(
            "encoder.out",
            TensorClass.ACTIVATION,
            (ctx.tokens[0], Dim.of("encoder_seq", ctx.encoder_sequence), ctx.hidden),
            ctx.dtype,
        )
        project_q = ctx.gemm(f"{name}.q", source, ctx.hidden, heads, bias=spec.qkv_bias)
        project_kv = ctx.gemm(f"{name}.kv", encoder, ctx.hidden, kv_dim, bias=spec.qkv_bias)
        kv = replace(project_kv.writes[0], dims=(*encoder.dims[:2], kv_dim))
        project_kv = replace(project_kv, writes=(kv,), flop_dims=(*encoder.dims[:2], ctx.hidden, kv_dim))
        ops, inputs, kv_len = [project_q, project_kv], (project_q.writes[0], kv), ctx.encoder_sequence
        gate: Tensor | None = None
    else:
        ops, inputs, gate = _project_qkv(name, spec, source, ctx)
        kv_len = ctx.sequence
    window = spec.sliding_window if spec.kind == "sliding" else 0
    shape = AttentionShape(
        heads, kv_heads, spec.head_dim, spec.v_head_dim, ctx.sequence,
        mean_context(ctx.sequence, kv_len, spec.causal, window), spec.causal,
    )  # fmt: skip
    context = ctx.activation(f"{name}.context", Dim("heads", ((spec.num_attention_heads, spec.v_head_dim),)))
    sinks = ctx.param(f"{name}.sinks", Dim("heads", ((spec.num_attention_heads, 1),)))
    ops += _core(name, inputs, context, shape, kv_len, ctx, (sinks,) if spec.sinks else ())
    if gate is not None:
        gated = replace(context, name=f"{name}.gate.out")
        ops.append(ctx.elementwise(f"{name}.gate", (context, gate), (gated,), saves=(context,), flops=5.0))
        context = gated
    if ctx.training and ATTENTION_LAYOUT in ctx.framework.composite:
        ops += copied_context(name, context, ctx)
    output = ctx.gemm(f"{name}.output", context, context.dims[-1], ctx.hidden, bias=spec.output_bias)
    return [*ops, output], output.writes[0]


def _project_qkv(
    name: str, spec: AttentionSpec, source: Tensor, ctx: LoweringContext
) -> tuple[list[Op], tuple[Tensor, ...], Tensor | None]:
    """Fused QKV projection, head norms and rotary embedding; the inputs of the core and, if there is one, the gate."""
    parts = (
        (spec.num_attention_heads, spec.head_dim),
        (spec.num_key_value_heads, spec.head_dim),
        (spec.num_key_value_heads, spec.v_head_dim),
    )
    gate_part = (spec.num_attention_heads, spec.v_head_dim)
    project = ctx.gemm(
        f"{name}.qkv",
        source,
        ctx.hidden,
        Dim("heads", (*parts, gate_part) if spec.gated_output else parts),
        bias=spec.qkv_bias,
    )
    whole = project.writes[0]
    gate = part_of(whole, gate_part) if spec.gated_output else None
    qkv = part_of(whole, *parts)
    ops = [project]
    if ctx.training and ATTENTION_LAYOUT in ctx.framework.composite:
        ops += copied_projection(name, qkv, parts[1:], ctx)
    if ctx.training and GROUPED_PROJECTION in ctx.framework.composite:
        ops += copied_groups(name, qkv, parts[0], spec.num_key_value_heads, ctx)
    rotary = spec.position_embedding_type == "rope"
    if not rotary and not spec.qk_norm:
        return ops, (qkv,), gate
    # The norm of query and key heads is one kernel with the rotation, and its backward needs what it normalised.
    width = Dim.of("head_dim", spec.head_dim)
    norms = tuple(ctx.param(f"{name}.{q}_norm.weight", width) for q in "qk") if spec.qk_norm else ()
    out = replace(qkv, name=f"{name}.rotary.out")
    step = ctx.elementwise(
        f"{name}.rotary" if rotary else f"{name}.qk_norm", (qkv, *norms), (out,), saves=(whole,) if norms else (),
        flops=3.0 * rotary + 8.0 * spec.qk_norm,
    )  # fmt: skip
    return [*ops, step], (out,), gate


def part_of(tensor: Tensor, *parts: tuple[int, int]) -> Tensor:
    """The given parts of the fused last dimension of ``tensor``: the same buffer, fewer bytes touched."""
    return replace(tensor, dims=(*tensor.dims[:-1], Dim(tensor.dims[-1].name, parts)))


def _core(
    name: str, inputs: tuple[Tensor, ...], context: Tensor, shape: AttentionShape, kv_len: int, ctx: LoweringContext,
    sinks: tuple[Tensor, ...] = (),
) -> list[Op]:  # fmt: skip
    """Scores, softmax and weighted sum: one fused kernel, or the kernels of 2021 that keep s² matrices in memory."""
    if ctx.training and ctx.framework.attention_kernel == "unfused":
        return _unfused_core(name, inputs, context, shape, kv_len, ctx, sinks)
    units = Dim("heads", ((shape.q_heads.parts[0][0], 1),))
    statistics = ctx.activation(f"{name}.logsumexp", units, dtype="fp32")
    keys = Dim.of("keys", max(1, round(shape.kv_len)))
    return [
        Op(
            f"{name}.core",
            OpKind.ATTENTION,
            Phase.FORWARD,
            ctx.dtype,
            (*inputs, *sinks),
            (context, *((statistics,) if ctx.training else ())),
            (*ctx.tokens, keys, units),
            2.0 * (shape.head_dim + shape.v_head_dim),
            saves=ctx.saved(*inputs, context, statistics),
            attention=shape,
            recomputable=CORE_ATTENTION,
        )
    ]


def _unfused_core(
    name: str, inputs: tuple[Tensor, ...], context: Tensor, shape: AttentionShape, kv_len: int, ctx: LoweringContext,
    sinks: tuple[Tensor, ...] = (),
) -> list[Op]:  # fmt: skip
    """QKᵀ, softmax, dropout and PV as separate kernels over the full (non-causal) s × s matrix."""
    units = Dim("heads", ((shape.q_heads.parts[0][0], 1),))
    keys = Dim.of("keys", kv_len)

    def matrix(part: str, dtype: str = "") -> Tensor:
        return ctx.activation(f"{name}.{part}", keys, units, dtype=dtype)

    scores, probabilities, dropped, mask = (
        matrix("scores"),
        matrix("softmax.out"),
        matrix("dropout.out"),
        matrix("mask", "bool"),
    )

    def batched(
        part: str,
        reads: tuple[Tensor, ...],
        write: Tensor,
        depth: int,
        contracts: tuple[str, ...],
        saves: tuple[Tensor, ...],
    ) -> Op:
        return Op(
            f"{name}.{part}",
            OpKind.GEMM,
            Phase.FORWARD,
            ctx.dtype,
            reads,
            (write,),
            (*ctx.tokens, keys, units),
            2.0 * depth,
            contracts=contracts,
            saves=ctx.saved(*saves),
            recomputable=CORE_ATTENTION,
            tags={"batched": "heads", "depth": str(depth)},
        )

    ops = [batched("scores", inputs, scores, shape.head_dim, (), inputs)]
    softmax = ctx.elementwise(
        f"{name}.softmax",
        (scores, *sinks),
        (probabilities,),
        saves=(probabilities,),
        recomputable=CORE_ATTENTION,
        flops=5.0,
    )
    ops.append(softmax)
    weights = probabilities
    if ctx.dropout:
        ops.append(
            ctx.elementwise(
                f"{name}.dropout", (probabilities,), (dropped, mask), saves=(mask,), recomputable=CORE_ATTENTION
            )
        )
        weights = dropped
    ops.append(batched("values", (weights, *inputs), context, shape.v_head_dim, (), (weights, *inputs)))
    return ops


def _latent(name: str, spec: AttentionSpec, source: Tensor, ctx: LoweringContext) -> tuple[list[Op], Tensor]:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434 §2.1), keys and values expanded as in training; over
    the tokens that an indexer chose where there is one."""
    heads = spec.num_attention_heads
    ops: list[Op] = []
    q_dim = Dim("heads", ((heads, spec.head_dim),))
    if spec.q_lora_rank:
        rank = Dim.of("q_rank", spec.q_lora_rank)
        ops += _low_rank(f"{name}.q", source, rank, rank, q_dim, ctx)
    else:
        ops.append(ctx.gemm(f"{name}.q", source, ctx.hidden, q_dim))
    query = ops[-1].writes[0]
    chosen: tuple[Tensor, ...] = ()
    if spec.index_n_heads:
        compressed_query = ops[-1].reads[0]
        index, places = lower_index(name, spec, source, compressed_query, ctx)
        ops, chosen = [*ops, *index], (places,)
    rank = Dim("kv_rank", ((spec.kv_lora_rank, 1), (spec.qk_rope_head_dim, 1)))
    compressed = Dim.of("kv_rank", spec.kv_lora_rank)
    expanded = Dim("heads", ((heads, spec.qk_nope_head_dim), (heads, spec.v_head_dim)))
    down, norm, up = _low_rank(f"{name}.kv", source, rank, compressed, expanded, ctx)
    ops += [down, norm, up]
    inputs: tuple[Tensor, ...]
    if ctx.training and LATENT_ROTARY in ctx.framework.composite:
        sizes = spec.qk_nope_head_dim, spec.qk_rope_head_dim, spec.v_head_dim
        joins, inputs = unfused_latent_rotary(name, query, up.writes[0], down.writes[0], sizes, ctx)
        ops += joins
    else:
        keys = ctx.activation(f"{name}.keys", Dim("heads", ((heads, spec.head_dim),)))
        ops.append(ctx.elementwise(f"{name}.rotary", (up.writes[0], down.writes[0], query), (keys,), flops=3.0))
        inputs = query, keys, up.writes[0]
    shape = AttentionShape(
        q_dim,
        q_dim,
        spec.head_dim,
        spec.v_head_dim,
        ctx.sequence,
        mean_context(ctx.sequence, ctx.sequence, spec.causal, spec.index_topk),
        spec.causal,
    )
    context = ctx.activation(f"{name}.context", Dim("heads", ((heads, spec.v_head_dim),)))
    ops += _core(name, (*inputs, *chosen), context, shape, ctx.sequence, ctx)
    output = ctx.gemm(f"{name}.output", context, context.dims[-1], ctx.hidden)
    return [*ops, output], output.writes[0]


def _low_rank(name: str, source: Tensor, rank: Dim, normed: Dim, out: Dim, ctx: LoweringContext) -> tuple[Op, Op, Op]:
    """A projection down to ``rank``, a norm over ``normed`` of it, and a projection up to ``out``."""
    down = ctx.gemm(f"{name}_a", source, ctx.hidden, rank)
    inside = ctx.activation(f"{name}_norm.out", normed)
    norm = ctx.elementwise(
        f"{name}_norm",
        (down.writes[0], ctx.param(f"{name}_norm.weight", normed)),
        (inside,),
        saves=(down.writes[0],),
        flops=8.0,
    )
    return down, norm, ctx.gemm(f"{name}_b", inside, normed, out)


SCAN_FLOPS = {"mamba1": 7, "mamba2": 7, "gated-delta-net": 7, "lightning": 5}
"""FLOPs per state element and token: decay 1, update 2, readout 2; Mamba discretises (2 more: the 7 of Megatron-LM's
count of the scan), the delta rule reads its old value (2 more; arXiv 2412.06464, eq. 10)."""


def linear_projection(spec: AttentionSpec) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    """Outputs of the input projection of a recurrent mixer as (units, size): those that are convolved, and the rest.

    Units are what tensor parallelism may cut. Mamba-2 (arXiv 2405.21060 §7): x of inner width, B and C per group | gate
    z, dt per head. Gated delta net (arXiv 2412.06464): q, k of key width and v | gate of inner width, two scalars per
    value head. Mamba-1 (arXiv 2312.00752 §3.4): x | z; B, C and dt are projected from x. Lightning attention has no
    convolution: q, k, v and gate of inner width.
    """
    inner = (spec.num_attention_heads, spec.v_head_dim)
    keys = (spec.num_key_value_heads, spec.head_dim)
    scalar = (spec.num_attention_heads, 1)
    if spec.mixer == "mamba1":
        return (inner,), (inner,)
    if spec.mixer == "mamba2":
        group = (spec.num_groups, spec.state_size)
        return (inner, group, group), (inner, scalar)
    gate = (inner,) if spec.gated_output else ()
    if spec.mixer == "gated-delta-net":
        return (keys, keys, inner), (*gate, scalar, scalar)
    return (keys, keys, inner), gate


def _linear(name: str, spec: AttentionSpec, source: Tensor, ctx: LoweringContext) -> tuple[list[Op], Tensor]:
    """A recurrent mixer: projection, short convolution, scan with a state of fixed size, gated norm, projection."""
    mixing, rest = linear_projection(spec)
    inner = Dim("heads", ((spec.num_attention_heads, spec.v_head_dim),))
    project = ctx.gemm(f"{name}.in", source, ctx.hidden, Dim("heads", mixing + rest), bias=spec.qkv_bias)
    whole = project.writes[0]
    ops, mixed, kept = [project], part_of(whole, *mixing), whole
    if spec.conv_kernel:
        convolved = ctx.activation(f"{name}.conv.out", Dim("heads", mixing))
        weight = ctx.param(f"{name}.conv.weight", Dim("heads", mixing), Dim.of("taps", spec.conv_kernel))
        convolve = ctx.elementwise(
            f"{name}.conv", (mixed, weight), (convolved,), saves=(whole,), flops=2.0 * spec.conv_kernel
        )
        ops.append(replace(convolve, tags={"taps": str(spec.conv_kernel)}))
        mixed = kept = convolved
    steps: tuple[Tensor, ...] = ()
    if spec.mixer == "mamba1":
        more, steps = _selective_parameters(name, spec, mixed, inner, ctx)
        ops += more
    context = ctx.activation(f"{name}.context", inner)
    state = spec.head_dim * spec.state_size / spec.v_head_dim
    scan = ctx.elementwise(
        f"{name}.scan", (mixed, *steps), (context,), saves=(kept, *steps),
        flops=SCAN_FLOPS[spec.mixer or "mamba2"] * state,
    )  # fmt: skip
    ops.append(replace(scan, tags={"state": f"{spec.num_attention_heads}x{spec.head_dim * spec.state_size}"}))
    gated = ctx.activation(f"{name}.gate.out", inner)
    gate = (part_of(whole, rest[0]),) if rest else ()
    ops.append(ctx.elementwise(f"{name}.gate", (context, *gate), (gated,), saves=(context,), flops=10.0))
    output = ctx.gemm(f"{name}.output", gated, inner, ctx.hidden, bias=spec.output_bias)
    return [*ops, output], output.writes[0]


def _selective_parameters(
    name: str, spec: AttentionSpec, mixed: Tensor, inner: Dim, ctx: LoweringContext
) -> tuple[list[Op], tuple[Tensor, ...]]:
    """Mamba-1's B, C and time step, projected from the convolved input through a low rank (arXiv 2312.00752 §3.2)."""
    rank = Dim.of("dt_rank", spec.time_step_rank)
    selected = Dim("selected", ((spec.time_step_rank, 1), (2 * spec.state_size, 1)))
    x_proj = ctx.gemm(f"{name}.x_proj", mixed, inner, selected)
    low = replace(x_proj.writes[0], dims=(*x_proj.writes[0].dims[:-1], rank))
    dt_proj = ctx.gemm(f"{name}.dt_proj", low, rank, inner)
    return [x_proj, replace(dt_proj, saves=ctx.saved(x_proj.writes[0]))], (x_proj.writes[0], dt_proj.writes[0])
