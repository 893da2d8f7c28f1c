"""Sparsity: closed forms of bytes and FLOPs, dense limits, and which gains batches lose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator.hardware.profiles import load_node
from simulator.registry import lookup, strategies
from simulator.serving.estimate import check_deployment, estimate_deployment
from simulator.serving.footprint import part_memory
from simulator.serving.iteration import ReplicaCost
from simulator.serving.memory import cache_size
from simulator.serving.token_costs import served_block
from simulator.strategies.protocols import BatchShape
from simulator.strategies.settings import settings_of
from simulator.strategies.sparsity.kept_context import ALL, KeptContext
from simulator.strategies.sparsity.weights import union_density
from simulator.workload.framework_files import load_framework
from simulator.workload.model_files import load_model
from simulator.workload.ops import Block, TensorClass
from simulator.workload.plan import Plan
from tests.serving_deployments import cluster, deployment, replica, requests

OPT, VLLM = load_model("opt-13b"), load_framework("vllm-0.10")
LAYER = OPT.layers[0][0]
MATRICES = 12 * 5120 * 5120


def block(sparsity: str, tokens: int = 1, **options: Any) -> Block:
    plan = Plan(options=tuple(sorted({"sparsity": sparsity, **options}.items())))
    return served_block(LAYER, OPT, plan, VLLM, tokens)


def read(layer: Block) -> float:
    """Bytes of the matrices one pass reads."""
    seen = (t for op in layer.forward for t in op.reads if t.cls is TensorClass.PARAM and len(t.dims) > 1)
    return sum(t.bytes() for t in seen)


def flops(layer: Block) -> float:
    return sum(op.flops() for op in layer.forward if op.contracts)


DENSE = served_block(LAYER, OPT, Plan(), VLLM, 1)


@pytest.mark.parametrize("name", [record.name for record in strategies(family="sparsity")])
def test_density_one_is_dense(name: str) -> None:
    dense = block(name, sparsity_density=1.0)
    assert read(dense) == read(DENSE) == 2 * MATRICES
    assert flops(dense) == flops(DENSE) == 2 * MATRICES


@pytest.mark.parametrize(
    ("name", "options", "bytes_share", "flops_share"),
    [
        ("sparsegpt", {"sparsity_density": 0.4}, 0.4 + 1 / 16, 1.0),
        ("sparsegpt", {"sparsity_pattern": "2:4"}, 0.5 * (1 + 2 / 16), 0.5),
        ("flash-llm", {"sparsity_density": 0.2}, 0.2 * 2, 1.0),
        ("flash-llm", {"sparsity_density": 0.5}, 1.0, 1.0),
        ("pit", {"sparsity_density": 0.3}, (4 + 8 * 0.3) / 12, (4 + 8 * 0.3) / 12),
        ("llm-pruner", {"sparsity_density": 0.8}, 0.8, 0.8),
        ("deja-vu", {"sparsity_density": 0.1}, (4 + 8 * 0.1) / 12, (4 + 8 * 0.1) / 12),
    ],
)
def test_bytes_and_flops_are_those_of_the_format(
    name: str, options: dict[str, Any], bytes_share: float, flops_share: float
) -> None:
    sparse = block(name, **options)
    assert read(sparse) / read(DENSE) == pytest.approx(bytes_share, rel=2e-3)
    assert flops(sparse) / flops(DENSE) == pytest.approx(flops_share, rel=2e-3)


def test_quantised_non_zeros_carry_the_same_positions() -> None:
    plan = Plan(precision="int4", options=(("sparsity", "flash-llm"), ("sparsity_density", 0.1)))
    assert read(served_block(LAYER, OPT, plan, VLLM, 1)) == pytest.approx(0.1 * (0.5 + 2) * MATRICES, rel=2e-3)


def test_contextual_sparsity_is_gone_in_a_batch() -> None:
    """A batch reads the union of what its tokens need: 1 − (1 − p)^T of the neurons."""
    rng = np.random.Generator(np.random.PCG64(1))
    drawn = (rng.random((400, 2000, 16)) < 0.1).any(axis=2).mean()
    assert union_density(0.1, 16) == pytest.approx(drawn, rel=0.01)
    for tokens in (1, 4, 16):
        share = (4 + 8 * union_density(0.1, tokens)) / 12
        assert read(block("deja-vu", tokens, sparsity_density=0.1)) / read(DENSE) == pytest.approx(share, rel=2e-3)
    assert read(block("deja-vu", 512, sparsity_density=0.1)) == read(DENSE)


def test_skipped_weights_stay_in_memory_and_pruned_ones_leave() -> None:
    def held(name: str | None) -> float:
        options = (("sparsity", name), ("sparsity_density", 0.25)) if name else ()
        return part_memory(OPT, Plan(options=options), VLLM, 1)[LAYER][0]

    assert held("deja-vu") == held("pit") == held(None)
    assert held("flash-llm") == pytest.approx(0.5 * held(None), rel=2e-3)
    assert held("llm-pruner") == pytest.approx(0.25 * held(None), rel=2e-3)


def test_a_predictor_is_read_besides() -> None:
    plain, predicted = (block("deja-vu", sparsity_density=0.1, sparsity_predictor=rank) for rank in (0, 1000))
    assert read(predicted) - read(plain) == 2 * 1000 * (5120 + 20480)  # it predicts all neurons
    assert sum(t.bytes() for t in predicted.states) > sum(t.bytes() for t in plain.states)


def kept(method: str, **options: Any) -> KeptContext:
    found: KeptContext = lookup("sparse_attention", method)(settings_of("x", {"method": method, **options})).kept
    return found


@pytest.mark.parametrize(
    ("part", "context", "attended", "held"),
    [
        (ALL, 5000, 5000, 5000),
        (kept("h2o"), 5000, 1000, 1000),
        (kept("h2o", budget=512), 5000, 512, 512),
        (kept("h2o", budget=512), 100, 100, 100),
        (kept("streaming-llm", window=252), 5000, 256, 256),
        (kept("block-sparse", local=100, global_tokens=16, random=30, block=64, sequence=4096), 5000, 256, 5000),
        (kept("spatten"), 5000, 5000, 5000),
    ],
)
def test_what_is_attended_and_held(part: KeptContext, context: int, attended: float, held: float) -> None:
    assert part.tokens(context) == attended
    assert part.held(context) == held


def test_a_block_pattern_rounds_up_to_whole_blocks() -> None:
    part = kept("block-sparse", local=100, global_tokens=16, random=30, block=64, sequence=4096)
    assert part.cap == 128 + 64 + 64
    assert part.density == pytest.approx(256 / 2048.5)
    assert kept("block-sparse", local=8192, sequence=4096).density == 1.0


@pytest.mark.parametrize("part", [kept("h2o", budget=1.0), kept("h2o", budget=1e9), kept("block-sparse", density=1.0)])
def test_an_unbounded_budget_is_dense(part: KeptContext) -> None:
    plain, bounded = replica(), replica(kept=part)
    for batch in (BatchShape((), 64, 64 * 3000, 3000), BatchShape(((2000, 500),), 8, 8000, 1000)):
        assert bounded.iteration(batch) == pytest.approx(plain.iteration(batch), rel=1e-12)
    assert bounded.decode_segment(BatchShape((), 64, 64 * 3000, 3000))[:2] == pytest.approx(
        plain.decode_segment(BatchShape((), 64, 64 * 3000, 3000))[:2]
    )


def attention(cost: ReplicaCost, context: int) -> float:
    batch = BatchShape((), 128, 128 * context, context)
    return cost.decode_attention(0, batch)[0]


def test_decode_attention_reads_the_kept_part() -> None:
    plain = replica()
    fifth = replica(kept=kept("h2o"))
    window = replica(kept=kept("streaming-llm", window=1020))
    assert attention(fifth, 5000) == pytest.approx(attention(plain, 1000), rel=1e-9)
    assert attention(window, 5000) == pytest.approx(attention(plain, 1024), rel=1e-9)
    less = [
        a - b
        for a, b in zip(
            (attention(plain, 2000), attention(replica(kept=kept("spatten")), 2000)),
            (attention(plain, 0),) * 2,
            strict=True,
        )
    ]
    assert less[1] == pytest.approx(less[0] / 10, rel=1e-6)


def test_density_scales_prompt_scores_only() -> None:
    dense, sparse = replica(), replica(kept=kept("block-sparse", density=0.25))
    batch = BatchShape(((8000, 0),), 0, 0)
    scores = [sum(c * t.flops(batch) for t, c in cost.attention[0]) for cost in (dense, sparse)]
    assert scores[1] == pytest.approx(scores[0] / 4)
    assert dense.flops(batch) - scores[0] == pytest.approx(sparse.flops(batch) - scores[1])


def test_evicting_budgets_hold_more_requests() -> None:
    node, table = load_node("dgx-h100"), requests(inputs=1800, outputs=200)

    def tokens(**options: Any) -> int:
        return cache_size(deployment("llama-3.1-8b", table=table, options=options), node).tokens

    plain = tokens()
    assert tokens(sparse_attention="h2o") == pytest.approx(5 * plain, rel=1e-3)
    assert tokens(sparse_attention={"method": "streaming-llm", "window": 196}) == pytest.approx(10 * plain, rel=1e-3)
    assert tokens(sparse_attention={"method": "block-sparse", "density": 0.1}) == plain


def test_quality_is_declared_or_said_to_be_missing() -> None:
    plan = Plan(precision="int4", options=(("sparsity", "sparsegpt"),))
    options = {"sparse_attention": "h2o"}
    notes = estimate_deployment(deployment("opt-13b", plan=plan, options=options, kv_dtype="fp8"), cluster()).warnings
    assert "int4: quality cost not declared in a source read" in notes
    assert any(note.startswith("sparsegpt: quality: at least 50 %") for note in notes)
    assert any(note.startswith("h2o: quality:") and "2306.14048" in note for note in notes)
    assert any("kv_dtype fp8" in note for note in notes)
    assert estimate_deployment(deployment("opt-13b"), cluster()).warnings == ()


def test_olive_moves_a_quarter_of_the_bytes() -> None:
    plan = Plan(precision="olive")
    sizes = [served_block(LAYER, OPT, p, VLLM, 64).forward for p in (Plan(), plan)]
    up = [next(op for op in ops if op.name == "mlp.up") for ops in sizes]
    assert (
        sum(t.bytes() for t in up[1].reads if len(t.dims) > 1)
        == sum(t.bytes() for t in up[0].reads if len(t.dims) > 1) / 4
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": "sparsegpt", "sparsity_density": 1.5}, "not above 0 and at most 1"),
        ({"sparsity": "sparsegpt", "sparsity_pattern": "1:4"}, "unstructured or 2:4"),
        ({"sparsity": "sparsegpt", "sparsity_pattern": "2:4", "sparsity_density": 0.3}, "keeps half"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    asked = deployment("opt-13b", plan=Plan(options=tuple(sorted(options.items()))))
    assert any(message in reason for reason in check_deployment(asked, cluster()))
