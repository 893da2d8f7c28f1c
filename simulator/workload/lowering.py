"""Lowering: a ModelSpec becomes Blocks of forward Ops on tensors with named dimensions.

Everything here is unsharded and strategy-free; passes change it later. The activations marked ``saves`` are
those that the backward needs, so the published activation formula sbh(34 + 5as/h) (Korthikanti et al.,
arXiv 2205.05198, eq. 2) falls out of the Ops of a GPT layer instead of being typed in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
        self, name: str, source: Tensor, inner: Dim, outer: Dim, *, bias: bool = False, out: str = "", param: str = "",
        recomputable: str = "",
    ) -> Op:  # fmt: skip
        """A linear layer ``source[..., inner] · W[inner, outer]``; the bias rides along as a read."""
        weight = self.param(param or f"{name}.weight", inner, outer)
        reads = (source, weight) + ((self.param(f"{name}.bias", outer),) if bias else ())
        return Op(
            name, OpKind.GEMM, Phase.FORWARD, self.dtype, reads, (self.activation(out or f"{name}.out", outer),),
            (*self.tokens, inner, outer), 2.0, contracts=(inner.name,), saves=self.saved(source), recomputable=recomputable,
        )  # fmt: skip

    def elementwise(
        self, name: str, reads: tuple[Tensor, ...], writes: tuple[Tensor, ...], *, saves: tuple[Tensor, ...] = (),
        residual: bool = False, recomputable: str = "", flops: float = 1.0, contracts: tuple[str, ...] = (),
    ) -> Op:  # fmt: skip
        """A memory-bound kernel; ``flops`` per element written."""
        return Op(
            name, OpKind.ELEMENTWISE, Phase.FORWARD, self.dtype, reads, writes, writes[0].dims, flops, contracts=contracts,
            saves=self.saved(*saves), residual=residual, recomputable=recomputable,
        )  # fmt: skip

    def norm(self, name: str, source: Tensor, layer: LayerSpec) -> tuple[list[Op], Tensor]:
        """A norm of the residual stream; returns its Ops and output."""
        out = self.activation(f"{name}.out", self.hidden)
        weights: tuple[Tensor, ...] = ()
        if layer.norm != "none_affine":
            weights = (self.param(f"{name}.weight", self.hidden),)
        if layer.norm == "layer":
            weights += (self.param(f"{name}.bias", self.hidden),)
        return [self.elementwise(name, (source, *weights), (out,), saves=(source,), residual=True, flops=8.0)], out

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


def lower_layer(layer: LayerSpec, ctx: LoweringContext) -> Block:
    """One transformer block: norm, mixer, add, (norm, cross-attention, add,) norm, MLP, add."""
    stream = boundary = ctx.activation("x", ctx.hidden)
    ops: list[Op] = []
    post_norms = layer.norms - sum(p is not None for p in (layer.attention, layer.cross_attention, layer.mlp))

    def branch(name: str, source: Tensor, body: list[Op], out: Tensor, stream: Tensor) -> Tensor:
        """Close a branch: post-norm where the model has one, then the residual addition."""
        ops.extend(body)
        if post_norms >= 2:
            extra, out = ctx.norm(f"{name}.post_norm", out, layer)
            ops.extend(extra)
        added, total = ctx.residual_add(f"{name}.add", out, stream)
        ops.extend(added)
        return total

    normed: Tensor | None = None
    if layer.attention is not None:
        head, normed = ctx.norm("attention.norm", stream, layer)
        ops.extend(head)
        body, out = lower_attention("attention", layer.attention, normed, ctx)
        stream = branch("attention", normed, body, out, stream)
    if layer.cross_attention is not None:
        head, cross = ctx.norm("cross_attention.norm", stream, layer)
        ops.extend(head)
        body, out = lower_attention("cross_attention", layer.cross_attention, cross, ctx, cross=True)
        stream = branch("cross_attention", cross, body, out, stream)
    if layer.mlp is not None:
        if layer.parallel_residual and normed is not None:
            source = normed
        else:
            head, source = ctx.norm("mlp.norm", stream, layer)
            ops.extend(head)
        body, out = lower_mlp("mlp", layer.mlp, source, ctx)
        branch("mlp", source, body, out, stream)
    return Block("layer", tuple(ops), (), boundary)


def lower_embedding(ctx: LoweringContext) -> Block:
    """Token (and position) embedding; the vocabulary dimension is contracted, so sharding it needs a reduction."""
    model = ctx.model
    vocab = Dim.of("vocab", max(1, model.vocab_size))
    out = ctx.activation("embedding.out", ctx.hidden)
    ids = ctx.activation("token_ids", dtype="int32")
    table = ctx.param("embedding.weight", vocab, ctx.hidden)
    # A lookup touches one row per token, not the table: the rows are what is read.
    rows = ctx.activation("embedding.rows", ctx.hidden)
    lookup = ctx.elementwise("embedding", (ids, rows, table), (out,), contracts=("vocab",))
    ops = [replace(lookup, tags={"lookup": table.name})]
    if model.learned_positions:
        positions = ctx.param("position.weight", Dim.of("positions", model.learned_positions), ctx.hidden)
        mask = ctx.activation("embedding.mask", ctx.hidden, dtype="bool")
        masks = (mask,) if ctx.dropout else ()
        added = ctx.activation("embedding.sum", ctx.hidden)
        ops.append(ctx.elementwise("embedding.position", (out, positions), (added, *masks), saves=masks, residual=True))
    return Block("embedding", tuple(ops), (), ids)


def lower_head(ctx: LoweringContext) -> Block:
    """Final norm, projection to the vocabulary and, when training, the cross-entropy on fp32 logits."""
    model = ctx.model
    vocab = Dim.of("vocab", max(1, model.vocab_size))
    boundary = ctx.activation("x", ctx.hidden)
    ops: list[Op] = []
    out = boundary
    if model.final_norm:
        last = model.layers[-1][0]
        ops, out = ctx.norm("final_norm", boundary, last)
    if model.head == "lm":
        # A tied head reads the embedding table again; on another pipeline stage it is a second copy.
        ops.append(
            ctx.gemm("head", out, ctx.hidden, vocab, param="embedding.weight" if model.tie_word_embeddings else "")
        )
        if ctx.training:
            logits = ctx.activation("head.logits", vocab, dtype="fp32")
            ops.append(ctx.elementwise("head.cast", (ops[-1].writes[0],), (logits,)))
            loss = ctx.activation("loss", dtype="fp32")
            ops.append(
                Op(
                    "head.loss",
                    OpKind.ELEMENTWISE,
                    Phase.FORWARD,
                    "fp32",
                    (logits,),
                    (loss,),
                    logits.dims,
                    5.0,
                    ("vocab",),
                    saves=(logits,),
                )
            )
    return Block("head", tuple(ops), (), boundary)
