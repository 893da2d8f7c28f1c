"""Expert parallelism: closed forms of its traffic and load, and the limits in which strategies are the same."""

from __future__ import annotations

import math

import pytest
from partitions import flops, layer_of, messages, plan_of, replace, same_work

from simulator.strategies.compile import check_plan, plan_notes
from simulator.strategies.expert.experts_move import shadowed
from simulator.strategies.expert.hierarchical import distinct_nodes
from simulator.strategies.expert.routing import dropped_share, imbalance, routing_shares
from simulator.workload.framework_files import load_framework
from simulator.workload.model import ModelSpec
from simulator.workload.model_files import load_model
from simulator.workload.ops import Block
from simulator.workload.plan import Plan

EP = plan_of(data_parallel=8, expert_parallel=8)
S, K, H = 4096, 2, 4096  # mixtral-8x7b: top-2 of 8 experts
ROWS = S * K
ROW_BYTES = 2 * ROWS * H


def mixtral(plan: Plan) -> Block:
    return layer_of("mixtral-8x7b", plan, 1, S)


def expert_flops(block: Block, plan: Plan) -> float:
    return flops((op for op in block.ops if ".expert_" in op.name), plan)


def test_two_all_to_alls_each_way() -> None:
    # Lepikhin et al., arXiv 2006.16668: dispatch and combine of k·tokens·h, forward and backward.
    block = mixtral(EP)
    assert messages(block.forward, EP, "all_to_all", "ep") == [ROW_BYTES] * 2
    assert messages(block.backward, EP, "all_to_all", "ep") == [ROW_BYTES] * 2


@pytest.mark.parametrize("fields", [{}, {"context_parallel": 2}, {"tensor_parallel": 4, "sequence_parallel": True}])
def test_balanced_work_is_conserved(fields: dict[str, object]) -> None:
    plan, alone = EP.with_(**fields), Plan()
    ranks = plan.tensor_parallel * plan.context_parallel
    assert expert_flops(mixtral(plan), plan) * ranks == expert_flops(mixtral(alone), alone)


def test_experts_are_held_once_per_group() -> None:
    def held(plan: Plan) -> float:
        return sum(t.bytes(plan.mesh) for t in mixtral(plan).states if "experts" in t.dim_names)

    assert held(EP) * 8 == held(Plan(data_parallel=8))


def test_experts_fold_over_tensor_ranks() -> None:
    # arXiv 2504.14960: eight experts on 4 × 2 ranks, whole; every rank sends its slice of the rows and gathers none.
    plan = plan_of(
        tensor_parallel=4, sequence_parallel=True, data_parallel=2, expert_parallel=8, expert_tensor_parallel=1
    )
    block, alone = mixtral(plan), Plan()
    assert plan.mesh["edp"] == 1
    assert expert_flops(block, plan) * 4 == expert_flops(mixtral(alone), alone)
    assert messages(block.forward, plan, "all_to_all", "ep") == [ROW_BYTES / 4] * 2
    assert not any("rows." in op.name for op in block.ops if op.collective is not None)
    held = [sum(t.bytes(p.mesh) for t in mixtral(p).states if "experts" in t.dim_names) for p in (plan, alone)]
    assert held[0] * 8 == held[1]


def test_gradients_of_experts_are_reduced_among_their_replicas() -> None:
    plan = plan_of(data_parallel=16, expert_parallel=8)
    block = mixtral(plan)
    weights = 3 * 4096 * 14336  # parameters of one expert: the share of a rank
    assert messages(block.reduce, plan, "all_reduce", "edp") == [4 * weights]


def test_tensor_ranks_share_the_rows_they_send() -> None:
    plan = EP.with_(tensor_parallel=4, sequence_parallel=True)
    block = mixtral(plan)
    assert messages(block.forward, plan, "all_to_all", "ep") == [ROW_BYTES / 4] * 2
    rows = [m for m in messages(block.forward, plan, "all_gather", "tp") if m == ROW_BYTES]
    assert len(rows) == 1  # all rows before the experts


# -- capacity and skew ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.5, 1.25, 2.0])
def test_capacity_pads_rows_and_messages(factor: float) -> None:
    plan = EP.with_(expert="gshard", capacity_factor=factor)
    assert messages(mixtral(plan).ops, plan, "all_to_all", "ep") == [factor * ROW_BYTES] * 4
    assert expert_flops(mixtral(plan), plan) == factor * expert_flops(mixtral(EP), EP)


def test_switch_routes_to_one_expert_with_a_quarter_to_spare() -> None:
    # Fedus et al., arXiv 2101.03961 §2.2: one expert per token, capacity 1.25 times the mean, padded rows travel too.
    plan = plan_of(data_parallel=8, expert_parallel=8, expert="switch")
    block = layer_of("llama4-scout", plan, 1, S, last=True)
    hidden = load_model("llama4-scout").hidden_size
    assert messages(block.ops, plan, "all_to_all", "ep") == [1.25 * 2 * S * hidden] * 4
    alone = layer_of("llama4-scout", Plan(), 1, S, last=True)
    assert expert_flops(block, plan) == 1.25 * expert_flops(alone, Plan())


def test_capacity_one_and_balance_is_dropless() -> None:
    strategies = ("all-to-all", "gshard", "megablocks", "fastermoe", "smartmoe")
    blocks = [mixtral(EP.with_(expert=name, capacity_factor=1.0)) for name in strategies]
    assert all(same_work(blocks[0], other, EP) for other in blocks[1:])


def test_a_capacity_is_one_more_selection_and_a_mask() -> None:
    megatron = load_framework("megatron-core-0.8")
    plain, kept = (layer_of("mixtral-8x7b", plan, 1, S, megatron) for plan in (EP, EP.with_(expert="gshard")))

    def tag(block: Block, name: str, key: str) -> int:
        return next(int(op.tags[key]) for op in block.ops if op.name == f"mlp.{name}")

    added = (("select", "selections", 1), ("topk", "kernels", 4), ("topk.backward", "kernels_backward", 1))
    for name, key, more in added:
        assert tag(kept, name, key) == tag(plain, name, key) + more


def test_dropped_rows() -> None:
    # One expert of four gets 70 %, the others 10 % each; each has room for 30 % of the rows at a factor of 1.2.
    assert dropped_share((0.7, 0.1, 0.1, 0.1), 1.2) == pytest.approx(0.4)
    assert dropped_share((0.25,) * 4, 1.0) == 0
    assert dropped_share((0.7, 0.1, 0.1, 0.1), 4.0) == 0
    plan = EP.with_(expert="gshard", capacity_factor=1.0, routing=(5, 1, 1, 1, 0, 0, 0, 0))
    dispatch = next(op for op in mixtral(plan).forward if op.name == "mlp.dispatch")
    assert float(dispatch.tags["dropped"]) == pytest.approx(0.5)
    assert "dropped" in plan_notes(plan)[0]


def test_busiest_rank_counts() -> None:
    # FasterMoE (PPoPP'22 §2) observed 4 of 16 experts with about 20 % of the tokens each: 3.2 times the mean.
    loads = (0.2,) * 4 + (0.2 / 12,) * 12
    assert imbalance(loads) == pytest.approx(3.2)
    model = _sixteen_experts()
    plan = plan_of(data_parallel=16, expert_parallel=16, routing=loads)
    even = plan.with_(routing="uniform")
    skewed, balanced = (layer_of(model, p, 1, 5000) for p in (plan, even))  # 10,000 rows
    assert expert_flops(skewed, plan) == pytest.approx(3.2 * expert_flops(balanced, even))
    assert sum(messages(skewed.ops, plan, "all_to_all", "ep")) == pytest.approx(
        3.2 * sum(messages(balanced.ops, even, "all_to_all", "ep"))
    )


def _sixteen_experts() -> ModelSpec:
    model = load_model("mixtral-8x7b")
    layers = tuple(
        (replace(layer, mlp=replace(layer.mlp, num_experts=16)), n) for layer, n in model.layers if layer.mlp
    )
    return replace(model, layers=layers)


def test_zipf_shares() -> None:
    assert routing_shares("zipf(1)", 4) == pytest.approx((12 / 25, 6 / 25, 4 / 25, 3 / 25))
    assert routing_shares("zipf(0)", 8) == routing_shares("uniform", 8)


def test_dropless_rounds_to_blocks_of_128() -> None:
    plan = EP.with_(expert="megablocks")
    block, even = (layer_of("mixtral-8x7b", p, 1, 200) for p in (plan, EP))  # 400 rows on a rank that holds one expert
    assert expert_flops(block, plan) / expert_flops(even, EP) == pytest.approx(512 / 400)


# -- hierarchy ---------------------------------------------------------------------------------------------------------


def test_hierarchical_all_to_all_sends_all_rows_twice() -> None:
    plan = EP.with_(expert="tutel", expert_group=4)
    block = mixtral(plan)
    axes = [op.axis for op in block.forward if op.axis.startswith("ep")]
    assert axes == ["ep[1:4]", "ep[4:8]"] * 2
    assert messages(block.forward, plan, "all_to_all", "ep") == [ROW_BYTES] * 4


@pytest.mark.parametrize("name", ["tutel", "node-limited"])
def test_one_server_needs_no_hierarchy(name: str) -> None:
    plan = EP.with_(expert=name, expert_group=8)
    assert same_work(mixtral(plan), mixtral(EP), plan)


def test_distinct_servers() -> None:
    assert distinct_nodes(8, 1, 4) == pytest.approx(1.0)
    assert distinct_nodes(2, 2, 4) == pytest.approx(1.5)
    assert distinct_nodes(64, 8, 4) == distinct_nodes(4, 8, 4) < 4  # the limit
    assert distinct_nodes(10**9, 8, 10**9) == pytest.approx(8, rel=1e-6)  # no two experts meet


def test_node_limited_routing_sends_one_copy_per_server() -> None:
    plan = plan_of(
        data_parallel=64, expert_parallel=64, expert="node-limited", expert_group=8, dispatch_precision="fp8"
    )
    block = layer_of("deepseek-v3", plan, 1, S, last=True)
    rows = S * math.ceil(8 * distinct_nodes(8, 8, 4) / 8 * 1e9) / 1e9 * 7168
    between = [o for o in block.forward if o.axis == "ep[8:64]"]
    inside = [o for o in block.forward if o.axis == "ep[1:8]"]
    assert [o.reads[0].bytes(plan.mesh) for o in between] == pytest.approx(
        [rows, 2 * rows], rel=1e-4
    )  # fp8 there, bf16 back
    assert [o.reads[0].bytes(plan.mesh) for o in inside] == [S * 8 * 7168, 2 * S * 8 * 7168]


# -- experts that move -------------------------------------------------------------------------------------------------


def test_experts_are_fetched_only_where_that_is_cheaper() -> None:
    few, many = (EP.with_(expert="janus"), 1024), (EP.with_(expert="janus"), 131072)
    for (plan, sequence), fetched in ((few, False), (many, True)):
        block = layer_of("mixtral-8x7b", plan, 1, sequence)
        weights = 3 * 4096 * 14336 * 8
        assert bool(messages(block.ops, plan, "all_to_all", "ep")) is not fetched
        gathers = messages(block.ops, plan, "all_gather", "ep")
        assert gathers == ([2 * weights] * 2 if fetched else [])
        assert sum(messages(block.ops, plan, "reduce_scatter", "ep")) == (
            4 * weights if fetched else 0
        )  # fp32 gradients
        alone = layer_of("mixtral-8x7b", Plan(), 1, sequence)
        assert expert_flops(block, plan) == expert_flops(alone, Plan())
        held = sum(t.bytes(plan.mesh) for t in block.states if "experts" in t.dim_names)
        assert held * 8 == sum(t.bytes(Plan().mesh) for t in alone.states if "experts" in t.dim_names)


def test_shadows_where_parameters_are_fewer_than_tokens() -> None:
    # An expert with share x of rows·ranks rows: shadowed iff 2·W < 4·x·rows·(ranks − 1)·h.
    h, ranks, rows, elements = 1024, 8, 1000.0, 8 * 1024.0**2
    limit = 2 * elements / (4 * rows * (ranks - 1) * h)
    shares = (limit * 1.01, limit * 0.99, 1 - 2 * limit)
    assert shadowed(shares, rows, h, elements, ranks) == {0} | ({2} if shares[2] > limit else set())


def test_shadowing_everything_moves_no_tokens() -> None:
    plan = EP.with_(expert="fastermoe", routing="uniform")
    block = layer_of("mixtral-8x7b", plan, 1, 262144)
    assert messages(block.ops, plan, "all_to_all", "ep") == [0.0] * 4
    assert messages(block.forward, plan, "broadcast", "ep") == [2 * 3 * 4096 * 14336 * 8]
    alone = layer_of("mixtral-8x7b", Plan(), 1, 262144)
    assert expert_flops(block, plan) == expert_flops(alone, Plan())


def test_shadows_relieve_the_busiest_rank() -> None:
    skewed = EP.with_(routing="zipf(1.5)")
    hot = skewed.with_(expert="fastermoe")
    plain, relieved = (layer_of("mixtral-8x7b", p, 1, 32768) for p in (skewed, hot))
    assert expert_flops(relieved, hot) < expert_flops(plain, skewed)


def test_copies_and_placement_balance() -> None:
    loads = (8, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 8)
    model = _sixteen_experts()
    base = plan_of(data_parallel=8, expert_parallel=8, routing=loads)
    work = {
        name: expert_flops(layer_of(model, base.with_(expert=name), 1, S), base)
        for name in ("all-to-all", "smartmoe", "flexmoe")
    }
    even = expert_flops(layer_of(model, base.with_(routing="uniform"), 1, S), base)
    assert work["all-to-all"] / even == pytest.approx(9 / 30 * 8, rel=1e-3)
    assert even <= work["flexmoe"] < work["smartmoe"] <= work["all-to-all"]
    block = layer_of(model, base.with_(expert="flexmoe"), 1, S)
    held, before = (
        sum(t.elements(base.mesh) for t in b.parameters if "experts" in t.dim_names)
        for b in (block, layer_of(model, base, 1, S))
    )
    assert held == 1.5 * before  # a third place on every rank that held two
    assert messages(block.reduce, base, "all_reduce", "ep") == [2 * before / 2]


def test_counts_go_ahead_of_the_rows() -> None:
    # FastMoE (arXiv 2103.13262): workers exchange how many rows follow, one number per expert, then the rows.
    plan = EP.with_(expert="fastmoe")
    block = mixtral(plan)
    assert messages(block.forward, plan, "all_to_all", "ep") == [4 * 8, ROW_BYTES, ROW_BYTES]
    assert messages(block.backward, plan, "all_to_all", "ep") == [ROW_BYTES] * 2
    assert expert_flops(block, plan) == expert_flops(mixtral(EP), EP)


def test_placement_by_load_and_what_the_move_costs() -> None:
    """Two hot experts side by side: 16 of 30 rows on one rank; apart, 9 of 30. Moves by hand.

    Heaviest first onto the lightest rank with room: experts 0 and 1 go to ranks 0 and 1, the next six to the other
    ranks in turn, the last eight fill up from rank 2 on. A moved expert takes 2 + 12 bytes per parameter along.
    """
    loads = (8, 8, *(1,) * 14)
    model = _sixteen_experts()
    base = plan_of(data_parallel=8, expert_parallel=8, routing=loads)
    smart = base.with_(expert="smartmoe", replan_every=50)
    before, after = (expert_flops(layer_of(model, p, 1, S), p) for p in (base, smart))
    assert before / after == pytest.approx(16 / 9, rel=1e-3)
    neighbours = [e // 2 for e in range(16)]
    balanced = [0, 1, *range(2, 8), *range(2, 8), 0, 1]
    moved = sum(a != b for a, b in zip(neighbours, balanced, strict=True)) / 8
    sends = messages(layer_of(model, smart, 1, S).reduce, smart, "send_recv", "ep")
    assert sends == [pytest.approx(14 * moved * 3 * 4096 * 14336 / 50, rel=1e-6)]


@pytest.mark.parametrize("routing", ["uniform", "zipf(1.2)"])
def test_no_spare_slot_is_the_plain_exchange(routing: str) -> None:
    plan = EP.with_(routing=routing)
    assert same_work(mixtral(plan.with_(expert="flexmoe", expert_slots=0)), mixtral(plan), plan)


# -- limits and refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "all-to-all",
        "fastmoe",
        "gshard",
        "megablocks",
        "tutel",
        "node-limited",
        "janus",
        "fastermoe",
        "smartmoe",
        "flexmoe",
    ],
)
def test_degree_one_changes_nothing(name: str) -> None:
    assert same_work(mixtral(Plan()), mixtral(Plan().with_(expert=name)), Plan())


def test_reasons_name_what_works() -> None:
    model = load_model("mixtral-8x7b")
    for fields, words in (
        ({"expert_parallel": 3, "data_parallel": 3}, "1, 2, 4, 8"),
        ({"routing": (1, 2, 3)}, "8 numbers"),
        ({"routing": "pareto"}, "zipf(1.2)"),
        ({"expert": "switch"}, "1 expert"),
        ({"expert": "gshard", "capacity_factor": 0}, "capacity_factor"),
        ({"expert": "tutel"}, "expert_group"),
        ({"expert": "flexmoe", "expert_slots": -1}, "expert_slots"),
    ):
        (reason,) = check_plan(model, EP.with_(**fields))
        assert words in reason
    (reason,) = check_plan(load_model("llama-3.1-8b"), EP)
    assert "no routed experts" in reason
