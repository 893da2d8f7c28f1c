"""Gathers and reductions that a sharding implies, found from the names of dimensions.

Given Ops whose dimensions are already sharded over ``axis``, walk them in program order and insert

* an all-gather where an Op wants a tensor whole that its producer left split along the sequence,
* an all-reduce, or a reduce-scatter when the next layout is split, where an Op summed over a sharded dimension.

This is the propagation rule of GSPMD (arXiv 2105.04663 §3) for the two layouts transformers use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from simulator.workload.operators import JOINS
from simulator.workload.ops import Collective, Op, OpKind, Phase, Stream, Tensor, TensorClass, changed

__all__ = ["beside_backward_gemms", "insert_collectives"]

SEQ = "seq"

REDUCTIONS = (Collective.REDUCE_SCATTER, Collective.ALL_REDUCE)


@dataclass
class _Walk:
    """State of one walk: which tensors are split along the sequence, and which were gathered already."""

    axis: str
    split_residual: bool
    stream: Stream
    split: set[str] = field(default_factory=set)
    out: list[Op] = field(default_factory=list)
    gathered: dict[str, Tensor] = field(default_factory=dict)
    pending: set[str] = field(default_factory=set)
    """Partial sums over routed rows: experts' outputs are combined first (a linear step) and reduced per token. So
    are terms of a served layer's addition that all are partial sums."""

    def gather(self, tensor: Tensor, phase: Phase) -> Tensor:
        """The whole ``tensor``; emits the all-gather the first time."""
        if tensor.name in self.gathered:
            return self.gathered[tensor.name]
        whole = changed(tensor.gathered(self.axis), name=f"{tensor.name}|whole")
        shard = changed(tensor, sharding=tensor.gathered(self.axis).sharding).sharded(SEQ, self.axis)
        self.out.append(
            Op(f"{tensor.name}.all_gather", OpKind.COLLECTIVE, phase, tensor.dtype, (shard,), (whole,),
               collective=Collective.ALL_GATHER, axis=self.axis, stream=self.stream)
        )  # fmt: skip
        self.gathered[tensor.name] = whole
        return whole

    def reduce(self, tensor: Tensor, phase: Phase) -> Tensor:
        """Emit the reduction of the partial sums ``tensor|partial``."""
        scatter = self.split_residual and SEQ in tensor.dim_names and "hidden" in tensor.dim_names
        partial = changed(tensor, name=f"{tensor.name}|partial")
        result = tensor.sharded(SEQ, self.axis) if scatter else tensor
        kind = Collective.REDUCE_SCATTER if scatter else Collective.ALL_REDUCE
        self.out.append(
            Op(f"{tensor.name}.{kind}", OpKind.COLLECTIVE, phase, tensor.dtype, (partial,), (result,),
               collective=kind, axis=self.axis, stream=self.stream)
        )  # fmt: skip
        if scatter:
            self.split.add(tensor.name)
        return partial


def insert_collectives(
    ops: tuple[Op, ...], axis: str, *, split_residual: bool, split_inputs: frozenset[str], stream: Stream,
) -> tuple[Op, ...]:  # fmt: skip
    """Ops with the collectives over ``axis`` that their shardings imply.

    Parameters
    ----------
    ops
        Forward or backward Ops in program order, sharded over ``axis``.
    split_residual
        Sequence parallelism: residual Ops work on a sequence shard.
    split_inputs
        Names of tensors that enter already split (block inputs, tensors saved in the forward).
    stream
        Queue of the collectives; COMPUTE when the framework does not overlap them.
    """
    ops_apart = _walked(ops, axis, split_residual, split_inputs, stream, frozenset())
    reduced = {op.writes[0].name for op in ops_apart if op.collective in REDUCTIONS}
    terms = [{t.name for t in op.reads} for op in ops if JOINS in op.tags and not split_residual]
    joined = frozenset[str]().union(*(names for names in terms if names <= reduced))
    return _walked(ops, axis, split_residual, split_inputs, stream, joined) if joined else ops_apart


def _walked(
    ops: tuple[Op, ...], axis: str, split_residual: bool, split_inputs: frozenset[str], stream: Stream,
    joined: frozenset[str],
) -> tuple[Op, ...]:  # fmt: skip
    """The walk, with the partial sums ``joined`` reduced by the Op that adds them."""
    split = set(split_inputs) if split_residual else set[str]()
    walk = _Walk(axis, split_residual, stream, split)
    for op in ops:
        sharded = {dim for dim, by in op.sharding if by == axis}
        reads = op.reads
        if op.residual and split_residual:
            reads = tuple(_as_split(t, axis) for t in reads)
        elif walk.split:
            reads = tuple(
                walk.gather(t, op.phase) if t.name in walk.split and t.cls is TensorClass.ACTIVATION else t
                for t in reads
            )
        partial = bool(sharded & set(op.contracts)) or any(t.name in walk.pending for t in op.reads)
        partial = partial and op.phase is not Phase.WEIGHT_GRADIENT
        writes = op.writes
        if op.residual and split_residual:
            writes = tuple(_as_split(t, axis) for t in writes)
            walk.split.update(t.name for t in writes if SEQ in t.dim_names)
            op = op.shard(SEQ, axis)
        saves = op.saves
        if walk.split:
            saves = tuple(_as_split(t, axis) if t.name in walk.split else t for t in saves)
        if not partial:
            walk.out.append(_with(op, reads, writes, saves))
            continue
        target = writes[0]
        if "routed" in target.dim_names or target.name in joined:
            walk.pending.add(target.name)
            walk.out.append(_with(op, reads, writes, saves))
            continue
        walk.out.append(
            changed(op, reads=reads, writes=(changed(target, name=f"{target.name}|partial"), *writes[1:]), saves=saves)
        )
        walk.reduce(target, op.phase)
    return tuple(walk.out)


def _with(op: Op, reads: tuple[Tensor, ...], writes: tuple[Tensor, ...], saves: tuple[Tensor, ...]) -> Op:
    same = reads is op.reads and writes is op.writes and saves is op.saves
    return op if same else changed(op, reads=reads, writes=writes, saves=saves)


def _as_split(tensor: Tensor, axis: str) -> Tensor:
    return tensor.sharded(SEQ, axis) if tensor.cls is TensorClass.ACTIVATION else tensor


def beside_backward_gemms(ops: Sequence[Op]) -> tuple[Op, ...]:
    """A backward whose column-parallel linear layers communicate beside their own two GEMMs.

    Where a GEMM of the input gradient is followed by its reduction, perhaps a gather of the saved input, and the GEMM
    of the weight gradient, the gather goes beside the first GEMM and the reduction beside the second, as in
    ``LinearWithGradAccumulationAndAsyncCommunication`` of Megatron-LM. The gather of a row-parallel layer's output
    gradient stays exposed: both of its GEMMs read it.
    """
    out: list[Op] = []
    index = 0
    while index < len(ops):
        held = _linear_backward(ops[index : index + 4])
        if not held:
            out.append(ops[index])
            index += 1
            continue
        gradient, reduction, gather, weight = held
        begins = (out[-1].name,) if out else ()
        out += [changed(g, stream=Stream.SCALE_UP, after=begins) for g in gather]
        out += [gradient, changed(reduction, stream=Stream.SCALE_UP), weight]
        index += 3 + len(gather)
    return tuple(out)


def _linear_backward(ops: Sequence[Op]) -> tuple[Op, Op, tuple[Op, ...], Op] | None:
    """GEMM, reduction, gathers and second GEMM of a column-parallel layer's backward, if ``ops`` begin with them."""
    gathers = tuple(op for op in ops[2:3] if op.collective is Collective.ALL_GATHER)
    if len(ops) < 3 + len(gathers):
        return None
    gradient, reduction, weight = ops[0], ops[1], ops[2 + len(gathers)]
    phases = (Phase.BACKWARD, Phase.WEIGHT_GRADIENT)
    if gradient.kind is not OpKind.GEMM or weight.kind is not OpKind.GEMM or reduction.collective not in REDUCTIONS:
        return None
    return (gradient, reduction, gathers, weight) if (gradient.phase, weight.phase) == phases else None
