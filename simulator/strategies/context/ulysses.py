"""DeepSpeed-Ulysses: all-to-alls turn shards of the sequence into shards of the heads around attention.

The heads that go to one rank lie apart in every token, so what is sent is laid out by rank first, and what comes back
is laid out by token: a copy on the side of the tokens. A rank that holds two chunks of a causal sequence, one from
either half, has tokens out of order behind the exchange: a copy on the side of the heads, where frameworks deal so.
"""

from __future__ import annotations

from dataclasses import replace

from simulator.registry import register
from simulator.strategies.context.tokens import AXIS, core_of, shard_tokens
from simulator.strategies.protocols import PassStage
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Collective, Op, OpKind, Phase, Stream, Tensor, TensorClass
from simulator.workload.plan import Plan

__all__ = ["Ulysses"]

HEAD_DIMS = ("heads", "kv_heads")


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
    inside = tuple(_on_heads(op, edges) for op in region)
    name, phase, paired = f"{prefix}.{region[0].phase}", region[0].phase, framework.pairs_sequence_chunks
    before = _exchange(f"{name}.to_heads", phase, tuple(entering.values()), edges, inward=True, paired=paired)
    after = _exchange(f"{name}.to_tokens", phase, tuple(leaving.values()), edges, inward=False, paired=paired)
    return (*ops[:first], *before, *inside, *after, *rest), edges, frozenset(here | set(entering))


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


def _on_heads(op: Op, edges: frozenset[str]) -> Op:
    def turned(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(_heads_layout(t, edges) for t in tensors)

    kept = tuple(s for s in op.sharding if s[1] != AXIS)
    heads = tuple((d, AXIS) for d in HEAD_DIMS if d in op.dim_names)
    return replace(
        op, reads=turned(op.reads), writes=turned(op.writes), saves=turned(op.saves), sharding=(*kept, *heads)
    )


def _exchange(
    name: str, phase: Phase, tensors: tuple[Tensor, ...], edges: frozenset[str], *, inward: bool, paired: bool
) -> tuple[Op, ...]:
    """Copies and the all-to-all that turn ``tensors`` from tokens to heads (``inward``) or back."""
    if not tensors:
        return ()
    tokens, heads = tensors, tuple(_heads_layout(t, edges) for t in tensors)
    sent = tuple(replace(t, name=f"{t.name}|by_rank") for t in tokens)
    mixed = tuple(replace(t, name=f"{t.name}|mixed") for t in heads) if paired else heads
    message = (sent, mixed) if inward else (mixed, sent)
    exchange = Op(
        name, OpKind.COLLECTIVE, phase, tensors[0].dtype, *message,
        collective=Collective.ALL_TO_ALL, axis=AXIS, stream=Stream.SCALE_UP,
    )  # fmt: skip
    by_rank = (tokens, sent) if inward else (sent, tokens)
    steps = [_copy(f"{name}.by_rank", phase, *by_rank), exchange]
    if paired:
        steps.append(_copy(f"{name}.in_order", phase, *((mixed, heads) if inward else (heads, mixed))))
    return tuple(steps if inward else reversed(steps))


def _copy(name: str, phase: Phase, reads: tuple[Tensor, ...], writes: tuple[Tensor, ...]) -> Op:
    return Op(name, OpKind.ELEMENTWISE, phase, reads[0].dtype, reads, writes)
