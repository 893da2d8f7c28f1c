"""Ops of a module for multi-token prediction: what joins the backbone's state with the next token's embedding.

DeepSeek-V3 (arXiv 2412.19437 section 2.2): the state of a token and the embedding of the token behind it, each through
a norm of its own, are projected from twice the hidden size to one; a block like the backbone's last and the shared head
follow. Embedding and head are the main model's (README_WEIGHTS.md of deepseek-ai/DeepSeek-V3).
"""

from __future__ import annotations

from dataclasses import replace

from simulator.workload.lowering import LoweringContext
from simulator.workload.ops import Block, Dim

__all__ = ["lower_prediction"]


def lower_prediction(ctx: LoweringContext) -> Block:
    """Embedding of the next token, both norms, and the projection of the two; the block behind it is a layer."""
    model = ctx.model
    boundary, ids = ctx.activation("x", ctx.hidden), ctx.activation("token_ids", dtype="int32")
    last = model.layers[-1][0]
    table = ctx.param("embedding.weight", Dim.of("vocab", model.vocab_size), ctx.hidden)
    rows, embedded = (ctx.activation(f"prediction.{part}", ctx.hidden) for part in ("rows", "embedding.out"))
    lookup = ctx.elementwise("prediction.embedding", (ids, rows, table), (embedded,), contracts=("vocab",))
    token_norm, token = ctx.norm("prediction.token_norm", embedded, last)
    state_norm, state = ctx.norm("prediction.state_norm", boundary, last)
    both = Dim("both", ((2, model.hidden_size),))
    joined = ctx.activation("prediction.joined", both)
    join = ctx.elementwise("prediction.join", (token, state), (joined,), residual=True)
    project = ctx.gemm("prediction.project", joined, both, ctx.hidden)
    ops = (replace(lookup, tags={"lookup": table.name}), *token_norm, *state_norm, join, project)
    return Block("prediction", ops, (), boundary)
