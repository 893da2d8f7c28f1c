"""Slices of every expert on the ranks of data-parallel attention: the work of tensor parallelism on gathered tokens."""

from __future__ import annotations

from typing import Any

import pytest

from simulator.serving.footprint import part_memory
from simulator.serving.token_costs import served_block
from simulator.strategies.expert.gathered_slices import GatheredSlices
from simulator.workload.framework_files import load_framework
from simulator.workload.model_files import load_model
from simulator.workload.ops import Op, OpKind, Work
from simulator.workload.plan import Plan
from simulator.workload.work import work_of

RANKS, TOKENS = 8, 24
ENGINE = load_framework("sglang-0.4")
SLICED = Plan(data_parallel=RANKS, expert_parallel=RANKS, precision="fp8", options=(("expert", "gathered-slices"),))
TENSOR = Plan(tensor_parallel=RANKS, precision="fp8")


def feed_forward(model: str, plan: Plan, tokens: int, layer: int = -1) -> dict[str, Work]:
    served = load_model(model)
    ops: tuple[Op, ...] = served_block(list(served.layers)[layer][0], served, plan, ENGINE, tokens).forward
    ranks = RANKS
    return {op.name: work_of(op, plan.mesh, ranks) for op in ops if op.name.startswith("mlp.")}


@pytest.mark.parametrize(("model", "layer"), [("deepseek-v3", -1), ("deepseek-v3", 0), ("qwen3-30b-a3b", -1)])
def test_products_are_those_of_tensor_ranks_over_the_tokens_of_all(model: str, layer: int) -> None:
    sliced = feed_forward(model, SLICED, TOKENS, layer)
    whole = feed_forward(model, TENSOR, RANKS * TOKENS, layer)
    products = [n for n, w in whole.items() if w.kind in (OpKind.GEMM, OpKind.GROUPED_GEMM)]
    assert products and all(sliced[name] == whole[name] for name in products)


@pytest.mark.parametrize("layer", [-1, 0])
def test_all_tokens_are_gathered_once_and_scattered_once(layer: int) -> None:
    sent = [w for w in feed_forward("deepseek-v3", SLICED, TOKENS, layer).values() if w.kind is OpKind.COLLECTIVE]
    assert [w.collective for w in sent] == ["all_gather", "reduce_scatter"]
    assert [w.message for w in sent] == [RANKS * TOKENS * load_model("deepseek-v3").hidden_size * 2.0] * 2


def test_weights_are_an_nth_of_every_feed_forward_layer() -> None:
    """Attention whole, everything else cut: 8 · (sliced − attention) is the model without its attention."""
    model = load_model("deepseek-v3")
    layer = list(model.layers)[-1][0]

    def held(plan: Plan) -> float:
        return part_memory(model, plan, ENGINE, TOKENS)[layer][0]

    alone = held(Plan(precision="fp8"))
    cut = (alone - held(SLICED)) * RANKS / (RANKS - 1)  # the feed-forward part, less the router that every rank has
    mlp = layer.mlp
    assert mlp is not None
    wide = 3 * model.hidden_size * (mlp.num_experts * mlp.moe_intermediate_size + mlp.shared_intermediate_size)
    assert cut == pytest.approx(wide, rel=0.02)  # one byte each, and scales


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"data_parallel": 4}, "data_parallel 4"),
        ({"tensor_parallel": 8}, "tensor_parallel 1"),
        ({"data_parallel": 3, "expert_parallel": 3}, "does not divide"),
    ],
)
def test_what_does_not_fit_is_said(more: dict[str, Any], said: str) -> None:
    plan = Plan(**{"data_parallel": 8, "expert_parallel": 8, "options": (("expert", "gathered-slices"),), **more})
    assert said in GatheredSlices().check(load_model("deepseek-v3"), plan)
