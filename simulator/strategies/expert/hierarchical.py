"""All-to-alls in two stages: inside a server, then between servers (or the other way round)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from simulator.registry import register
from simulator.strategies.expert.exchange import ExpertExchange, Layer, collective, resized
from simulator.workload.model import ModelSpec
from simulator.workload.ops import Collective, Op, Tensor
from simulator.workload.plan import Plan, sub_axis

__all__ = ["HierarchicalAllToAll", "NodeLimited", "distinct_nodes"]


def distinct_nodes(nodes: int, per_token: int, limit: int) -> float:
    """Expected number of different servers that hold a token's ``per_token`` experts, at most ``limit`` of them.

    n·(1 − (1 − 1/n)^k) for experts drawn independently from the n = min(nodes, limit) allowed servers.
    """
    allowed = min(nodes, limit)
    return allowed * (1.0 - (1.0 - 1.0 / allowed) ** per_token)


class TwoStage(ExpertExchange):
    """Expert ranks in groups of ``expert_group`` neighbours, the ranks of one server."""

    def group(self, plan: Plan) -> int:
        """Expert ranks in one server."""
        return plan.group_size("expert_group", "ep", plan.expert_parallel)

    def axes(self, plan: Plan) -> tuple[str, str]:
        """Mesh axes inside a server and between servers."""
        inner, whole = self.group(plan), plan.expert_parallel
        return sub_axis("ep", 1, inner, whole), sub_axis("ep", inner, whole, whole)

    def check(self, model: ModelSpec, plan: Plan) -> str:
        """The group must be known and divide."""
        asked, ranks = plan.option("expert_group"), plan.expert_parallel
        if ranks > 1 and (not isinstance(asked, int) or asked < 1 or ranks % asked):
            return (
                f"{self.name} needs the option expert_group, the expert-parallel ranks of one server, and it must "
                f"divide expert_parallel {ranks}; it is {asked}, use {math.gcd(ranks, 8)}"
            )
        return super().check(model, plan)


@register(
    "tutel",
    kind="pass",
    area="training",
    family="expert",
    cites=("Hwang et al. 2023 (Tutel), arXiv 2206.03382 §3.4",),
    catalogue=("Tutel", "BaGuaLu, PanGu-Σ"),
    validated_by="closed_form",
)
class HierarchicalAllToAll(TwoStage):
    """2-D hierarchical all-to-all: rows are joined inside the server, messages between servers are g times larger."""

    def wires(self, op: Op, layer: Layer, plan: Plan, read: Tensor, write: Tensor, inward: bool) -> Iterator[Op]:
        """Inside, then between."""
        inside, between = self.axes(plan)
        if self.group(plan) in (1, plan.expert_parallel):
            yield from super().wires(op, layer, plan, read, write, inward)
            return
        joined = replace(read, name=f"{read.name}|joined")
        yield collective(op, "all_to_all.inside", Collective.ALL_TO_ALL, inside, read, joined)
        yield collective(op, "all_to_all.between", Collective.ALL_TO_ALL, between, joined, write)


@register(
    "node-limited",
    kind="pass",
    area="training",
    family="expert",
    cites=("DeepSeek-AI 2024 (DeepSeek-V3), arXiv 2412.19437 §2.1.2 and §3.2.2",),
    validated_by="closed_form",
)
class NodeLimited(TwoStage):
    """A token goes to at most ``node_limit`` servers (4), once to each, and is copied to its experts there.

    ``dispatch_precision`` (bf16) is the type of rows and of their gradients on the way to the experts; DeepSeek-V3 uses
    fp8 there and bf16 on the way back (deepseek-ai/profile-data @4496024, train.json).
    """

    sorts_arrived_rows = False  # the kernel behind the message copies a row to each of its experts

    def wires(self, op: Op, layer: Layer, plan: Plan, read: Tensor, write: Tensor, inward: bool) -> Iterator[Op]:
        """One copy per server between servers, one per expert inside."""
        inside, between = self.axes(plan)
        nodes = plan.expert_parallel // self.group(plan)
        precision = str(plan.option("dispatch_precision", read.dtype)) if inward else read.dtype
        share = distinct_nodes(nodes, layer.per_token, int(str(plan.option("node_limit", 4)))) / layer.per_token
        sent = replace(read, dtype=precision)
        if nodes == 1:
            yield from super().wires(op, layer, plan, sent, write, inward)
            return
        if self.group(plan) == 1:  # one expert rank per server: nothing to copy inside
            yield collective(op, "all_to_all.between", Collective.ALL_TO_ALL, between, resized(sent, share), write)
            return
        middle = replace(sent, name=f"{read.name}|server")
        few = resized(middle, share)
        if inward:
            yield collective(op, "all_to_all.between", Collective.ALL_TO_ALL, between, resized(sent, share), few)
            yield collective(op, "all_to_all.inside", Collective.ALL_TO_ALL, inside, middle, write)
        else:  # partial results are added up inside the server before they leave it
            yield collective(op, "all_to_all.inside", Collective.ALL_TO_ALL, inside, sent, few)
            yield collective(op, "all_to_all.between", Collective.ALL_TO_ALL, between, few, write)
