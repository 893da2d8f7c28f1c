"""Tensor parallelism on grids of ranks: activations and weights are both tiled, and every matrix product moves tiles.

The ranks of ``tp`` form a grid through the options ``tensor_rows`` (ranks of one row, neighbours) and, for three
dimensions, ``tensor_depth`` (ranks of one layer of the grid). All traffic is explicit broadcasts, gathers and
reductions along its rows, columns and depth; the topology prices them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

from simulator.registry import register
from simulator.strategies.protocols import PassStage
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Collective, Dim, Op, OpKind, Phase, Stream, Tensor, TensorClass
from simulator.workload.plan import Plan, sub_axis

__all__ = ["Cube", "Summa", "Tesseract"]

WIDTHS = ("hidden", "heads", "kv_heads", "ffn", "vocab", "embedding_width", "head_hidden", "expert_ffn", "router")
"""Dimensions of activations that run along the rows of the grid."""

ROWS = ("batch", "routed")
"""Dimensions that run along the columns: sequences, and the rows that a mixture makes of their tokens."""


@dataclass(frozen=True)
class Grid:
    """Mesh axes: ``along`` joins the ranks of a row, ``across`` those of a column, ``deep`` the layers."""

    side: int
    along: str
    across: str
    deep: str
    depth: int


def grid_of(plan: Plan) -> Grid:
    """The grid that the plan's options describe."""
    ranks = plan.tensor_parallel
    row = plan.group_size("tensor_rows", "tp", ranks)
    layer = plan.group_size("tensor_depth", "tp", ranks) if plan.option("tensor_depth") else ranks
    side, depth = row, ranks // layer
    return Grid(
        side,
        sub_axis("tp", 1, row, ranks),
        sub_axis("tp", row, layer, ranks),
        sub_axis("tp", layer, ranks, ranks),
        depth,
    )


class GridTensorParallel(ABC):
    """Common part: where tensors lie and which Ops are matrix products."""

    name: str
    stage = PassStage.PARTITION

    # -- what a layout says ---------------------------------------------------------------------------------------

    @abstractmethod
    def shape(self, plan: Plan) -> str:
        """Empty, or why the ranks do not form this grid and what would."""

    def batch_axes(self, grid: Grid) -> tuple[str, ...]:
        """Axes that cut the batch."""
        return (grid.across,)

    def width_axes(self, grid: Grid) -> tuple[str, ...]:
        """Axes that cut the widths of activations and the outputs of weights."""
        return (grid.along,)

    @abstractmethod
    def product(self, op: Op, grid: Grid, stream: Stream) -> Iterator[Op]:
        """Steps of one matrix product."""

    # -- what they share ------------------------------------------------------------------------------------------

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """A grid of the right shape, softmax attention, heads that divide, experts that stay in their grid."""
        if plan.tensor_parallel == 1:
            return ""
        if reason := self.shape(plan):
            return reason
        if plan.sequence_parallel:
            return f"{self.name} already cuts the residual stream; use sequence_parallel false"
        grid = grid_of(plan)
        cut = math.prod(plan.mesh[a] for a in self.width_axes(grid))
        for layer, _ in model.layers:
            mixer = layer.attention
            if mixer is not None and mixer.kind not in ("full", "sliding"):
                return f"{self.name} is for layers with softmax attention, not for {model.name}; use megatron-1d"
            if layer.mlp is not None and layer.mlp.is_moe and plan.expert_parallel > 1:
                return (
                    f"{self.name} tiles every expert over its grid; no system is known that also spreads experts over "
                    f"grids, so use expert_parallel 1 instead of {plan.expert_parallel}, or tensor megatron-1d"
                )
            if mixer is not None and mixer.num_attention_heads % cut:
                heads = mixer.num_attention_heads
                return f"{self.name} cuts the {heads} attention heads in {cut}, which does not divide them"
        return ""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Tiles, and the steps that move them."""
        if plan.tensor_parallel == 1:
            return block
        grid = grid_of(plan)
        stream = Stream.SCALE_UP if framework.tensor_parallel_overlap else Stream.COMPUTE
        forward = tuple(made for op in block.forward for made in self._rewrite(op, grid, stream))
        backward = tuple(made for op in block.backward for made in self._rewrite(op, grid, stream))
        placed = replace(block, forward=forward, backward=backward, boundary=self.place(block.boundary, grid))
        return self.finish(placed, grid, framework)

    def finish(self, block: Block, grid: Grid, framework: Framework) -> Block:
        """Reductions once per step."""
        return block

    def place(self, tensor: Tensor, grid: Grid) -> Tensor:
        """The tensor as tiles."""
        if tensor.cls in (TensorClass.PARAM, TensorClass.GRAD):
            if len(tensor.dims) > 1:
                tensor = tensor.sharded(tensor.dims[-2].name, grid.across)
            last = tensor.dims[-1].name
            return _cut(tensor, last, self.width_axes(grid)) if len(tensor.dims) > 1 or last in WIDTHS else tensor
        for dim in ROWS:
            tensor = _cut(tensor, dim, self.batch_axes(grid))
        for dim in tensor.dim_names[1:]:
            if dim in WIDTHS:
                tensor = _cut(tensor, dim, self.width_axes(grid))
        return tensor

    def _rewrite(self, op: Op, grid: Grid, stream: Stream) -> Iterator[Op]:
        def tiles(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(self.place(t, grid) for t in tensors)

        placed = replace(op, reads=tiles(op.reads), writes=tiles(op.writes), saves=tiles(op.saves))
        if op.kind in (OpKind.GEMM, OpKind.GROUPED_GEMM) and "batched" not in op.tags:
            yield from self.product(placed, grid, stream)
            return
        names = (*ROWS, *(d for d in op.dim_names if d in WIDTHS))
        sharding = tuple((d, a) for d in names for a in (self.batch_axes(grid) if d in ROWS else self.width_axes(grid)))
        placed = replace(placed, sharding=(*op.sharding, *sharding))
        if "lookup" in op.tags and op.phase is Phase.FORWARD:  # rows of the table come from all ranks of the column
            table = placed.reads[-1]
            whole = replace(table.gathered(grid.across), name=f"{table.name}|column", cls=TensorClass.ACTIVATION)
            yield step(placed, "table", Collective.ALL_GATHER, grid.across, table, whole, stream)
            placed = replace(placed, tags={"lookup": whole.name}, reads=(*placed.reads[:-1], table, whole))
        if op.name.endswith(".topk") and op.phase in (Phase.FORWARD, Phase.RECOMPUTE):
            scores = placed.reads[0]  # a token's scores of all experts come from the ranks of its row
            for axis in self.width_axes(grid):
                whole = replace(scores.gathered(axis), name=f"{scores.name}|{axis}")
                yield step(placed, f"scores.{axis}", Collective.ALL_GATHER, axis, scores, whole, stream)
                scores = whole
            placed = replace(placed, reads=(scores, *placed.reads[1:]))
        yield placed
        if op.residual and any(
            t.cls is TensorClass.PARAM for t in op.reads
        ):  # mean and variance over a row of the grid
            sums = replace(
                placed.writes[0], name=f"{op.name}.sums", dims=(*op.writes[0].dims[:2], Dim.of("sums", 2)), dtype="fp32"
            )
            sums = replace(sums, sharding=tuple(s for s in sums.sharding if s[0] == "batch"))
            for axis in self.width_axes(grid):
                yield step(placed, f"sums.{axis}", Collective.ALL_REDUCE, axis, sums, sums, stream)


def _cut(tensor: Tensor, dim: str, axes: tuple[str, ...]) -> Tensor:
    for axis in axes:
        tensor = tensor.sharded(dim, axis)
    return tensor


def step(op: Op, name: str, kind: Collective, axis: str, read: Tensor, write: Tensor, stream: Stream) -> Op:
    """One collective of a product."""
    return Op(
        f"{op.name}.{name}",
        OpKind.COLLECTIVE,
        op.phase,
        read.dtype,
        (read,),
        (write,),
        collective=kind,
        axis=axis,
        stream=stream,
    )


def _operands(op: Op) -> tuple[str, str]:
    """Names of the inner and the outer dimension of the weight of a GEMM in any phase."""
    weight = next(t for t in (*op.writes, *op.reads) if t.cls in (TensorClass.PARAM, TensorClass.GRAD))
    return weight.dims[-2].name, weight.dims[-1].name


def _rows(axes: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Sharding of the rows of a product, whichever dimension they are."""
    return tuple((dim, axis) for dim in ROWS for axis in axes)


@register(
    "summa-2d",
    kind="pass",
    area="training",
    family="tensor",
    cites=("Xu et al. 2021 (Optimus), arXiv 2104.05343", "van de Geijn and Watts 1997 (SUMMA)"),
    catalogue=("Optimus (2-D, SUMMA)",),
    validated_by="closed_form",
)
class Summa(GridTensorParallel):
    """A q×q grid: Y = XW in q steps, each broadcasts a tile of X along its row and a tile of W along its column.

    dX = dY·Wᵀ broadcasts W and reduces along the row, dW = Xᵀ·dY broadcasts X and reduces along the column. The batch
    is cut over the q rows of the grid: a micro-batch of fewer than q sequences leaves rows idle.
    """

    def shape(self, plan: Plan) -> str:
        """A square."""
        side = math.isqrt(plan.tensor_parallel)
        if side * side != plan.tensor_parallel:
            return f"{self.name} needs a square of ranks, not {plan.tensor_parallel}; use tensor_parallel {side**2}"
        if plan.option("tensor_rows") != side or plan.option("tensor_depth"):
            return f"{self.name} on {plan.tensor_parallel} ranks needs tensor_rows {side} and no tensor_depth"
        return ""

    def product(self, op: Op, grid: Grid, stream: Stream) -> Iterator[Op]:
        """q steps of broadcast, broadcast (or reduce), multiply."""
        inner, outer = _operands(op)
        sharding = (*_rows(self.batch_axes(grid)), (inner, grid.across), (outer, grid.along))
        sent: tuple[tuple[Tensor, str], ...]
        summed: tuple[Tensor, str] | None = None
        if op.phase is Phase.WEIGHT_GRADIENT:
            source, gradient = op.reads[0], op.writes[0]
            sent, summed = ((source, grid.along),), (gradient, grid.across)
        elif op.phase is Phase.BACKWARD:
            sent, summed = ((op.reads[1], grid.across),), (op.writes[0], grid.along)
        else:
            sent, summed = ((op.reads[0], grid.along), (op.reads[1], grid.across)), None
        for index in range(grid.side):
            panels: dict[str, Tensor] = {}
            for tensor, axis in sent:
                # A panel is a temporary copy whatever the tensor it comes from.
                panel = replace(tensor, name=f"{tensor.name}|panel{index}", cls=TensorClass.ACTIVATION)
                panels[tensor.name] = panel
                yield step(op, f"broadcast{index}.{axis}", Collective.BROADCAST, axis, tensor, panel, stream)
            # The parameter itself stays among the reads: panels replace its bytes, not its ownership.
            reads = tuple(panels.get(t.name, t) for t in op.reads)
            if summed is None:
                yield replace(
                    op,
                    name=f"{op.name}.step{index}",
                    reads=reads,
                    sharding=sharding,
                    saves=op.saves if index == 0 else (),
                )
                continue
            target, axis = summed
            partial = replace(target, name=f"{target.name}|partial{index}", cls=TensorClass.ACTIVATION)
            yield replace(op, name=f"{op.name}.step{index}", reads=reads, writes=(partial,), sharding=sharding)
            # A reduction to one rank sends what a broadcast sends, the other way round.
            yield step(op, f"reduce{index}.{axis}", Collective.BROADCAST, axis, partial, target, stream)


@register(
    "tesseract-2.5d",
    kind="pass",
    area="training",
    family="tensor",
    cites=("Wang et al. 2021 (Tesseract), arXiv 2105.14500",),
    catalogue=("Tesseract (2.5-D)",),
    validated_by="closed_form",
)
class Tesseract(Summa):
    """q×q×d: d copies of the weight grid share the batch; each multiplies as SUMMA, gradients are summed over them."""

    def shape(self, plan: Plan) -> str:
        """Square layers, at most as many as a side is long."""
        side, layer = plan.option("tensor_rows"), plan.option("tensor_depth")
        ranks = plan.tensor_parallel
        if not isinstance(side, int) or layer != side * side or ranks % layer or ranks // layer > side:
            return (
                f"{self.name} on {ranks} ranks needs tensor_rows q, tensor_depth q² (the ranks of one layer) and "
                f"tensor_parallel q²·d with d ≤ q; they are {side}, {layer}"
            )
        return ""

    def batch_axes(self, grid: Grid) -> tuple[str, ...]:
        """Rows and layers."""
        return (grid.across, grid.deep) if grid.depth > 1 else (grid.across,)

    def finish(self, block: Block, grid: Grid, framework: Framework) -> Block:
        """Sum the gradients of the d copies once per step."""
        if grid.depth == 1 or not block.parameters:
            return block
        gradients = tuple(
            replace(t, name=f"{t.name}.grad", cls=TensorClass.GRAD, dtype=framework.gradient_dtype)
            for t in block.parameters
        )
        reduce = Op(
            f"{block.name}.depth.all_reduce",
            OpKind.COLLECTIVE,
            Phase.OPTIMIZER,
            gradients[0].dtype,
            gradients,
            gradients,
            collective=Collective.ALL_REDUCE,
            axis=grid.deep,
            stream=Stream.SCALE_OUT,
        )
        return replace(block, reduce=(*block.reduce, reduce))


@register(
    "3d",
    kind="pass",
    area="training",
    family="tensor",
    cites=("Bian et al. 2021, arXiv 2105.14450",),
    catalogue=("3-D tensor parallelism",),
    validated_by="closed_form",
)
class Cube(GridTensorParallel):
    """A q×q×q cube: gather inputs and weights along two edges, multiply, reduce-scatter the output along the third.

    Activations and weights are cut q³ times: the batch over q, widths over q².
    """

    def shape(self, plan: Plan) -> str:
        """A cube."""
        side = round(plan.tensor_parallel ** (1 / 3))
        if side**3 != plan.tensor_parallel:
            return f"3d needs a cubic number of ranks, tensor_parallel {plan.tensor_parallel} is none; use {side**3}"
        if plan.option("tensor_rows") != side or plan.option("tensor_depth") != side * side:
            return f"3d on {plan.tensor_parallel} ranks needs tensor_rows {side} and tensor_depth {side * side}"
        return ""

    def width_axes(self, grid: Grid) -> tuple[str, ...]:
        """Rows and layers."""
        return (grid.along, grid.deep)

    def product(self, op: Op, grid: Grid, stream: Stream) -> Iterator[Op]:
        """Two gathers, one product, one scatter, in every phase."""
        inner, outer = _operands(op)
        sharding = (*_rows((grid.across,)), (inner, grid.along), (outer, grid.deep))
        gathered: dict[str, Tensor] = {}
        for tensor, axis in zip(op.reads[:2], (grid.deep, grid.across), strict=True):
            whole = replace(tensor.gathered(axis), name=f"{tensor.name}|{axis}", cls=TensorClass.ACTIVATION)
            gathered[tensor.name] = whole
            yield step(op, f"gather.{axis}", Collective.ALL_GATHER, axis, tensor, whole, stream)
        target = op.writes[0]
        last = grid.along if target.cls is not TensorClass.GRAD else grid.across
        partial = replace(target.gathered(last), name=f"{target.name}|partial", cls=TensorClass.ACTIVATION)
        reads = tuple(gathered.get(t.name, t) for t in op.reads)
        yield replace(op, reads=reads, writes=(partial,), sharding=sharding)
        yield step(op, "scatter", Collective.REDUCE_SCATTER, last, partial, target, stream)
