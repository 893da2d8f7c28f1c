"""Ops of the indexer that chooses which tokens sparse latent attention reads.

DeepSeek-V3.2 (arXiv 2512.02556 §2.1): small heads score every earlier token, I = Σ over heads of w · ReLU(q · k), and
the ``index_topk`` highest are attended. Queries come from the compressed query, one key of ``index_head_dim`` numbers
per token is kept in fp8. Every tensor-parallel rank computes all of it, since every rank needs the same places.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from simulator.workload.model import AttentionSpec
from simulator.workload.ops import AttentionShape, Dim, Op, OpKind, Phase, Tensor

if TYPE_CHECKING:
    from simulator.workload.lowering import LoweringContext

__all__ = ["lower_index"]


def lower_index(
    name: str, spec: AttentionSpec, source: Tensor, compressed: Tensor, ctx: LoweringContext
) -> tuple[list[Op], Tensor]:
    """Projections, scores and selection of one layer, and the chosen places [batch, seq, places].

    Parameters
    ----------
    source
        Input of the layer, from which keys and the weights of heads are projected.
    compressed
        What the queries are projected from: the normed low-rank query, or the input.

    Notes
    -----
    A serving engine prices scores and selection by the context (:mod:`simulator.serving.sparse_terms`): there the
    selection is left out.
    """
    heads, width = spec.index_n_heads, spec.index_head_dim
    query = ctx.gemm(f"{name}.index_q", compressed, compressed.dims[-1], Dim("index_heads", ((heads, width),)))
    key = ctx.gemm(f"{name}.index_k", source, ctx.hidden, Dim.of("index_key", width))
    weights = ctx.gemm(f"{name}.index_weights", source, ctx.hidden, Dim.of("index_weights", heads))
    normed = replace(key.writes[0], name=f"{name}.index_norm.out")
    parameters = tuple(ctx.param(f"{name}.index_norm.{p}", normed.dims[-1]) for p in ("weight", "bias"))
    norm = ctx.elementwise(
        f"{name}.index_norm", (key.writes[0], *parameters), (normed,), saves=(key.writes[0],), flops=8.0
    )
    mean = (ctx.sequence + 1) / 2 if spec.causal else float(ctx.sequence)
    units, keys = Dim.of("index_heads", heads), Dim.of("keys", max(1, round(mean)))
    shape = AttentionShape(query.writes[0].dims[-1], normed.dims[-1], width, 0, ctx.sequence, mean, spec.causal)
    scored = ctx.activation(f"{name}.index_scores", keys, dtype="fp32")
    scores = Op(
        f"{name}.index_scores", OpKind.ATTENTION, Phase.FORWARD, ctx.dtype,
        (query.writes[0], normed, weights.writes[0]), (scored,), (*ctx.tokens, keys, units), 2.0 * width,
        saves=ctx.saved(query.writes[0], normed, weights.writes[0]), attention=shape,
    )  # fmt: skip
    ops = [query, key, weights, norm, scores]
    if not ctx.training:
        return ops, scored
    places = ctx.activation(f"{name}.select.out", Dim.of("chosen", min(spec.index_topk, ctx.sequence)), dtype="int32")
    return [*ops, ctx.elementwise(f"{name}.select", (scored,), (places,))], places
