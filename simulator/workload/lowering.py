"""Lowering: a ModelSpec becomes Blocks of forward Ops on tensors with named dimensions.

Everything here is unsharded and strategy-free; passes change it later. The activations marked ``saves`` are
those that the backward needs, so the published activation formula sbh(34 + 5as/h) (Korthikanti et al.,
arXiv 2205.05198, eq. 2) falls out of the Ops of a GPT layer instead of being typed in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from simulator.workload.autodiff import GRADIENT_ELSEWHERE
from simulator.workload.framework import Framework
from simulator.workload.lowering_attention import lower_attention
from simulator.workload.lowering_mlp import lower_mlp
from simulator.workload.model import LayerSpec, ModelSpec
from simulator.workload.ops import Block, Dim, Op, OpKind, Phase, Tensor, TensorClass

__all__ = ["LoweringContext", "lower_embedding", "lower_head", "lower_layer"]


@dataclass(frozen=True)
class LoweringContext:
    """Sizes and software that lowering needs.

    Attributes
    ----------
    model
        For its widths.
    batch, sequence
        Sequences and tokens per sequence that pass through one Op. Serving uses batch 1 and all tokens of the
        iteration as the sequence.
    training
        Whether backward will follow: only then are activations saved and dropout applied.
    framework
        Fusion and attention kernel.
    encoder_sequence
        Tokens of the encoder that cross-attention reads.
    """

    model: ModelSpec
    batch: int
    sequence: int
    training: bool
    framework: Framework
    encoder_sequence: int = 0
    dtype: str = "bf16"

    @property
    def dropout(self) -> bool:
        """Whether dropout masks exist."""
        wanted = self.framework.dropout if self.framework.dropout is not None else self.model.dropout
        return self.training and wanted

    @property
    def hidden(self) -> Dim:
        """The residual width."""
        return Dim.of("hidden", self.model.hidden_size)

    @property
    def tokens(self) -> tuple[Dim, Dim]:
        """Batch and sequence dimensions."""
        return Dim.of("batch", self.batch), Dim.of("seq", self.sequence)

    def activation(self, name: str, *dims: Dim, dtype: str = "") -> Tensor:
        """An activation over all tokens with the given further dimensions."""
        return Tensor(name, TensorClass.ACTIVATION, (*self.tokens, *dims), dtype or self.dtype)

    def param(self, name: str, *dims: Dim, dtype: str = "") -> Tensor:
        """A parameter."""
        return Tensor(name, TensorClass.PARAM, dims, dtype or self.dtype)

    def saved(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """``tensors`` when training, else nothing."""
        return tensors if self.training else ()

    def gemm(
        self,
        name: str,
        source: Tensor,
        inner: Dim,
        outer: Dim,
        *,
        bias: bool = False,
        out: str = "",
        param: str = "",
        recomputable: str = "",
    ) -> Op:
        """A linear layer ``source[..., inner] · W[inner, outer]``; the bias rides along as a read."""
        weight = self.param(param or f"{name}.weight", inner, outer)
        reads = (source, weight) + ((self.param(f"{name}.bias", outer),) if bias else ())
        return Op(
            name,
            OpKind.GEMM,
            Phase.FORWARD,
            self.dtype,
            reads,
            (self.activation(out or f"{name}.out", outer),),
            (*self.tokens, inner, outer),
            2.0,
            contracts=(inner.name,),
            saves=self.saved(source),
            recomputable=recomputable,
        )

    def elementwise(
        self,
        name: str,
        reads: tuple[Tensor, ...],
        writes: tuple[Tensor, ...],
        *,
        saves: tuple[Tensor, ...] = (),
        residual: bool = False,
        recomputable: str = "",
        flops: float = 1.0,
        contracts: tuple[str, ...] = (),
    ) -> Op:
        """A memory-bound kernel; ``flops`` per element written."""
        return Op(
            name,
            OpKind.ELEMENTWISE,
            Phase.FORWARD,
            self.dtype,
            reads,
            writes,
            writes[0].dims,
            flops,
            contracts=contracts,
            saves=self.saved(*saves),
            residual=residual,
            recomputable=recomputable,
        )

    def norm(self, name: str, source: Tensor, layer: LayerSpec) -> tuple[list[Op], Tensor]:
        """A norm of the residual stream; returns its Ops and output."""
        out = self.activation(f"{name}.out", self.hidden)
        weights: tuple[Tensor, ...] = ()
        if layer.norm != "none_affine":
            weights = (self.param(f"{name}.weight", self.hidden),)
        if layer.norm == "layer":
            weights += (self.param(f"{name}.bias", self.hidden),)
        kept: tuple[Tensor, ...] = (source,)
        if (
            layer.norm == "rms" and "rms_norm" in self.framework.composite
        ):  # the product with the weight is its own kernel
            kept += (self.activation(f"{name}.normed", self.hidden),)
        return [self.elementwise(name, (source, *weights), (out,), saves=kept, residual=True, flops=8.0)], out

    def residual_add(self, name: str, branch: Tensor, stream: Tensor) -> tuple[list[Op], Tensor]:
        """Dropout (if any) and addition to the residual stream, one fused kernel or two."""
        out = self.activation(f"{name}.out", self.hidden)
        mask = self.activation(f"{name}.mask", self.hidden, dtype="bool")
        masks = (mask,) if self.dropout else ()
        if self.framework.fused_kernels or not masks:
            return [self.elementwise(name, (branch, stream), (out, *masks), saves=masks, residual=True, flops=2.0)], out
        dropped = self.activation(f"{name}.dropped", self.hidden)
        drop = self.elementwise(f"{name}.dropout", (branch,), (dropped, mask), saves=masks, residual=True)
        return [drop, self.elementwise(name, (dropped, stream), (out,), residual=True)], out


def _unattached(name: str, count: int, ctx: LoweringContext) -> list[Op]:
    """Parameters that no kernel above owns (projectors, poolers, position buckets): read once per pass."""
    if not count:
        return []
    weights = ctx.param(name, Dim.of("other", count))
    return [Op(name.removesuffix(".weight"), OpKind.ELEMENTWISE, Phase.FORWARD, ctx.dtype, (weights,))]


def _modulation(layer: LayerSpec, ctx: LoweringContext) -> list[Op]:
    """Scales and shifts of adaptive norms, projected from the conditioning once per item (DiT, arXiv 2212.09748)."""
    if not layer.adaptive_norm:
        return []
    batch, condition = ctx.tokens[0], Dim.of("condition", ctx.model.hidden_size)
    outer = Dim.of("modulation", layer.adaptive_norm // (condition.size + 1))
    source = Tensor("condition", TensorClass.ACTIVATION, (batch, condition), ctx.dtype)
    out = replace(source, name="modulation.out", dims=(batch, outer))
    op = ctx.gemm("modulation", source, condition, outer, bias=True)
    return [replace(op, writes=(out,), flop_dims=(batch, condition, outer))]


def lower_layer(layer: LayerSpec, ctx: LoweringContext) -> Block:
    """One transformer block: norm, mixer, add, (norm, cross-attention, add,) norm, MLP, add."""
    stream = boundary = ctx.activation("x", ctx.hidden)
    ops = _modulation(layer, ctx)
    modulated = ops[0].writes if ops else ()
    post_norms = layer.norms - sum(p is not None for p in (layer.attention, layer.cross_attention, layer.mlp))

    def normed(name: str, source: Tensor) -> Tensor:
        made, out = ctx.norm(name, source, layer)
        ops.extend(replace(op, reads=(*op.reads, *modulated)) for op in made)
        return out

    def branch(name: str, body: list[Op], out: Tensor, stream: Tensor) -> Tensor:
        """Close a branch: post-norm where the model has one, then the residual addition."""
        ops.extend(body)
        if post_norms >= 2:
            out = normed(f"{name}.post_norm", out)
        added, total = ctx.residual_add(f"{name}.add", out, stream)
        ops.extend(added)
        return total

    first: Tensor | None = None
    if layer.attention is not None:
        first = normed("attention.norm", stream)
        body, out = lower_attention("attention", layer.attention, first, ctx)
        stream = branch("attention", _with_extra(body, layer, ctx), out, stream)
    if layer.cross_attention is not None:
        cross = normed("cross_attention.norm", stream)
        body, out = lower_attention("cross_attention", layer.cross_attention, cross, ctx, cross=True)
        stream = branch("cross_attention", body, out, stream)
    if layer.mlp is not None:
        shared = layer.parallel_residual and layer.norms < 2  # one norm for both branches (GPT-J); Falcon has two
        source = first if shared and first is not None else normed("mlp.norm", stream)
        body, out = lower_mlp("mlp", layer.mlp, source, ctx)
        branch("mlp", body, out, stream)
    return Block("layer", tuple(ops), (), boundary)


def _with_extra(body: list[Op], layer: LayerSpec, ctx: LoweringContext) -> list[Op]:
    """The mixer with its parameters that are no matrices (A, D, time-step bias ...), which its scan reads."""
    extra = layer.extra_parameters
    if layer.attention is None or layer.attention.kind != "linear" or not extra:
        return body + _unattached("layer.other.weight", extra, ctx)
    weights = ctx.param("attention.scan.weight", Dim.of("other", extra))
    return [replace(op, reads=(*op.reads, weights)) if op.name.endswith(".scan") else op for op in body]


def lower_embedding(ctx: LoweringContext) -> Block:
    """Token or patch embedding, positions and their norm; the vocabulary dimension is contracted, so sharding it
    needs a reduction. A stack that is fed by another one has no Ops here."""
    model = ctx.model
    ids = boundary = ctx.activation("token_ids", dtype="int32")
    width = Dim.of("embedding_width", model.embedding_size) if model.embedding_size else ctx.hidden
    ops: list[Op] = []
    if model.vocab_size:
        vocab = Dim.of("vocab", model.vocab_size)
        out = ctx.activation("embedding.out", width)
        table = ctx.param("embedding.weight", vocab, width)
        # A lookup touches one row per token, not the table: the rows are what is read.
        rows = ctx.activation("embedding.rows", width)
        lookup = ctx.elementwise("embedding", (ids, rows, table), (out,), contracts=("vocab",))
        ops.append(replace(lookup, tags={"lookup": table.name}))
        if model.embedding_size:
            ops.append(ctx.gemm("embedding.project", out, width, ctx.hidden))
    elif model.patch is not None:
        patch = Dim.of("patch", model.patch.patch_dim)
        boundary = ctx.activation("patches", patch)
        ops.append(ctx.gemm("embedding.patch", boundary, patch, ctx.hidden, bias=model.patch.bias))
    if ops:
        ops += _positions(ops[-1].writes[0], ctx)
    ops += _unattached("embedding.projector.weight", model.projector_parameters, ctx)
    ops += _unattached("embedding.other.weight", model.extra_parameters, ctx)
    return Block("embedding", tuple(ops), (), boundary)


def _positions(out: Tensor, ctx: LoweringContext) -> list[Op]:
    """Learned positions, token types and class tokens added by one kernel; then the embedding's norm."""
    model, ops = ctx.model, list[Op]()
    added = {
        "position": model.learned_positions,
        "token_type": model.token_types,
        "class_token": model.patch.class_tokens if model.patch else 0,
    }
    tables = tuple(ctx.param(f"{n}.weight", Dim.of(f"{n}s", rows), ctx.hidden) for n, rows in added.items() if rows)
    if tables:
        mask = ctx.activation("embedding.mask", ctx.hidden, dtype="bool")
        masks = (mask,) if ctx.dropout else ()
        total = ctx.activation("embedding.sum", ctx.hidden)
        ops.append(ctx.elementwise("embedding.position", (out, *tables), (total, *masks), saves=masks, residual=True))
        out = total
    if model.embedding_norm and model.layers:
        ops += ctx.norm("embedding.norm", out, model.layers[0][0])[0]
    return ops


def lower_head(ctx: LoweringContext) -> Block:
    """Final norm, projection to the vocabulary or classes and, when training, the cross-entropy."""
    model = ctx.model
    boundary = ctx.activation("x", ctx.hidden)
    ops: list[Op] = []
    out = boundary
    if model.final_norm:
        last = model.layers[-1][0]
        ops, out = ctx.norm("final_norm", boundary, last)
    for index in range(model.head_hidden_layers):
        dense = ctx.gemm(f"head.dense{index}", out, ctx.hidden, Dim.of("head_hidden", model.hidden_size), bias=True)
        norm, out = ctx.norm(f"head.norm{index}", dense.writes[0], model.layers[-1][0])
        ops += [dense, *norm]
    if model.head == "lm":
        ops += _token_head(out, ctx)
    elif model.head == "classes":
        ops += _class_head(out, ctx)
    return Block("head", tuple(ops), (), boundary)


def _token_head(out: Tensor, ctx: LoweringContext) -> list[Op]:
    model, ops, width = ctx.model, list[Op](), ctx.hidden
    vocab = Dim.of("vocab", max(1, model.vocab_size))
    if model.embedding_size:
        width = Dim.of("embedding_width", model.embedding_size)
        ops.append(ctx.gemm("head.project", out, ctx.hidden, width))
        out = ops[-1].writes[0]
    # A tied head reads the embedding table again; on another pipeline stage it is a second copy.
    table = "embedding.weight" if model.tie_word_embeddings else ""
    head = ctx.gemm("head", out, width, vocab, bias=model.head_bias, param=table)
    ops.append(head)
    if not ctx.training:
        return ops
    logits, loss = head.writes[0], ctx.activation("loss", dtype="fp32")
    if not ctx.framework.fused_cross_entropy:
        logits = ctx.activation("head.logits", vocab, dtype="fp32")
        ops.append(ctx.elementwise("head.cast", head.writes, (logits,)))
        if ctx.framework.vocab_parallel_loss:
            ops += _softmax_in_place(logits)
    elif ctx.framework.vocab_parallel_loss:
        ops.append(_gradient_in_place(logits))
    return [
        *ops,
        Op(
            "head.loss", OpKind.ELEMENTWISE, Phase.FORWARD, "fp32", (logits,), (loss,), logits.dims, 5.0, ("vocab",),
            saves=(logits,),
        ),
    ]  # fmt: skip


def _softmax_in_place(logits: Tensor) -> list[Op]:
    """Megatron's loss: maximum, subtraction, exponential and division are kernels that each pass over the logits; one
    pass of the loss's backward undoes them all."""
    kernels = (("max", ()), ("shift", (logits,)), ("exp", (logits,)), ("divide", (logits,)))
    return [
        Op(
            f"head.{name}", OpKind.ELEMENTWISE, Phase.FORWARD, "fp32", (logits,), writes, logits.dims, 1.0,
            tags={GRADIENT_ELSEWHERE: "head.loss"},
        )
        for name, writes in kernels
    ]  # fmt: skip


def _gradient_in_place(logits: Tensor) -> Op:
    """Transformer Engine's fused loss over a split vocabulary: one kernel reads the logits for maximum and sum, which
    the ranks exchange, a second puts the gradient in their place; the backward multiplies it by that of the loss
    (NVIDIA/TransformerEngine transformer_engine/common/triton/cross_entropy.py @294e750)."""
    return Op(
        "head.gradient", OpKind.ELEMENTWISE, Phase.FORWARD, logits.dtype, (logits,), (logits,), logits.dims, 3.0,
        tags={GRADIENT_ELSEWHERE: "head.loss"},
    )  # fmt: skip


def _class_head(out: Tensor, ctx: LoweringContext) -> list[Op]:
    """One projection per item where there is a class token (or a pooled text), else one per token (DiT)."""
    model = ctx.model
    labels = Dim.of("labels", model.num_labels)
    head = ctx.gemm("head", out, ctx.hidden, labels, bias=model.head_bias)
    if model.patch is not None and not model.patch.class_tokens:
        return [head]
    batch = ctx.tokens[0]
    pooled = replace(out, name="head.pooled", dims=(batch, ctx.hidden))
    pool = ctx.elementwise("head.pool", (out,), (pooled,))
    logits = replace(head.writes[0], dims=(batch, labels))
    return [
        pool,
        replace(
            head,
            reads=(pooled, *head.reads[1:]),
            writes=(logits,),
            flop_dims=(batch, ctx.hidden, labels),
            saves=ctx.saved(pooled),
        ),
    ]
