"""Tokens travel to their experts by all-to-all: balanced or skewed, padded to a capacity, or without padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

from simulator.registry import register
from simulator.strategies.expert.exchange import ExpertExchange, Layer, Rows, collective
from simulator.strategies.expert.routing import block_rows, dropped_share, placement, routing_shares
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Block, Collective, Dim, Op, Tensor
from simulator.workload.plan import Plan

__all__ = ["AllToAll", "BlockSparse", "Capacity", "CountedAllToAll", "SwitchCapacity"]


@register(
    "all-to-all",
    kind="pass",
    area="training",
    family="expert",
    cites=("Rajbhandari et al. 2022 (DeepSpeed-MoE), arXiv 2201.05596", "Fedus et al. 2022, arXiv 2101.03961"),
    catalogue=("DeepSpeed-MoE",),
    validated_by="closed_form",
)
class AllToAll(ExpertExchange):
    """Two all-to-alls of k·tokens·h forward and two backward, no drops; option ``routing`` gives the skew.

    ``routing`` is ``uniform``, ``zipf(s)`` or a list of measured loads; the rank with most rows is simulated.
    """


@register(
    "fastmoe",
    kind="pass",
    area="training",
    family="expert",
    cites=("He et al. 2021 (FastMoE), arXiv 2103.13262",),
    catalogue=("FastMoE",),
    validated_by="closed_form",
)
class CountedAllToAll(ExpertExchange):
    """Row counts are exchanged first, then the rows: one more small all-to-all ahead of each forward dispatch."""

    def wires(self, op: Op, layer: Layer, plan: Plan, read: Tensor, write: Tensor, inward: bool) -> Iterator[Op]:
        """Counts (int32 per expert), then rows."""
        if inward and ".backward" not in op.name:
            counts = replace(
                read, name=f"{layer.name}.counts", dims=(Dim.of("counts", layer.experts),), dtype="int32", sharding=()
            )
            known = replace(counts, name=f"{counts.name}.all")
            yield collective(op, "counts", Collective.ALL_TO_ALL, "ep", counts, known)
        yield from super().wires(op, layer, plan, read, write, inward)


@register(
    "gshard",
    kind="pass",
    area="training",
    family="expert",
    cites=("Lepikhin et al. 2021 (GShard), arXiv 2006.16668",),
    catalogue=("GShard",),
    validated_by="closed_form",
)
class Capacity(ExpertExchange):
    """Every expert takes C = capacity_factor · k · tokens / E rows: fewer are padded, more are dropped.

    Time and bytes are those of the padded buffers whatever the skew. The share of rows that are dropped under
    ``routing`` is in the tag ``dropped`` of the dispatch. Which rows an expert keeps is one more selection over the
    scores, and a mask (Megatron's ``moe_expert_capacity_factor``, ``apply_router_token_dropping`` in NVIDIA/Megatron-LM
    megatron/core/transformer/moe/moe_utils.py @00611e6).
    """

    default = 1.0
    masks: ClassVar[Mapping[str, int]] = {"selections": 1, "kernels": 4, "kernels_backward": 1}
    """What keeping C rows adds to the router: zeros, a scatter, a cast and a product, and the backward of the last."""

    def factor(self, plan: Plan) -> float:
        """The capacity factor."""
        return float(str(plan.option("capacity_factor", self.default)))

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """A positive capacity."""
        if self.factor(plan) <= 0:
            return f"capacity_factor {self.factor(plan):g} leaves no room for a token; use 1.0 to 2.0"
        return super().check(model, plan)

    def notes(self, plan: Plan) -> tuple[str, ...]:
        """Dropped tokens are a cost in quality that time and memory do not show."""
        if plan.option("routing", "uniform") == "uniform":
            return ()
        return (
            f"{self.name}: with routing {plan.option('routing')} rows above capacity_factor {self.factor(plan):g} are "
            "dropped; the loss in quality is not part of the estimate",
        )

    def rows(self, layer: Layer, plan: Plan) -> Rows:
        """Padded rows on every leg."""
        factor = self.factor(plan)
        return Rows(factor, factor, factor)

    def extend(self, block: Block, layer: Layer, plan: Plan) -> Block:
        """Note what is dropped, and the work of choosing it."""
        shares = routing_shares(plan.option("routing", "uniform"), layer.experts)
        dropped = f"{dropped_share(shares, self.factor(plan)):.6g}"
        router = (f"{layer.name}.select", f"{layer.name}.topk", f"{layer.name}.topk.backward")

        def noted(op: Op) -> Op:
            if op.name == f"{layer.name}.dispatch":
                return replace(op, tags={**op.tags, "dropped": dropped})
            more = {k: str(int(v) + self.masks[k]) for k, v in op.tags.items() if k in self.masks}
            return replace(op, tags={**op.tags, **more}) if op.name in router else op

        return block.map(noted)


@register(
    "switch",
    kind="pass",
    area="training",
    family="expert",
    cites=("Fedus et al. 2022, arXiv 2101.03961 §2.2",),
    catalogue=("Switch Transformer",),
    validated_by="closed_form",
)
class SwitchCapacity(Capacity):
    """Top-1 routing with a capacity factor of 1.25 unless ``capacity_factor`` says otherwise."""

    default = 1.25

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """One expert per token."""
        for layer, _ in model.layers:
            if layer.mlp is not None and layer.mlp.num_experts_per_tok > 1:
                k = layer.mlp.num_experts_per_tok
                return f"switch routes each token to 1 expert but {model.name} uses {k}; use gshard or all-to-all"
        return super().check(model, plan)


@register(
    "megablocks",
    kind="pass",
    area="training",
    family="expert",
    cites=("Gale et al. 2023 (MegaBlocks), arXiv 2211.15841",),
    catalogue=("MegaBlocks",),
    validated_by="closed_form",
)
class BlockSparse(ExpertExchange):
    """Dropless: no row is dropped and an expert's rows are padded to blocks of 128 only (option ``expert_block``)."""

    def rows(self, layer: Layer, plan: Plan) -> Rows:
        """Skew on the wire, skew and blocks at the experts."""
        block = int(str(plan.option("expert_block", 128)))
        shares, where = routing_shares(plan.option("routing", "uniform"), layer.experts), placement(plan, layer.experts)
        wire = super().rows(layer, plan).wire
        return Rows(1.0, wire, max(wire, block_rows(shares, where, plan.expert_parallel, layer.rows, block)))
