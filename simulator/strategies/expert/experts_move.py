"""Experts come to the tokens: where they are fewer bytes (Janus), or where they are hot (FasterMoE)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from simulator.registry import Claim, register
from simulator.strategies.expert.exchange import ExpertExchange, Layer, Rows, layer_of
from simulator.strategies.expert.routing import placement, rank_loads, routing_shares
from simulator.workload.framework import Framework
from simulator.workload.ops import Block, Collective, Dim, Op, OpKind, Phase, Stream, Tensor, TensorClass
from simulator.workload.plan import Plan

__all__ = ["ExpertFetching", "ShadowedExperts", "shadowed"]


def _weights(block: Block) -> tuple[Tensor, ...]:
    """Parameters of the routed experts."""
    return tuple(t for t in block.parameters if "experts" in t.dim_names)


def _transfer(name: str, kind: Collective, phase: Phase, reads: tuple[Tensor, ...], writes: tuple[Tensor, ...]) -> Op:
    return Op(
        name,
        OpKind.COLLECTIVE,
        phase,
        reads[0].dtype,
        reads,
        writes,
        collective=kind,
        axis="ep",
        stream=Stream.SCALE_UP,
    )


@register(
    "janus",
    kind="pass",
    area="training",
    family="expert",
    cites=("Liu et al. 2023 (Janus), SIGCOMM'23, doi 10.1145/3603269.3604869",),
    catalogue=("Janus",),
    claims=(Claim("up to 2.06 times on 32 A100", "SIGCOMM 2023 abstract"),),
    validated_by="ratio",
)
class ExpertFetching(ExpertExchange):
    """Fetch all experts and keep the tokens in every layer where that moves fewer bytes, else exchange tokens.

    Experts are gathered in forward and backward and their gradients reduce-scattered: 3·W against four exchanges of
    the rows. Gathers start with the layer, under its attention; over several servers they cross each link once.
    """

    def moves_experts(self, block: Block, layer: Layer, plan: Plan) -> bool:
        """Whether fetching is cheaper in bytes."""
        row_bytes = 4.0 * layer.rows / plan.context_parallel * layer.hidden * 2
        return 3.0 * sum(t.bytes(plan.mesh) for t in _weights(block)) < row_bytes

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Gathers of experts, or the exchanges of the common part."""
        layer = layer_of(block)
        if layer is None or plan.expert_parallel == 1 or not self.moves_experts(block, layer, plan):
            return super().apply(block, plan, framework)
        weights = _weights(block)
        held = tuple(t.sharded("experts", "ep") for t in weights)
        names = frozenset(t.name for t in weights)
        fetch = _transfer(
            f"{layer.name}.fetch", Collective.ALL_GATHER, Phase.FORWARD, held, tuple(map(_fetched, weights))
        )
        forward = (fetch, *(_renamed(op, names) for op in block.forward))
        backward: list[Op] = [replace(fetch, name=f"{layer.name}.fetch.backward", phase=Phase.BACKWARD)]
        for op in block.backward:
            changed = _renamed(op, names)
            backward.append(changed)
            for old, new in zip(op.writes, changed.writes, strict=True):
                if old.name != new.name:  # a gradient of a fetched expert goes home
                    home = old.sharded("experts", "ep")
                    backward.append(
                        _transfer(
                            f"{old.name}.return", Collective.REDUCE_SCATTER, Phase.WEIGHT_GRADIENT, (new,), (home,)
                        )
                    )
        return replace(block, forward=forward, backward=tuple(backward))


def _fetched(tensor: Tensor) -> Tensor:
    """A whole copy that lives as long as the layer needs it."""
    return replace(tensor, name=f"{tensor.name}|fetched", cls=TensorClass.ACTIVATION)


def _renamed(op: Op, names: frozenset[str]) -> Op:
    def local(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(_fetched(t) if t.name.removesuffix(".grad") in names else t for t in tensors)

    return replace(op, reads=local(op.reads), writes=local(op.writes))


def shadowed(shares: tuple[float, ...], rows: float, hidden: int, expert_elements: float, ranks: int) -> frozenset[int]:
    """Experts that are cheaper to copy to every rank than their tokens are to move.

    FasterMoE §4.1: a shadow costs a broadcast of its parameters and a reduction of their gradients, its tokens four
    transfers of their rows over the link of the rank that holds it. Only rows from other ranks travel.

    Parameters
    ----------
    rows
        Routed rows of one rank.
    expert_elements
        Parameters of one expert.
    """
    travel = [4.0 * share * rows * ranks * (ranks - 1) / ranks * hidden for share in shares]
    return frozenset(e for e, elements in enumerate(travel) if 2.0 * expert_elements < elements)


@register(
    "fastermoe",
    kind="pass",
    area="training",
    family="expert",
    cites=("He et al. 2022 (FasterMoE), PPoPP'22, doi 10.1145/3503221.3508418",),
    catalogue=("FasterMoE",),
    validated_by="closed_form",
)
class ShadowedExperts(ExpertExchange):
    """Hot experts are copied to every rank when that is cheaper than moving their tokens; needs ``routing``."""

    def _chosen(self, layer: Layer, plan: Plan, elements: float) -> frozenset[int]:
        shares = routing_shares(plan.option("routing", "uniform"), layer.experts)
        rows = layer.rows / plan.context_parallel
        return shadowed(shares, rows, layer.hidden, elements, plan.expert_parallel)

    def apply(self, block: Block, plan: Plan, framework: Framework) -> Block:
        """Remember the size of an expert, then as usual."""
        layer = layer_of(block)
        self._elements = sum(t.elements() for t in _weights(block)) / layer.experts if layer else 0.0
        return super().apply(block, plan, framework)

    def rows(self, layer: Layer, plan: Plan) -> Rows:
        """Rows of shadowed experts stay; the rest is as skewed as it is without them."""
        if plan.expert_parallel == 1:
            return Rows()
        shares = routing_shares(plan.option("routing", "uniform"), layer.experts)
        hot = self._chosen(layer, plan, self._elements)
        stay = sum(shares[e] for e in hot)
        rest = tuple(0.0 if e in hot else share for e, share in enumerate(shares))
        busiest = max(rank_loads(rest, placement(plan, layer.experts), plan.expert_parallel)) * plan.expert_parallel
        return Rows(1.0, max(1.0 - stay, busiest), stay + max(1.0 - stay, busiest))

    def extend(self, block: Block, layer: Layer, plan: Plan) -> Block:
        """Broadcast the shadows before the layer and reduce their gradients behind it."""
        count = len(self._chosen(layer, plan, self._elements)) if plan.expert_parallel > 1 else 0
        if not count:
            return block
        weights = {t.name: t for t in _weights(block)}
        copies = {name: _shadow(t, count) for name, t in weights.items()}
        share = _transfer(
            f"{layer.name}.shadow",
            Collective.BROADCAST,
            Phase.FORWARD,
            tuple(copies.values()),
            tuple(replace(t, name=f"{t.name}|here") for t in copies.values()),
        )

        def reading(op: Op) -> Op:
            extra = tuple(
                replace(copies[t.name], name=f"{copies[t.name].name}|here") for t in op.reads if t.name in copies
            )
            forward = op.phase is Phase.FORWARD  # shadows stay until the backward has used them
            return (
                replace(op, reads=(*op.reads, *extra), saves=(*op.saves, *extra) if forward else op.saves)
                if extra
                else op
            )

        backward = tuple(made for op in block.backward for made in _reduced(reading(op), copies))
        return replace(block, forward=(share, *map(reading, block.forward)), backward=backward)


def _shadow(weight: Tensor, count: int) -> Tensor:
    dims = tuple(Dim.of("shadows", count) if d.name == "experts" else d for d in weight.dims)
    kept = tuple(s for s in weight.sharding if s[1] != "ep")
    return replace(weight, name=f"{weight.name}|shadow", cls=TensorClass.ACTIVATION, dims=dims, sharding=kept)


def _reduced(op: Op, copies: dict[str, Tensor]) -> Iterator[Op]:
    yield op
    for tensor in op.writes:
        if tensor.name.removesuffix(".grad") in copies and tensor.name.endswith(".grad"):
            gradient = replace(copies[tensor.name.removesuffix(".grad")], name=tensor.name)
            home = replace(gradient, name=f"{tensor.name}|shadow.home")
            # A reduction to one rank sends what a broadcast sends, the other way round.
            yield _transfer(f"{tensor.name}.shadow", Collective.BROADCAST, Phase.WEIGHT_GRADIENT, (gradient,), (home,))
