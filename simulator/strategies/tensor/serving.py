"""Layouts of serving that move activations or weights, whichever is less (Pope et al. 2022, arXiv 2211.05102).

The ranks of ``tp`` form a grid. The width of the residual stream is cut over ``tensor_rows`` neighbours (the axis X of
the paper), the wide dimensions (heads, MLP, vocabulary) over the others (YZ). A matrix product gathers its input over
the axis that cuts its output and sums its output over the axis that cuts its input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

from simulator.registry import register
from simulator.strategies.protocols import PassStage
from simulator.strategies.tensor.attention_split import AttentionSplit
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Collective, Dim, Op, OpKind, Stream, Tensor, TensorClass
from simulator.workload.plan import Plan, sub_axis

__all__ = ["WeightGathered", "WeightStationary2D"]

NARROW = ("hidden",)
WIDE = ("heads", "kv_heads", "ffn", "vocab")
TOKENS = "seq"
"""An iteration's tokens are one row of this dimension."""

PAPER = "Pope et al. 2022, Efficiently Scaling Transformer Inference, arXiv 2211.05102"
ROW = "Pope et al. (Efficiently scaling)"


@dataclass(frozen=True)
class Axes:
    """Mesh axes that cut the narrow and the wide dimensions, and the tokens (weights are gathered along it)."""

    narrow: str = ""
    wide: str = ""
    tokens: str = ""

    def own(self, dim: str) -> str:
        """The axis that cuts a dimension of a weight, empty if none does."""
        return self.narrow if dim in NARROW else self.wide if dim in WIDE else ""

    def all_widths(self) -> tuple[str, ...]:
        """Axes that cut a width of an activation at rest."""
        return tuple(a for a in (self.narrow, self.wide) if a)


class GatheringLayout(ABC):
    """Common part: where tensors rest and which collectives a product implies."""

    name: str
    stage = PassStage.PARTITION

    @abstractmethod
    def axes(self, plan: Plan) -> Axes:
        """The axes of the grid; those of a single rank are left out."""

    @abstractmethod
    def attention_split(self, plan: Plan) -> AttentionSplit:
        """How the ranks share attention."""

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Dense layers with softmax attention whose heads divide."""
        ranks, rows = plan.tensor_parallel, plan.option("tensor_rows")
        if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1 or ranks % rows):
            return f"{self.name}: tensor_rows {rows!r} does not divide the {ranks} tensor-parallel ranks"
        if plan.sequence_parallel:
            return f"{self.name} already cuts the residual stream; use sequence_parallel false"
        heads = self.attention_split(plan).heads
        for layer, _ in model.layers:
            mixer = layer.attention
            if (
                mixer is None or mixer.kind not in ("full", "sliding") or layer.cross_attention is not None
                or layer.mlp is None or layer.mlp.is_moe
            ):  # fmt: skip
                return f"{self.name} is for dense decoders with softmax attention, not {model.name}; use megatron-1d"
            if mixer.num_attention_heads % heads:
                return (
                    f"{self.name} cuts the {mixer.num_attention_heads} attention heads in {heads}, which does not fit"
                )
        return ""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Shards, and what moves between them."""
        if plan.tensor_parallel == 1:
            return block
        axes = self.axes(plan)
        stream = Stream.SCALE_UP if framework.tensor_parallel_overlap else Stream.COMPUTE
        shards = self.attention_split(plan).sequences if not axes.tokens else 1
        forward = tuple(made for op in block.forward for made in _rewrite(op, axes, stream, shards > 1))
        boundary = _rest(block.boundary, axes)
        return replace(block, forward=forward, backward=(), boundary=boundary)


def _rest(tensor: Tensor, axes: Axes) -> Tensor:
    """A tensor as it lies between Ops: weights in tiles, activations cut along their width over all of the grid."""
    if tensor.cls is TensorClass.PARAM:
        for dim in filter((*NARROW, *WIDE).__contains__, tensor.dim_names):
            for axis in (axes.own(dim),) if len(tensor.dims) > 1 else axes.all_widths():
                tensor = tensor.sharded(dim, axis) if axis else tensor
        if axes.tokens and len(tensor.dims) > 1:
            tensor = tensor.sharded(tensor.dim_names[-1], axes.tokens)
        return tensor
    for dim in filter((*NARROW, *WIDE).__contains__, tensor.dim_names):
        for axis in axes.all_widths():
            tensor = tensor.sharded(dim, axis)
    return tensor.sharded(TOKENS, axes.tokens) if axes.tokens else tensor


def _rewrite(op: Op, axes: Axes, stream: Stream, by_sequence: bool) -> Iterator[Op]:
    placed = replace(
        op, reads=tuple(_rest(t, axes) for t in op.reads), writes=tuple(_rest(t, axes) for t in op.writes), saves=()
    )
    if op.kind is OpKind.GEMM:
        yield from _product(placed, axes, stream)
        return
    if "lookup" in op.tags:
        yield from _look_up(placed, axes, stream)
        return
    widths = [(d, a) for d in (*NARROW, *WIDE) if d in op.dim_names for a in axes.all_widths()]
    rows = [(TOKENS, axes.tokens)] if axes.tokens else []
    placed = replace(placed, sharding=(*op.sharding, *rows, *widths))
    if op.kind is OpKind.ATTENTION and by_sequence:
        # Queries, keys and values go from the rank of their head to the rank of their sequence, and the result back.
        for tensor in placed.reads:
            yield _step(op, f"deal.{tensor.name}", Collective.ALL_TO_ALL, "tp", tensor, tensor, stream)
        yield placed
        for tensor in placed.writes:
            yield _step(op, f"return.{tensor.name}", Collective.ALL_TO_ALL, "tp", tensor, tensor, stream)
        return
    yield placed
    if op.residual and "norm" in op.name:  # mean and variance over the whole width
        first = placed.writes[0]
        sums = replace(first, name=f"{op.name}.sums", dims=(*first.dims[:2], Dim.of("sums", 2)), dtype="fp32")
        for axis in axes.all_widths():
            yield _step(placed, f"sums.{axis}", Collective.ALL_REDUCE, axis, sums, sums, stream)


def _product(op: Op, axes: Axes, stream: Stream) -> Iterator[Op]:
    """Gather the weight (where the tokens are cut) and the input, multiply, sum the output."""
    weight = next(t for t in op.reads if t.cls is TensorClass.PARAM)
    inner, outer = (axes.own(d) for d in weight.dim_names[-2:])
    reads = list(op.reads)
    if axes.tokens:
        whole = replace(weight.gathered(axes.tokens), name=f"{weight.name}|whole", cls=TensorClass.WORKSPACE)
        yield _step(op, "weights", Collective.ALL_GATHER, axes.tokens, weight, whole, stream)
        reads[reads.index(weight)] = whole
    if outer:
        source = op.reads[0]
        whole_input = replace(source.gathered(outer), name=f"{source.name}|{op.name}")
        yield _step(op, "input", Collective.ALL_GATHER, outer, source, whole_input, stream)
        reads[0] = whole_input
    target = op.writes[0]
    partial = replace(target.gathered(inner), name=f"{target.name}|partial") if inner else target
    cuts = [(d, a) for d, a in zip(weight.dim_names[-2:], (inner, outer), strict=True) if a]
    cuts += [(TOKENS, axes.tokens)] if axes.tokens else []
    yield replace(op, reads=tuple(reads), writes=(partial, *op.writes[1:]), sharding=tuple(cuts))
    if inner:
        yield _step(op, "output", Collective.REDUCE_SCATTER, inner, partial, target, stream)


def _look_up(op: Op, axes: Axes, stream: Stream) -> Iterator[Op]:
    """Every rank finds the rows of its tile of the table; their parts go where the tokens are, and are summed."""
    ids, rows, table = op.reads
    target = op.writes[0]
    found = replace(
        target, name=f"{target.name}|found", sharding=tuple((d, a) for d, a in table.sharding if d in NARROW)
    )
    here = replace(rows, sharding=found.sharding)
    yield replace(op, reads=(ids.gathered(axes.tokens), here, table), writes=(found,), sharding=table.sharding)
    if axes.tokens:
        moved = replace(found.gathered(axes.tokens).sharded(TOKENS, axes.tokens), name=f"{target.name}|moved")
        yield _step(op, "rows", Collective.ALL_TO_ALL, axes.tokens, found, moved, stream)
        found = moved
    if axes.wide:
        yield _step(op, "sum", Collective.REDUCE_SCATTER, axes.wide, found, target, stream)


def _step(op: Op, name: str, kind: Collective, axis: str, read: Tensor, write: Tensor, stream: Stream) -> Op:
    return Op(
        f"{op.name}.{name}", OpKind.COLLECTIVE, op.phase, read.dtype, (read,), (write,), collective=kind, axis=axis,
        stream=stream,
    )  # fmt: skip


@register(
    "weight-stationary-2d", kind="pass", area="serving", family="tensor", cites=(PAPER,), catalogue=(ROW,),
    validated_by="closed_form",
)  # fmt: skip
class WeightStationary2D(GatheringLayout):
    """Weights stay, cut X × YZ: per MLP and rank 2·B·L·(E/X + F/YZ) numbers move, 8·B·L·E/√n at the best X = √n/2.

    Option ``tensor_rows`` is X: 1 is the paper's 1-D layout, whose 2·B·L·E do not shrink with more ranks. Option
    ``attention_over`` says what of attention a rank has: ``heads`` (all that share a key/value head read it), or
    ``sequences``, the paper's layout for multi-query attention: queries travel to the rank of their sequence, and the
    cache is cut over all ranks however few heads it has.
    """

    def axes(self, plan: Plan) -> Axes:
        """X neighbours along the residual stream, the others along the wide dimensions."""
        ranks, rows = plan.tensor_parallel, plan.group_size("tensor_rows", "tp", 1)
        narrow = sub_axis("tp", 1, rows, ranks) if rows > 1 else ""
        return Axes(narrow, sub_axis("tp", rows, ranks, ranks) if rows < ranks else "")

    def attention_split(self, plan: Plan) -> AttentionSplit:
        """Heads over all ranks, or sequences."""
        if plan.option("attention_over", "heads") == "sequences":
            return AttentionSplit(1, plan.tensor_parallel)
        return AttentionSplit(plan.tensor_parallel)

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Also a known way to share attention."""
        over = plan.option("attention_over", "heads")
        if over not in ("heads", "sequences"):
            return f"{self.name}: attention_over is 'heads' or 'sequences', not {over!r}"
        return super().check(model, plan)


@register(
    "weight-gathered", kind="pass", area="serving", family="tensor", cites=(PAPER,), catalogue=(ROW,),
    validated_by="closed_form",
)  # fmt: skip
class WeightGathered(GatheringLayout):
    """Sequences stay on N ranks that gather the weights: per MLP and rank 2·E·F·N/n + 2·B·L·E/N numbers move.

    Option ``tensor_rows`` is N (all ranks by default: X, XY or XYZ of the paper). Each group of N neighbours cuts the
    tokens, the groups cut the wide dimensions as in one dimension. Best for N = √(B·L·n/F): prompts, not tokens. With
    N = 1 it is ``megatron-1d`` with a sharded residual stream.
    """

    def axes(self, plan: Plan) -> Axes:
        """N neighbours along the tokens, the others along the wide dimensions."""
        ranks, gathered = plan.tensor_parallel, self._gathered(plan)
        wide = sub_axis("tp", gathered, ranks, ranks) if gathered < ranks else ""
        return Axes("", wide, sub_axis("tp", 1, gathered, ranks) if gathered > 1 else "")

    def attention_split(self, plan: Plan) -> AttentionSplit:
        """Sequences over the ranks that gather, heads over the others."""
        gathered = self._gathered(plan)
        return AttentionSplit(plan.tensor_parallel // gathered, gathered)

    @staticmethod
    def _gathered(plan: Plan) -> int:
        return plan.group_size("tensor_rows", "tp", plan.tensor_parallel)
