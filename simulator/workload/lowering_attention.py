"""Ops of a token mixer: grouped-query, sliding-window and latent attention, and recurrent mixers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from simulator.workload.model import AttentionSpec
from simulator.workload.ops import AttentionShape, Dim, Op, OpKind, Phase, Tensor, TensorClass

if TYPE_CHECKING:
    from simulator.workload.lowering import LoweringContext

__all__ = ["CORE_ATTENTION", "lower_attention", "mean_context"]

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
    else:
        qkv = Dim(
            "heads",
            (
                (spec.num_attention_heads, spec.head_dim),
                (spec.num_key_value_heads, spec.head_dim),
                (spec.num_key_value_heads, spec.v_head_dim),
            ),
        )
        project = ctx.gemm(f"{name}.qkv", source, ctx.hidden, qkv, bias=spec.qkv_bias)
        ops, inputs, kv_len = [project], (project.writes[0],), ctx.sequence
        if not ctx.model.learned_positions and spec.causal:
            rotated = replace(project.writes[0], name=f"{name}.rotary.out")
            ops.append(ctx.elementwise(f"{name}.rotary", inputs, (rotated,), flops=3.0))
            inputs = (rotated,)
    window = spec.sliding_window if spec.kind == "sliding" else 0
    shape = AttentionShape(
        heads, kv_heads, spec.head_dim, spec.v_head_dim, ctx.sequence,
        mean_context(ctx.sequence, kv_len, spec.causal, window), spec.causal,
    )  # fmt: skip
    context = ctx.activation(f"{name}.context", Dim("heads", ((spec.num_attention_heads, spec.v_head_dim),)))
    ops += _core(name, inputs, context, shape, kv_len, ctx)
    output = ctx.gemm(f"{name}.output", context, context.dims[-1], ctx.hidden, bias=spec.output_bias)
    return [*ops, output], output.writes[0]


def _core(
    name: str, inputs: tuple[Tensor, ...], context: Tensor, shape: AttentionShape, kv_len: int, ctx: LoweringContext
) -> list[Op]:
    """Scores, softmax and weighted sum: one fused kernel, or the kernels of 2021 that keep s² matrices in memory."""
    if ctx.training and ctx.framework.attention_kernel == "unfused":
        return _unfused_core(name, inputs, context, shape, kv_len, ctx)
    units = Dim("heads", ((shape.q_heads.parts[0][0], 1),))
    statistics = ctx.activation(f"{name}.logsumexp", units, dtype="fp32")
    keys = Dim.of("keys", max(1, round(shape.kv_len)))
    return [
        Op(
            f"{name}.core", OpKind.ATTENTION, Phase.FORWARD, ctx.dtype, inputs, (context, *((statistics,) if ctx.training else ())),
            (*ctx.tokens, keys, units), 2.0 * (shape.head_dim + shape.v_head_dim),
            saves=ctx.saved(*inputs, context, statistics), attention=shape, recomputable=CORE_ATTENTION,
        )
    ]  # fmt: skip


def _unfused_core(
    name: str, inputs: tuple[Tensor, ...], context: Tensor, shape: AttentionShape, kv_len: int, ctx: LoweringContext
) -> list[Op]:
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
            f"{name}.{part}", OpKind.GEMM, Phase.FORWARD, ctx.dtype, reads, (write,), (*ctx.tokens, keys, units), 2.0 * depth,
            contracts=contracts, saves=ctx.saved(*saves), recomputable=CORE_ATTENTION, tags={"batched": "heads", "depth": str(depth)},
        )  # fmt: skip

    ops = [batched("scores", inputs, scores, shape.head_dim, (), inputs)]
    softmax = ctx.elementwise(
        f"{name}.softmax", (scores,), (probabilities,), saves=(probabilities,), recomputable=CORE_ATTENTION, flops=5.0
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
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434 §2.1), keys and values expanded as in training."""
    heads = spec.num_attention_heads
    ops: list[Op] = []
    q_dim = Dim("heads", ((heads, spec.head_dim),))
    if spec.q_lora_rank:
        rank = Dim.of("q_rank", spec.q_lora_rank)
        down = ctx.gemm(f"{name}.q_a", source, ctx.hidden, rank)
        normed = ctx.activation(f"{name}.q_norm.out", rank)
        norm = ctx.elementwise(
            f"{name}.q_norm",
            (down.writes[0], ctx.param(f"{name}.q_norm.weight", rank)),
            (normed,),
            saves=(down.writes[0],),
            flops=8.0,
        )
        up = ctx.gemm(f"{name}.q_b", normed, rank, q_dim)
        ops += [down, norm, up]
    else:
        ops.append(ctx.gemm(f"{name}.q", source, ctx.hidden, q_dim))
    query = ops[-1].writes[0]
    rank = Dim("kv_rank", ((spec.kv_lora_rank, 1), (spec.qk_rope_head_dim, 1)))
    compressed = Dim.of("kv_rank", spec.kv_lora_rank)
    down = ctx.gemm(f"{name}.kv_a", source, ctx.hidden, rank)
    normed = ctx.activation(f"{name}.kv_norm.out", compressed)
    norm = ctx.elementwise(
        f"{name}.kv_norm",
        (down.writes[0], ctx.param(f"{name}.kv_norm.weight", compressed)),
        (normed,),
        saves=(down.writes[0],),
        flops=8.0,
    )
    expanded = Dim("heads", ((heads, spec.qk_nope_head_dim), (heads, spec.v_head_dim)))
    up = ctx.gemm(f"{name}.kv_b", normed, compressed, expanded)
    keys = ctx.activation(f"{name}.keys", Dim("heads", ((heads, spec.head_dim),)))
    join = ctx.elementwise(f"{name}.rotary", (up.writes[0], down.writes[0], query), (keys,), flops=3.0)
    ops += [down, norm, up, join]
    shape = AttentionShape(
        q_dim, q_dim, spec.head_dim, spec.v_head_dim, ctx.sequence,
        mean_context(ctx.sequence, ctx.sequence, spec.causal, 0), spec.causal,
    )  # fmt: skip
    context = ctx.activation(f"{name}.context", Dim("heads", ((heads, spec.v_head_dim),)))
    ops += _core(name, (query, keys, up.writes[0]), context, shape, ctx.sequence, ctx)
    output = ctx.gemm(f"{name}.output", context, context.dims[-1], ctx.hidden)
    return [*ops, output], output.writes[0]


def linear_projection(spec: AttentionSpec) -> Dim:
    """Outputs of the input projection of a recurrent mixer, in units that tensor parallelism may cut.

    Mamba-2 (arXiv 2405.21060 §7): gate z and x of inner width, B and C per group, dt per head. Gated delta net
    (arXiv 2412.06464): q, k of key width, v and gate of inner width, two scalars per value head. Mamba-1 projects
    x and z only; lightning attention q, k, v and gate of inner width.
    """
    heads, value = spec.num_attention_heads, spec.v_head_dim
    if spec.mixer == "mamba1":
        return Dim("heads", ((heads, value), (heads, value)))
    if spec.mixer == "mamba2":
        return Dim(
            "heads",
            (
                (heads, value),
                (heads, value),
                (spec.num_groups, spec.state_size),
                (spec.num_groups, spec.state_size),
                (heads, 1),
            ),
        )
    if spec.mixer == "gated-delta-net":
        keys = spec.num_key_value_heads
        return Dim(
            "heads",
            ((keys, spec.head_dim), (keys, spec.head_dim), (heads, value), (heads, value), (heads, 1), (heads, 1)),
        )
    parts = [(heads, spec.head_dim), (heads, spec.head_dim), (heads, value)]
    return Dim("heads", (*parts, (heads, value)) if spec.gated_output else tuple(parts))


def _linear(name: str, spec: AttentionSpec, source: Tensor, ctx: LoweringContext) -> tuple[list[Op], Tensor]:
    """A recurrent mixer: projection, short convolution, scan with a state of fixed size, gated norm, projection."""
    projected = linear_projection(spec)
    inner = Dim("heads", ((spec.num_attention_heads, spec.v_head_dim),))
    project = ctx.gemm(f"{name}.in", source, ctx.hidden, projected, bias=spec.qkv_bias)
    ops, mixed = [project], project.writes[0]
    if spec.conv_kernel:
        convolved = ctx.activation(f"{name}.conv.out", projected)
        weight = ctx.param(f"{name}.conv.weight", projected, Dim.of("taps", spec.conv_kernel))
        ops.append(
            ctx.elementwise(f"{name}.conv", (mixed, weight), (convolved,), saves=(mixed,), flops=2.0 * spec.conv_kernel)
        )
        mixed = convolved
    state = spec.state_size or spec.head_dim
    context = ctx.activation(f"{name}.context", inner)
    # Per token and inner channel the state is decayed, updated and read out: 2 FLOPs each per state element.
    ops.append(ctx.elementwise(f"{name}.scan", (mixed,), (context,), saves=(mixed,), flops=6.0 * state))
    gated = ctx.activation(f"{name}.gate.out", inner)
    ops.append(ctx.elementwise(f"{name}.gate", (context, project.writes[0]), (gated,), saves=(context,), flops=10.0))
    output = ctx.gemm(f"{name}.output", gated, inner, ctx.hidden, bias=spec.output_bias)
    return [*ops, output], output.writes[0]
