"""Copies between memory tiers as Ops, and the rewritings that offload passes are made of.

A tensor that lives in a far tier keeps its name with ``@tier`` appended there, so the data flow of fetch → use and
last write → eviction follows from the names. From HBM to NVMe data goes through host memory (two copies on two
streams) unless the move is direct.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from simulator.workload.ops import Block, Dim, Op, OpKind, Phase, Stream, Tensor, Tier
from simulator.workload.plan import Plan
from simulator.workload.wire import Wire

__all__ = ["Route", "evict", "evict_activations", "fetch", "is_tied_copy", "tiered"]


@dataclass(frozen=True)
class Route:
    """How tensors travel to a tier and back.

    Attributes
    ----------
    tier
        Where they live.
    direct
        NVMe is reached without a stop in host memory (GPUDirect storage).
    prefetch
        Layers ahead of its use at which a fetch may be issued; 0 = only when the layer before has ended.
    on_demand
        The device stalls for every copy (page faults): copies run on its compute queue.
    share
        Share of each tensor that leaves; the rest stays in HBM.
    page_size
        Size of a faulting block [B], with ``on_demand``.
    """

    tier: Tier
    direct: bool = False
    prefetch: int = 1
    on_demand: bool = False
    page_size: float = 0.0
    share: float = 1.0

    @property
    def stops(self) -> tuple[Tier, ...]:
        """Tiers from the device outwards."""
        return (Tier.HOST, Tier.NVME) if self.tier is Tier.NVME and not self.direct else (self.tier,)

    def stream(self, near: Tier, far: Tier, inwards: bool) -> Stream:
        """Queue of one hop."""
        if self.on_demand and near is Tier.HBM:
            return Stream.COMPUTE
        if far is Tier.PEER:
            return Stream.SCALE_UP
        if Tier.NVME in (near, far):
            return Stream.NVME
        return Stream.H2D if inwards else Stream.D2H


def tiered(tensor: Tensor, tier: Tier) -> Tensor:
    """The copy of ``tensor`` in another tier."""
    return replace(tensor, name=f"{tensor.name}@{tier.value}", tier=tier) if tier is not Tier.HBM else tensor


def _hop(
    name: str, tensors: Sequence[Tensor], source: Tier, target: Tier, route: Route, phase: Phase, inwards: bool
) -> Op:
    near, far = (target, source) if inwards else (source, target)
    stream = route.stream(near, far, inwards)
    tags = {"page_size": str(route.page_size)} if route.on_demand and route.page_size and near is Tier.HBM else {}
    return Op(
        f"{name}.{source.value}_to_{target.value}", OpKind.COPY, phase, tensors[0].dtype,
        tuple(tiered(t, source) for t in tensors), tuple(tiered(t, target) for t in tensors),
        stream=stream, wire=Wire(prefetch=route.prefetch, volume=route.share), tags=tags,
    )  # fmt: skip


def fetch(name: str, tensors: Sequence[Tensor], route: Route, phase: Phase) -> tuple[Op, ...]:
    """Copies that bring ``tensors`` from their tier into HBM, outermost hop first."""
    if not tensors:
        return ()
    way = (*reversed(route.stops), Tier.HBM)
    return tuple(_hop(name, tensors, a, b, route, phase, True) for a, b in itertools.pairwise(way))


def evict(name: str, tensors: Sequence[Tensor], route: Route, phase: Phase) -> tuple[Op, ...]:
    """Copies that take ``tensors`` from HBM to their tier, innermost hop first."""
    if not tensors:
        return ()
    way = (Tier.HBM, *route.stops)
    return tuple(_hop(name, tensors, a, b, route, phase, False) for a, b in itertools.pairwise(way))


def _pieces(tensor: Tensor, route: Route) -> tuple[Tensor, ...]:
    """What leaves of a saved tensor, under its name, and what stays; cut along its longest dimension."""
    if route.share >= 1:
        return (replace(tensor, tier=route.tier),)
    longest = max(tensor.dims, key=lambda d: d.size)
    leaving = round(route.share * longest.size)

    def part(size: int) -> tuple[Dim, ...]:
        return tuple(Dim.of(d.name, size) if d is longest else d for d in tensor.dims)

    rest = replace(tensor, name=f"{tensor.name}.rest", dims=part(longest.size - leaving))
    return (replace(tensor, tier=route.tier, dims=part(leaving)), rest)


def is_tied_copy(block: Block, tensor: Tensor, plan: Plan) -> bool:
    """Whether a state behind the layers is the token embedding's on the same rank, which the embedding accounts for."""
    behind = block.name in ("head", "prediction")
    return behind and tensor.name.startswith("embedding.weight") and plan.pipeline_parallel == 1


def evict_activations(block: Block, routes: dict[str, Route]) -> Block:
    """The block with the saved tensors named in ``routes`` evicted after their last write and fetched for the backward.

    Tensors that enter the block (its boundary) are evicted at its start.
    """
    routes = {t.name: routes[t.name] for t in block.saved if t.name in routes and routes[t.name].share > 0}
    if not routes:
        return block
    tensors = {t.name: t for t in block.saved}
    written = {t.name: i for i, op in enumerate(block.forward) for t in op.writes}
    forward: list[Op] = []
    for name, route in routes.items():
        if name not in written:
            forward += evict(f"{name}.evict", [tensors[name]], route, Phase.FORWARD)
    for index, op in enumerate(block.forward):
        saves = tuple(piece for t in op.saves for piece in (_pieces(t, routes[t.name]) if t.name in routes else (t,)))
        forward.append(replace(op, saves=saves) if saves != op.saves else op)
        for name, route in routes.items():
            if written.get(name) == index:
                forward += evict(f"{name}.evict", [tensors[name]], route, Phase.FORWARD)
    needed = {t.name: i for i, op in reversed(list(enumerate(block.backward))) for t in op.reads}
    order = sorted(routes, key=lambda name: needed.get(name, len(block.backward)))
    fetched = [op for n in order for op in fetch(f"{n}.fetch", [tensors[n]], routes[n], Phase.BACKWARD)]
    return replace(block, forward=tuple(forward), gather_backward=(*block.gather_backward, *fetched))
