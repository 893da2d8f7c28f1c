"""DeepSpeed-Ulysses: all-to-alls turn shards of the sequence into shards of the heads around attention.

The heads that go to one rank lie apart in every token, so what is sent is laid out by rank first, and what comes back
is laid out by token: a copy on the side of the tokens. A rank that holds two chunks of a causal sequence, one from
either half, has tokens out of order behind the exchange: a copy on the side of the heads, where frameworks deal so.
Queries, keys and values are exchanged one after another (``DistributedAttention`` of microsoft/DeepSpeed @0862aa3
deepspeed/sequence/layer.py, ``flash_attn_a2a_communicate`` of Transformer Engine). The output that attention's backward
reads is kept by heads beside the one that the projection reads by tokens, or exchanged once more.
"""

from __future__ import annotations

from dataclasses import replace

from simulator.registry import register
from simulator.strategies.context.tokens import AXIS, core_of, shard_tokens
from simulator.strategies.protocols import PassStage
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Collective, Dim, Op, OpKind, Phase, Stream, Tensor, TensorClass
from simulator.workload.plan import Plan

__all__ = ["Ulysses"]

HEAD_DIMS = ("heads", "kv_heads")

_VIEW = {"kernels": "0", "kernels_backward": "0"}
"""Tags of an Op that runs no kernel: without chunks in pairs, tokens arrive in the order in which they are used."""


@register(
    "ulysses",
    kind="pass",
    area="training",
    family="context",
    cites=("Jacobs et al. 2023, arXiv 2309.14509",),
    catalogue=("DeepSpeed-Ulysses",),
    validated_by="closed_form",
)
class Ulysses:
    """Every rank attends with its share of the heads to the whole sequence; 4·s·h/P elements per link and layer."""

    name: str
    stage = PassStage.PARTITION

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """Heads must divide over context and tensor ranks together."""
        ranks = plan.context_parallel * plan.tensor_parallel
        for layer, _ in model.layers:
            for mixer in (layer.attention, layer.cross_attention):
                if plan.context_parallel > 1 and mixer is not None and mixer.num_attention_heads % ranks:
                    heads = mixer.num_attention_heads
                    works = [d for d in range(1, heads + 1) if heads % (d * plan.tensor_parallel) == 0]
                    near = ", ".join(map(str, works)) or "none with this tensor_parallel"
                    return (
                        f"context_parallel {plan.context_parallel} × tensor_parallel {plan.tensor_parallel} does not "
                        f"divide the {heads} heads that ulysses spreads; context_parallel that works: {near}; "
                        "or use ring"
                    )
                if plan.context_parallel > 1 and mixer is not None and mixer.mixer == "mamba1":
                    return (
                        f"ulysses: {model.name} projects the parameters of its scan from all channels at once, which "
                        "shards of heads do not have; use context ring or megatron-allgather"
                    )
        return ""

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Cut the tokens; put all-to-alls before and after the core attention, forward and backward."""
        if plan.context_parallel == 1:
            return block
        cut = shard_tokens(block)
        core = core_of(cut)
        forward, backward = cut.forward, cut.backward
        for prefix in dict.fromkeys(name.split(".")[0] for name in core):
            names = frozenset(n for n in core if n.startswith(f"{prefix}."))
            forward, edges, made = _convert(forward, names, prefix, frozenset(), frozenset(), framework)
            backward, _, _ = _convert(backward, names, prefix, edges, made, framework)
        return replace(cut, forward=forward, backward=backward)


def _convert(
    ops: tuple[Op, ...], core: frozenset[str], prefix: str, edges: frozenset[str], made: frozenset[str],
    framework: Framework,
) -> tuple[tuple[Op, ...], frozenset[str], frozenset[str]]:  # fmt: skip
    """``ops`` with the core on heads; the names of the tensors that cross its edge, and of all that it touches.

    ``edges`` and ``made`` are those of the forward, which saved its tensors in the layout of heads.
    """
    where = [i for i, op in enumerate(ops) if op.name.split(".backward")[0] in core]
    if not where:
        return ops, edges, made
    first, last = where[0], where[-1]
    region, rest = ops[first : last + 1], ops[last + 1 :]
    written = {t.name for op in region for t in op.writes}
    later = {t.name for op in rest for t in (*op.reads, *op.saves)}
    here = written | made
    entering = {t.name: t for op in region for t in op.reads if _on_tokens(t) and t.name not in here}
    leaving = {t.name: t for op in region for t in op.writes if _on_tokens(t) and t.name in later}
    edges |= frozenset(entering) | frozenset(leaving)
    apart = any(op.kind is OpKind.ATTENTION for op in region)
    again = frozenset(leaving) if apart and framework.saves_output_by_tokens else frozenset()
    inside = tuple(_on_heads(op, edges, again) for op in region)
    name, phase, paired = f"{prefix}.{region[0].phase}", region[0].phase, framework.pairs_sequence_chunks
    before, after = (
        _exchange(f"{name}.{side}", phase, tuple(tensors), edges, inward=inward, paired=paired, apart=apart)
        for side, tensors, inward in (("to_heads", entering.values(), True), ("to_tokens", leaving.values(), False))
    )
    saved = tuple(t for op in region for t in op.saves if t.name in again)
    if saved:
        after = (*after[:-1], replace(after[-1], saves=saved))
    return (*ops[:first], *before, *inside, *after, *rest), edges, frozenset(here | set(entering)) - again


def _on_tokens(tensor: Tensor) -> bool:
    return tensor.cls is TensorClass.ACTIVATION and any(axis == AXIS for _, axis in tensor.sharding)


def _heads_layout(tensor: Tensor, edges: frozenset[str]) -> Tensor:
    """The tensor with all tokens and a share of the heads; at the edge it is another tensor than the one outside."""
    if not _on_tokens(tensor):
        return tensor
    kept = tuple(s for s in tensor.sharding if s[1] != AXIS)
    heads = tuple((d, AXIS) for d in HEAD_DIMS if d in tensor.dim_names)
    name = f"{tensor.name}|heads" if tensor.name in edges else tensor.name
    return replace(tensor, name=name, sharding=(*kept, *heads))


def _on_heads(op: Op, edges: frozenset[str], unsaved: frozenset[str]) -> Op:
    """The Op on all tokens and a share of the heads; ``unsaved``: tensors that are kept by tokens instead."""

    def turned(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(_heads_layout(t, edges) for t in tensors)

    kept = tuple(s for s in op.sharding if s[1] != AXIS)
    heads = tuple((d, AXIS) for d in HEAD_DIMS if d in op.dim_names)
    return replace(
        op, reads=turned(op.reads), writes=turned(op.writes),
        saves=turned(tuple(t for t in op.saves if t.name not in unsaved)), sharding=(*kept, *heads),
    )  # fmt: skip


def _exchange(
    name: str, phase: Phase, tensors: tuple[Tensor, ...], edges: frozenset[str], *, inward: bool, paired: bool,
    apart: bool,
) -> tuple[Op, ...]:  # fmt: skip
    """Copies and the all-to-alls that turn ``tensors`` from tokens to heads (``inward``) or back.

    ``paired``: a rank holds two chunks of the sequence; ``apart``: queries, keys and values are sent one by one.
    """
    copies, exchanges, arranged = list[Op](), list[Op](), list[Op]()
    for index, one in enumerate(tensors):
        label, other = f"{name}.{index}" if len(tensors) > 1 else name, _heads_layout(one, edges)
        sent, mixed = _pieces(one, "by_rank", apart), _pieces(other, "mixed", apart)
        copies.append(_copy(f"{label}.by_rank", phase, *(((one,), sent) if inward else (sent, (one,)))))
        exchanges += [
            Op(
                f"{label}.{piece}" if len(sent) > 1 else label, OpKind.COLLECTIVE, phase, source.dtype,
                *(((source,), (target,)) if inward else ((target,), (source,))),
                collective=Collective.ALL_TO_ALL, axis=AXIS, stream=Stream.SCALE_UP,
            )
            for piece, (source, target) in enumerate(zip(sent, mixed, strict=True))
        ]  # fmt: skip
        ordered = _copy(
            f"{label}.{'in_order' if paired else 'view'}", phase, *((mixed, (other,)) if inward else ((other,), mixed))
        )
        arranged.append(ordered if paired else replace(ordered, tags=_VIEW))
    return (*copies, *exchanges, *arranged) if inward else (*arranged, *exchanges, *copies)


def _pieces(tensor: Tensor, suffix: str, apart: bool) -> tuple[Tensor, ...]:
    """What is sent as one message each, in the layout that ``suffix`` names."""
    last = tensor.dims[-1]
    return tuple(
        replace(tensor, name=f"{tensor.name}|{suffix}.{index}", dims=(*tensor.dims[:-1], Dim(last.name, parts)))
        for index, parts in enumerate([(p,) for p in last.parts] if apart else [last.parts])
    )


def _copy(name: str, phase: Phase, reads: tuple[Tensor, ...], writes: tuple[Tensor, ...]) -> Op:
    return Op(name, OpKind.ELEMENTWISE, phase, reads[0].dtype, reads, writes)
