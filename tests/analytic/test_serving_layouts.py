"""Layouts of Pope et al. (arXiv 2211.05102): their closed forms of communication, and what they become at the ends."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from simulator.cost.collectives import wire_bytes
from simulator.serving.footprint import kv_bytes_per_token, part_memory
from simulator.serving.memory import cache_size
from simulator.serving.token_costs import served_block
from simulator.strategies.compile import check_plan
from simulator.strategies.tensor.attention_split import attention_split
from simulator.workload.framework_files import load_framework
from simulator.workload.model_files import load_model
from simulator.workload.ops import Block, OpKind, TensorClass
from simulator.workload.plan import Plan
from simulator.workload.work import work_of
from tests.serving_deployments import cluster, deployment

MODEL, VLLM = load_model("gpt3-13b"), load_framework("vllm-0.10")  # 40 heads, F = 4 E
LAYER = MODEL.layers[0][0]
WIDTH = MODEL.hidden_size
RANKS = 20


def plan(tensor: str, rows: int, ranks: int = RANKS, **options: object) -> Plan:
    return Plan(tensor_parallel=ranks).with_(tensor=tensor, tensor_rows=rows, **options)


def block(layout: Plan, tokens: int) -> Block:
    return served_block(LAYER, MODEL, layout, VLLM, tokens)


def numbers_sent(layout: Plan, tokens: int, part: str = "mlp") -> float:
    """16-bit numbers that a rank sends for one MLP; statistics of the norm apart."""
    sent = 0.0
    for op in block(layout, tokens).forward:
        if op.kind is OpKind.COLLECTIVE and op.name.startswith(part) and "sums" not in op.name:
            ranks = layout.mesh[op.axis]
            sent += wire_bytes(str(op.collective), ranks, work_of(op, layout.mesh, ranks).message)
    return sent / 2.0


def others(ranks: int) -> float:
    """The share of a buffer that comes from the other ranks."""
    return (ranks - 1) / ranks


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 10, 20])
def test_two_dimensions_move_activations(rows: int) -> None:
    """2·B·L·(E/X + F/YZ), with the share that a rank has already taken off."""
    tokens, wide = 1000, RANKS // rows
    expected = 2 * tokens * (others(wide) * WIDTH / rows + others(rows) * 4 * WIDTH / wide)
    assert numbers_sent(plan("weight-stationary-2d", rows), tokens) == pytest.approx(expected, rel=1e-12)


def test_best_grid_is_half_the_root() -> None:
    """X = √n/2 for F = 4E: of the grids of 64 ranks 4 × 16 moves least, by 8·B·L·E/√n at most."""
    model = load_model("opt-6.7b")  # E = 4096

    def sent(rows: int) -> float:
        layout, total = plan("weight-stationary-2d", rows, 64, attention_over="sequences"), 0.0
        for op in served_block(model.layers[0][0], model, layout, VLLM, 512).forward:
            if op.kind is OpKind.COLLECTIVE and op.name.startswith("mlp") and "sums" not in op.name:
                ranks = layout.mesh[op.axis]
                total += wire_bytes(str(op.collective), ranks, work_of(op, layout.mesh, ranks).message) / 2
        return total

    by_rows = {rows: sent(rows) for rows in (1, 2, 4, 8, 16, 32)}
    assert min(by_rows, key=by_rows.__getitem__) == 4
    assert by_rows[4] <= 8 * 512 * 4096 / math.sqrt(64)
    assert by_rows[1] == pytest.approx(2 * 512 * 4096 * others(64))


@pytest.mark.parametrize("gathered", [1, 2, 4, 5, 10, 20])
def test_gathering_moves_weights(gathered: int) -> None:
    """2·E·F·N/n + 2·B·L·E/N."""
    tokens, groups = 1000, RANKS // gathered
    expected = 2 * WIDTH * 4 * WIDTH / groups * others(gathered) + 2 * tokens * WIDTH / gathered * others(groups)
    assert numbers_sent(plan("weight-gathered", gathered), tokens) == pytest.approx(expected, rel=1e-12)


def test_many_tokens_want_weights_to_move() -> None:
    """Best N = √(B·L·n/F): none gathered for tokens, all for long prompts; few tokens want two dimensions."""

    def best(tokens: int) -> int:
        return min((1, 2, 4, 5, 10, 20), key=lambda n: numbers_sent(plan("weight-gathered", n), tokens))

    assert best(100) == 1
    assert best(16 * 4 * WIDTH // RANKS) == 4
    assert best(400 * 4 * WIDTH // RANKS) == 20
    few, many = 64, 1_000_000
    assert numbers_sent(plan("weight-stationary-2d", 2), few) < numbers_sent(plan("weight-gathered", 20), few)
    assert numbers_sent(plan("weight-stationary-2d", 2), many) > numbers_sent(plan("weight-gathered", 20), many)


def test_one_row_moves_what_megatron_does() -> None:
    one = numbers_sent(Plan(tensor_parallel=RANKS), 1000)
    assert numbers_sent(plan("weight-stationary-2d", 1), 1000) == pytest.approx(one)
    assert numbers_sent(plan("weight-gathered", 1), 1000) == pytest.approx(one)


@pytest.mark.parametrize("name", ["weight-stationary-2d", "weight-gathered"])
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_work_and_weights_are_conserved(name: str, precision: str) -> None:
    layout = plan(name, 4).with_(precision=precision)
    whole, mine = block(Plan(precision=precision), 1000), block(layout, 1000)
    flops = sum(op.flops(layout.mesh) for op in mine.forward if op.contracts)
    assert flops * RANKS == pytest.approx(sum(op.flops() for op in whole.forward if op.contracts))
    matrices = [t for t in mine.states if len(t.dims) > 1]
    assert sum(t.bytes(layout.mesh) for t in matrices) * RANKS == sum(
        t.bytes() for t in whole.states if len(t.dims) > 1
    )
    assert all(t.dtype == precision for t in matrices)
    gathered = [op for op in mine.forward if op.name.endswith(".weights")]
    assert len(gathered) == (4 if name == "weight-gathered" else 0)
    assert all(t.dtype == precision for op in gathered for t in (*op.reads, *op.writes))


def test_sequences_cut_the_cache_of_few_heads() -> None:
    """Multi-query attention over heads keeps the whole cache on every rank; over sequences it is cut by all (§3.3)."""
    falcon = deployment("falcon-40b", plan=plan("weight-stationary-2d", 2, 8), max_model_len=2048)
    dealt = deployment(
        "falcon-40b", plan=plan("weight-stationary-2d", 2, 8, attention_over="sequences"), max_model_len=2048
    )
    assert attention_split(dealt.plan) == (1, 8)
    node = cluster().groups[0].node
    by_heads, by_sequences = cache_size(falcon, node), cache_size(dealt, node)
    assert by_heads.bytes_per_token == by_sequences.bytes_per_token  # eight key/value heads on eight ranks: equal
    one = load_model("opt-6.7b").layers[0][0].attention
    assert one is not None
    query = replace(one, num_key_value_heads=1)
    assert kv_bytes_per_token(query, 8, 2.0) == 8 * kv_bytes_per_token(query, 1, 2.0, sequences=8)


def test_queries_travel_to_their_sequences_and_back() -> None:
    """All-to-all of queries, keys and values, and of the result: 1/n of each rank's share stays."""
    tokens, layout = 1000, plan("weight-stationary-2d", 2, attention_over="sequences")
    moved = numbers_sent(layout, tokens, "attention.core")
    assert moved == pytest.approx(others(RANKS) * tokens * 4 * WIDTH / RANKS)


def test_parts_fit_together() -> None:
    """Embedding and head leave and take the stream as the layers have it."""
    for name in ("weight-stationary-2d", "weight-gathered"):
        layout = plan(name, 4)
        rest = block(layout, 64).boundary.sharding
        for part in ("embedding", "head"):
            made = served_block(part, MODEL, layout, VLLM, 64)
            stream = made.boundary if part == "head" else made.forward[-1].writes[0]
            assert set(stream.sharding) == set(rest), (name, part)
        assert all(weights > 0 for weights, _ in part_memory(MODEL, layout, VLLM, 64).values())


@pytest.mark.parametrize(
    ("model", "layout", "words"),
    [
        ("mixtral-8x7b", plan("weight-gathered", 2, 4), "use megatron-1d"),
        ("gpt3-13b", plan("weight-stationary-2d", 3), "does not divide"),
        ("gpt3-13b", plan("weight-stationary-2d", 2, 16), "40 attention heads"),
        ("gpt3-13b", plan("weight-stationary-2d", 2, attention_over="pages"), "'heads' or 'sequences'"),
    ],
)
def test_reasons(model: str, layout: Plan, words: str) -> None:
    (reason,) = check_plan(load_model(model), layout, "serving")
    assert words in reason


def test_training_wants_another_layout() -> None:
    (reason,) = check_plan(MODEL, plan("weight-gathered", 2), "training")
    assert "layout of serving" in reason
    assert all(t.cls is not TensorClass.GRAD for t in block(plan("weight-gathered", 2), 8).states)
