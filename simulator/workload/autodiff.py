"""Backward Ops from forward Ops.

Each forward Op has a rule. A GEMM Y = X·W gives an input gradient dX = dY·Wᵀ (phase BACKWARD, "B") and a weight
gradient dW = Xᵀ·dY (phase WEIGHT_GRADIENT, "W"); contracted dimensions swap with free ones, so a pass that
shards dimensions finds the reductions of the backward by the same rule as in the forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from simulator.workload.ops import Block, Op, OpKind, Phase, Tensor, TensorClass, changed

__all__ = ["GRADIENT_ELSEWHERE", "differentiate", "gradient_of"]

GRADIENT_ELSEWHERE = "gradient"
"""Tag of an Op without a backward of its own; its value names the Op whose backward covers it."""

ADDITIONS = (".add", ".sum")
"""Endings of the Ops that only add: what they added has the gradient of the sum, no kernel writes it again."""

FLASH_BACKWARD_GEMMS = 2.5
"""Attention backward recomputes the scores: 5 GEMMs against 2 (FlashAttention-2, arXiv 2307.08691 §3.1.2)."""


def gradient_of(tensor: Tensor, dtype: str = "") -> Tensor:
    """The gradient tensor of an activation or parameter."""
    cls = TensorClass.GRAD if tensor.cls is TensorClass.PARAM else tensor.cls
    return changed(tensor, name=f"{tensor.name}.grad", cls=cls, dtype=dtype or tensor.dtype)


def differentiate(block: Block, gradient_dtype: str, *, fused_sums: bool = False) -> Block:
    """The block with its backward Ops, last forward Op first.

    Parameters
    ----------
    block
        A lowered block without backward.
    gradient_dtype
        Type in which weight gradients are accumulated.
    fused_sums
        Whether a compiler adds the gradients of a tensor with several readers inside the kernels that make them;
        autograd adds them one by one, in a kernel that reads two and writes one.
    """
    backward: list[Op] = []
    arrived: dict[str, Tensor] = {}
    for op in reversed(block.forward):
        rule = _attention if op.kind is OpKind.ATTENTION else _gemm if op.kind in _GEMM_KINDS else _elementwise
        made = rule(op, gradient_dtype)
        backward += made
        if not fused_sums:
            backward += _sums(op, made, arrived)
    return replace(block, backward=tuple(backward))


def _sums(op: Op, made: Sequence[Op], arrived: dict[str, Tensor]) -> Iterator[Op]:
    """Additions of what ``made`` to the gradients that have ``arrived``, which are noted by the tensor they are of.

    The residual stream is read by a norm and by the addition behind its branch; the output of a norm by several
    projections, by a router and by shared experts (``InputBuffer::accumulate`` of PyTorch's autograd engine). Tensors
    of the residual width only: others are small or have one reader.
    """
    if op.name.endswith(ADDITIONS):
        written = {t.name for b in made for t in b.writes}
        arrived |= {t.name: gradient_of(op.writes[0]) for t in op.reads if gradient_of(t).name not in written}
        return
    for gradient in (t for b in made for t in b.writes):
        if gradient.cls is not TensorClass.ACTIVATION or "hidden" not in gradient.dim_names:
            continue
        name = gradient.name.removesuffix(".grad")
        if name in arrived and "routed" not in gradient.dim_names:
            yield Op(
                f"{gradient.name}.sum", OpKind.ELEMENTWISE, Phase.BACKWARD, gradient.dtype,
                (arrived[name], gradient), (gradient,), gradient.dims, 1.0, residual=True,
            )  # fmt: skip
        arrived[name] = gradient


_GEMM_KINDS = (OpKind.GEMM, OpKind.GROUPED_GEMM)


def _backward(op: Op, **changes: object) -> Op:
    base = changed(op, name=f"{op.name}.backward", phase=Phase.BACKWARD, saves=(), recomputable="")
    return changed(base, **changes)


def _gemm(op: Op, gradient_dtype: str) -> list[Op]:
    if "batched" in op.tags:
        return _batched(op)
    source, weight = op.reads[0], op.reads[1]
    out = op.writes[0]
    free = tuple(d.name for d in weight.dims if d.name not in op.contracts and d.name != "experts")
    rows = tuple(d.name for d in op.flop_dims if d.name not in (*op.contracts, *free))
    inner = [d for d in op.flop_dims if d.name in op.contracts]
    outer = [d for d in op.flop_dims if d.name in free]
    lead = [d for d in op.flop_dims if d.name in rows]
    input_gradient = _backward(
        op,
        reads=(gradient_of(out), weight),
        writes=(gradient_of(source),),
        flop_dims=(*lead, *outer, *inner),
        contracts=free,
    )
    gradient = gradient_of(weight, gradient_dtype)
    # The gradient is accumulated in place: read and written (fused into the GEMM's epilogue).
    weight_gradient = changed(
        input_gradient,
        name=f"{op.name}.weight_gradient",
        phase=Phase.WEIGHT_GRADIENT,
        contracts=rows,
        reads=(source, gradient_of(out), gradient),
        writes=(gradient,),
        flop_dims=(*lead, *inner, *outer),
    )
    return [input_gradient, weight_gradient]


def _batched(op: Op) -> list[Op]:
    """Both operands are activations: two GEMMs of the forward's size, both on the critical path."""
    upstream = tuple(gradient_of(t) for t in op.writes)
    return [
        _backward(
            op,
            name=f"{op.name}.backward.{i}",
            reads=(*upstream, *op.reads),
            writes=(gradient_of(operand),),
            tags=op.tags,
        )
        for i, operand in enumerate((op.reads[0], op.reads[-1]))
    ]


def _attention(op: Op, gradient_dtype: str) -> list[Op]:
    upstream = gradient_of(op.writes[0])
    return [
        _backward(
            op,
            reads=(*op.reads, *op.writes, upstream),
            writes=tuple(gradient_of(t) for t in op.reads),
            flop_coefficient=op.flop_coefficient * FLASH_BACKWARD_GEMMS,
        )
    ]


def _elementwise(op: Op, gradient_dtype: str) -> list[Op]:
    inputs = [t for t in op.reads if t.cls is TensorClass.ACTIVATION and t.dtype != "int32"]
    parameters = [t for t in op.reads if t.cls is TensorClass.PARAM]
    lookup = op.tags.get("lookup")
    upstream = tuple(gradient_of(t) for t in op.writes if t.dtype != "bool" and (t.dims[2:] or "routed" in t.dim_names))
    added = op.name.endswith(ADDITIONS)
    if GRADIENT_ELSEWHERE in op.tags or (added and not op.saves):
        return []  # the gradient of an addition is the gradient itself
    if added:  # dropout fused with it: of the branch alone
        inputs = inputs[:1]
    if lookup:
        table = gradient_of(parameters[0], gradient_dtype)
        return [
            _backward(
                op,
                phase=Phase.WEIGHT_GRADIENT,
                reads=upstream,
                writes=(table,),
                contracts=("batch", "seq"),
                tags={"lookup": table.name},
            )
        ]
    writes = tuple(gradient_of(t) for t in inputs if t.dims[2:] or "routed" in t.dim_names)
    if not writes:
        return []
    gradients = tuple(gradient_of(t, gradient_dtype) for t in parameters)
    return [
        _backward(
            op,
            reads=(*op.saves, *upstream, *parameters),
            writes=(*writes, *gradients),
            contracts=(),
            flop_coefficient=2 * op.flop_coefficient,
        )
    ]
