"""Ops on Tensors: the one description of work that cost, memory and traffic are all derived from.

A model is lowered to Ops whose tensors carry *named* dimensions. A strategy shards a dimension over a mesh
axis; local shapes, FLOPs, bytes and messages follow from the names, so nothing is typed in twice:
a GEMM that contracts over a sharded dimension yields partial sums and therefore needs a reduction, a tensor
that is sharded where an Op wants it whole needs a gather. (The idea is that of GSPMD, arXiv 2105.04663.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

from simulator.workload.dims import DTYPE_BYTES, Dim
from simulator.workload.kinds import Collective, OpKind, Phase, Stream, TensorClass, Tier
from simulator.workload.wire import PLAIN, Wire

__all__ = [
    "DTYPE_BYTES",
    "FLAT",
    "AttentionShape",
    "Block",
    "Collective",
    "Dim",
    "Op",
    "OpKind",
    "Phase",
    "Stream",
    "Tensor",
    "TensorClass",
    "Tier",
    "Work",
    "changed",
]

T = TypeVar("T", "Tensor", "Op")
Mesh = Mapping[str, int]
Sharding = tuple[tuple[str, str], ...]

FLAT = "*"
"""Dimension name for sharding a tensor as one flat buffer, whatever its shape (ZeRO, FSDP)."""


def _ranks(sharding: Sharding, dim: str, mesh: Mesh) -> int:
    ranks = 1
    for name, axis in sharding:
        if name == dim:
            ranks *= mesh.get(axis, 1)
    return ranks


def changed(value: T, **fields: object) -> T:
    """A tensor or an Op with other values of some fields.

    As :func:`dataclasses.replace`, in a fifth of its time: neither class checks or derives anything when it is made,
    and a layer on its way through the passes is changed some hundred times.
    """
    made = object.__new__(type(value))
    own = made.__dict__
    own.update(value.__dict__)
    own.pop("dim_names", None)  # follows from the fields
    if not fields.keys() <= own.keys():
        raise TypeError(f"{type(value).__name__} has no {', '.join(sorted(fields.keys() - own.keys()))}")
    own.update(fields)
    return made


@dataclass(frozen=True)
class Tensor:
    """A tensor with named dimensions.

    Attributes
    ----------
    name
        Unique inside its block.
    cls, dims, dtype, tier
        Class, logical dimensions, element type and where it resides.
    sharding
        ``((dim name, mesh axis), ...)``.
    trainable
        False for frozen parameters: they have neither gradient nor optimizer states.
    """

    name: str
    cls: TensorClass
    dims: tuple[Dim, ...]
    dtype: str
    sharding: Sharding = ()
    tier: Tier = Tier.HBM
    trainable: bool = True

    @property
    def dim_names(self) -> tuple[str, ...]:
        """Names of the dimensions."""
        return tuple([d.name for d in self.dims])

    def local(self, dim: Dim, mesh: Mesh) -> int:
        """Size of one of its dimensions on one rank."""
        return dim.local(_ranks(self.sharding, dim.name, mesh))

    def elements(self, mesh: Mesh | None = None) -> int:
        """Elements in full, or on one rank of ``mesh``."""
        if mesh is None or not self.sharding:
            return math.prod(d.size for d in self.dims)
        local = 1
        for dim in self.dims:
            local *= dim.local(_ranks(self.sharding, dim.name, mesh))
        return -(-local // _ranks(self.sharding, FLAT, mesh))

    def bytes(self, mesh: Mesh | None = None) -> float:
        """Bytes in full, or on one rank of ``mesh``."""
        return self.elements(mesh) * DTYPE_BYTES[self.dtype]

    def sharded(self, dim: str, axis: str) -> Tensor:
        """The same tensor with ``dim`` (if it has it) split over ``axis``."""
        if (dim not in self.dim_names and dim != FLAT) or (dim, axis) in self.sharding:
            return self
        return changed(self, sharding=(*self.sharding, (dim, axis)))

    def gathered(self, axis: str) -> Tensor:
        """The same tensor whole along ``axis``."""
        return changed(self, sharding=tuple(s for s in self.sharding if s[1] != axis))


@dataclass(frozen=True, slots=True)
class Work:
    """What one rank executes for one Op: all sizes local. This is what the cost floor prices.

    Attributes
    ----------
    kind, dtype
        Kernel kind and compute type.
    flops
        Floating-point operations.
    bytes, near
        HBM bytes read plus written (each tensor once), and those of them that a benchmark found in the cache.
    m, n, k, groups
        GEMM shape C[m,n] = A[m,k]·B[k,n]; for grouped GEMMs ``m`` is the rows of all ``groups`` together.
    batch, q_len, kv_len, heads, kv_heads, head_dim, causal, kv_bytes
        Attention: sequences, query tokens and mean context per sequence, local heads; ``kv_bytes`` read.
    collective, message, axis, ranks
        Collectives: bytes of the full buffer, mesh axis and number of ranks.
    operator
        Which kernel it is where measured tables tell kernels apart (:mod:`simulator.workload.operators`).
    casts
        Whether operands of an fp8 or fp4 GEMM are stored in 16 bits, so that it casts them.
    kernels
        Launches of an elementwise Op that stands for several small kernels.
    rows
        Rows of a selection (``select``) or of a numbering by expert (``index``).
    unpacks
        Whether the weights of a 16-bit GEMM are stored in fewer bits, so that it widens them on the way.
    experts
        Format of the weights of the served expert block that this is part of (:mod:`simulator.workload.expert_blocks`).
    gathers
        Whether a grouped GEMM is the first of its block, to which the rows of tokens come.
    sinks
        Whether attention has a learned sink per head.
    """

    kind: OpKind
    dtype: str
    flops: float = 0.0
    bytes: float = 0.0
    m: int = 0
    n: int = 0
    k: int = 0
    groups: int = 1
    batch: int = 0
    q_len: int = 0
    kv_len: float = 0.0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    causal: bool = False
    backward: bool = False
    collective: str = ""
    message: float = 0.0
    axis: str = ""
    ranks: int = 1
    operator: str = ""
    casts: bool = False
    kernels: int = 1
    rows: int = 0
    unpacks: bool = False
    experts: str = ""
    gathers: bool = False
    sinks: bool = False
    near: float = 0.0


@dataclass(frozen=True)
class AttentionShape:
    """Sizes of an attention Op that its tensors do not show."""

    q_heads: Dim
    kv_heads: Dim
    head_dim: int
    v_head_dim: int
    q_len: int
    kv_len: float
    causal: bool


@dataclass(frozen=True)
class Op:
    """One kernel or transfer of one block.

    Attributes
    ----------
    name
        Dotted, unique inside its block and phase: ``attention.qkv``.
    kind, phase, dtype
        Kernel kind, part of the step, compute type.
    reads, writes
        Tensors touched. Bytes are derived from them.
    flop_dims, flop_coefficient
        FLOPs = coefficient · product of the (local) sizes of these dimensions.
    contracts
        Names of dimensions that are summed over: sharded ones make the output a partial sum.
    residual
        The Op works on the residual stream (norm, dropout, add): sequence parallelism splits it along ``seq``.
    saves
        Tensors that must live until the Op's backward has run.
    attention
        Sizes of an attention Op.
    collective, axis
        For collectives and transfers: which, and along which mesh axis. The message is the single read tensor.
    stream
        The queue it runs on.
    after
        Names of Ops of the same block that must have ended (besides the order of its own stream).
    recomputable
        Group that selective recomputation may drop: ``"core_attention"`` or ``""``.
    repeat
        Times the kernel is launched with these sizes.
    wire
        How a collective is put on the wire.
    """

    name: str
    kind: OpKind
    phase: Phase
    dtype: str
    reads: tuple[Tensor, ...] = ()
    writes: tuple[Tensor, ...] = ()
    flop_dims: tuple[Dim, ...] = ()
    flop_coefficient: float = 0.0
    contracts: tuple[str, ...] = ()
    sharding: Sharding = ()
    residual: bool = False
    saves: tuple[Tensor, ...] = ()
    attention: AttentionShape | None = None
    collective: Collective | None = None
    axis: str = ""
    stream: Stream = Stream.COMPUTE
    after: tuple[str, ...] = ()
    recomputable: str = ""
    repeat: int = 1
    wire: Wire = PLAIN
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)

    @cached_property
    def dim_names(self) -> frozenset[str]:
        """Names of all dimensions the Op or its tensors have."""
        names = {d.name for d in self.flop_dims}
        for tensor in (*self.reads, *self.writes):
            names.update(tensor.dim_names)
        if self.attention is not None:
            names.update((self.attention.q_heads.name, self.attention.kv_heads.name))
        return frozenset(names)

    def shard(self, dim: str, axis: str) -> Op:
        """The Op with ``dim`` split over ``axis`` in itself and in every tensor that has it."""
        if dim not in self.dim_names:
            return self
        made = changed(
            self,
            sharding=(*self.sharding, (dim, axis)) if (dim, axis) not in self.sharding else self.sharding,
            reads=tuple(t.sharded(dim, axis) for t in self.reads),
            writes=tuple(t.sharded(dim, axis) for t in self.writes),
            saves=tuple(t.sharded(dim, axis) for t in self.saves),
        )
        vars(made)["dim_names"] = self.dim_names  # its dimensions are the same
        return made

    def local(self, dim: Dim, mesh: Mesh) -> int:
        """Local size of one of the Op's dimensions."""
        return dim.local(_ranks(self.sharding, dim.name, mesh))

    def flops(self, mesh: Mesh | None = None) -> float:
        """FLOPs in full, or of one rank of ``mesh``."""
        if not self.flop_dims:
            return 0.0
        sizes = (d.size if mesh is None else self.local(d, mesh) for d in self.flop_dims)
        return self.flop_coefficient * math.prod(sizes)

    def bytes(self, mesh: Mesh | None = None) -> float:
        """HBM bytes read and written, in full or by one rank."""
        return sum(t.bytes(mesh) for t in self.reads) + sum(t.bytes(mesh) for t in self.writes)


@dataclass(frozen=True)
class Block:
    """The Ops of one block (a layer, the embedding, the head) and what they need around them.

    Attributes
    ----------
    name
        ``embedding``, ``layer``, ``head`` ...
    forward, backward
        Ops in program order. ``backward`` holds input-gradient and weight-gradient Ops and, after the
        recomputation pass, the Ops that are run again.
    boundary
        The activation that enters the block.
    states
        Parameters, gradients and optimizer states that reside on a rank.
    gather_forward, gather_backward
        Parameter gathers each micro-batch needs (ZeRO-3).
    reduce
        Gradient reductions; once per step, on the last micro-batch.
    reduce_each
        Gradient reductions of every micro-batch (where a rank keeps only a shard of the gradients).
    publish
        Gathers of updated parameters after the optimizer (ZeRO-1/2).
    dealt
        Whether a ``layer`` takes one of the places when layers are dealt out to stages; that of a module for
        multi-token prediction stays behind the head.
    """

    name: str
    forward: tuple[Op, ...]
    backward: tuple[Op, ...]
    boundary: Tensor
    states: tuple[Tensor, ...] = ()
    gather_forward: tuple[Op, ...] = ()
    gather_backward: tuple[Op, ...] = ()
    reduce: tuple[Op, ...] = ()
    reduce_each: tuple[Op, ...] = ()
    publish: tuple[Op, ...] = ()
    dealt: bool = True

    @property
    def takes_place(self) -> bool:
        """Whether it is a layer in the sense in which stages count them."""
        return self.dealt and self.name == "layer"

    @cached_property
    def parameters(self) -> tuple[Tensor, ...]:
        """The distinct parameter tensors that the forward Ops read."""
        found = {t.name: t for op in self.forward for t in op.reads if t.cls is TensorClass.PARAM}
        return tuple(found.values())

    @cached_property
    def saved(self) -> tuple[Tensor, ...]:
        """The distinct tensors kept from forward to backward."""
        return tuple({t.name: t for op in self.forward for t in op.saves}.values())

    @property
    def ops(self) -> tuple[Op, ...]:
        """Forward and backward Ops."""
        return self.forward + self.backward

    def map(self, change: Callable[[Op], Op]) -> Block:
        """The block with every Op of forward and backward replaced by ``change(op)``."""
        return replace(self, forward=tuple(map(change, self.forward)), backward=tuple(map(change, self.backward)))
