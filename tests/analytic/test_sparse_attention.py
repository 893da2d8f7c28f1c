"""Attention over chosen tokens (DeepSeek-V3.2) against closed forms, its limiting cases and published iterations."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.cost.device import DeviceCost
from simulator.cost.sparse_attention import padded_heads
from simulator.hardware.profiles import load_accelerator, load_node
from simulator.serving.attention_terms import SoftmaxTerm, attention_term
from simulator.serving.footprint import kv_bytes_per_token as cached_bytes
from simulator.serving.iteration import ReplicaCost
from simulator.serving.sparse_terms import SparseTerm, sparse_term
from simulator.strategies.protocols import BatchShape
from simulator.workload.counting import forward_flops_per_token, kv_bytes_per_token, parameters
from simulator.workload.framework_files import load_framework
from simulator.workload.hf_config import from_hf_config
from simulator.workload.lowering import LoweringContext, lower_layer
from simulator.workload.model_files import load_model
from simulator.workload.ops import OpKind
from simulator.workload.plan import Plan
from tests.serving_deployments import FABRIC

V3, V32 = load_model("deepseek-v3"), load_model("deepseek-v3.2")
MIXER = next(layer.attention for layer, _ in V32.layers if layer.attention is not None)
LAYERS, TOPK = 61, 2048
HOPPER = 0.645 * 989.4e12
"""640 TFLOP/s of 989 on H800 (deepseek-ai/FlashMLA README)."""


def dense(engine: str = "vllm-latest", ranks: int = 8, topk: int = TOPK, device: str = "h200-sxm") -> SoftmaxTerm:
    cost = DeviceCost(load_accelerator(device), load_framework(engine))
    term = attention_term(replace(MIXER, index_topk=topk), cost, ranks, "bf16")
    assert isinstance(term, SoftmaxTerm)
    return term


def sparse(engine: str = "vllm-latest", ranks: int = 8, topk: int = TOPK, device: str = "h200-sxm") -> SparseTerm:
    return sparse_term(dense(engine, ranks, topk, device))


def test_an_indexer_adds_three_projections_a_norm_and_a_key() -> None:
    assert parameters(V32) - parameters(V3) == LAYERS * (1536 * 64 * 128 + 7168 * (128 + 64) + 2 * 128)
    assert kv_bytes_per_token(V32) - kv_bytes_per_token(V3) == LAYERS * (128 + 4)  # fp8 and one scale
    assert cached_bytes(MIXER, 8, 2.0) == 576 * 2 + 132
    bare = from_hf_config({"model_type": "deepseek_v32"}, "bare").layers[-1][0].attention
    assert bare is not None and (bare.index_n_heads, bare.index_head_dim, bare.index_topk) == (64, 128, 2048)


@pytest.mark.parametrize("length", [1024, 2048, 32768])
def test_flops_are_those_of_a_band_and_of_all_scores(length: int) -> None:
    band = min(TOPK, length)
    seen = band - band * band / (2 * length)  # of the causal triangle
    core = LAYERS * 2 * 128 * (192 + 128)
    extra = LAYERS * 2 * (64 * 128 * length / 2 + 1536 * 64 * 128 + 7168 * 192)
    expected = forward_flops_per_token(V3, length, True) + core * (seen - length / 2) + extra
    assert forward_flops_per_token(V32, length, True) == pytest.approx(expected, rel=1e-12)


def test_the_lowered_layer_has_the_same_flops() -> None:
    def flops(model_layer: int, training: bool) -> dict[str, float]:
        model = (V3, V32)[model_layer]
        block = lower_layer(
            model.layers[-1][0], LoweringContext(model, 1, 8192, training, load_framework("vllm-latest"))
        )
        return {op.name.partition(".")[2]: op.flops() for op in block.forward if op.kind is not OpKind.ELEMENTWISE}

    found, without = flops(1, True), flops(0, True)
    assert found["index_q"] == 2 * 8192 * 1536 * 64 * 128
    assert found["index_scores"] == pytest.approx(8192 * 8192 / 2 * 64 * 128 * 2, rel=1e-3)
    seen = TOPK - TOPK * (TOPK - 1) / 2 / 8192
    assert found["core"] / without["core"] == pytest.approx(seen / (8193 / 2), rel=1e-3)


@pytest.mark.parametrize(("ranks", "heads"), [(16, 64), (8, 64), (2, 64), (1, 128)])
def test_sparse_prompts_pay_every_place_and_padded_heads(ranks: int, heads: int) -> None:
    """A prompt of 300 tokens costs per token what one of 30,000 costs: the kernel runs over 2,048 places of each."""
    term = sparse(ranks=ranks)
    blocks, least = padded_heads(128 // ranks, "hopper")
    assert blocks * least == heads
    kernel = TOPK * heads * 2 * (576 + 512) / HOPPER
    for prompt in (300, 2000):
        more = term.prefill([(prompt, 0)] * 3) - term.prefill([(prompt, 0)] * 2)
        scores = prompt * (prompt + 1) / 2 * 64 * 128 * 2 / (0.6 * 1979e12)
        assert prompt * kernel < more < prompt * (kernel + 25e-9) + 3 * scores


def test_blackwell_computes_128_heads() -> None:
    assert [padded_heads(h, "blackwell") for h in (16, 128)] == [(1, 128), (1, 128)]
    assert padded_heads(16, "ampere") == (16, 1)


@pytest.mark.parametrize(("engine", "share"), [("vllm-latest", 0.645), ("tensorrt-llm-1.2", 0.203)])
def test_decodes_come_in_waves_of_a_block_per_multiprocessor(engine: str, share: float) -> None:
    """132 multiprocessors take as long for one token as for 132, and twice as long for the next. TensorRT-LLM 1.3 was
    timed so on H200 (aiconfigurator-core 0.12.0, eight ranks, contexts of 64 tokens): 255, 265, 282 and 470 us for 16,
    64, 128 and 256 sequences."""
    wave = TOPK * 64 * 2 * (576 + 512) * 132 / (share * 989.4e12)
    seconds = {n: sparse(engine).decode(n, 0.0)[0] for n in (1, 132, 133, 264)}
    small = 264 * 1.2e-6  # the selection of every row
    assert seconds[132] - seconds[1] < small
    assert wave <= seconds[133] - seconds[132] < wave + small
    assert seconds[264] - seconds[133] < small
    assert sparse(engine, ranks=1).decode(66, 0.0)[0] == pytest.approx(seconds[132], abs=small)  # two blocks a token


def test_iterations_of_decodes_are_near_those_published() -> None:
    """GPUStack, eight H200, vLLM 0.13, 100 sequences of 1,000 to 3,000 tokens: half of the gaps between tokens are 43.1
    ms, 99 % no longer than 44.3."""
    node = load_node("hgx-h200")
    plan, engine = Plan(tensor_parallel=8, precision="fp8"), load_framework("vllm-latest")
    cost = ReplicaCost(V32, plan, engine, node, FABRIC)
    assert cost.iteration(BatchShape((), 100, 200_000, 2000)) == pytest.approx(0.0431, rel=0.15)


def test_iterations_of_vllm_are_as_much_longer_as_published() -> None:
    """GPUStack, eight H200, iterations of 8,192 tokens: the longest gaps between tokens are 384 ms for DeepSeek-R1 in
    vLLM 0.11 and 661 to 683 ms for V3.2 in 0.13, of 128 to 4,000 tokens of context alike."""
    chunks = [(220, 0)] * 37
    longer = LAYERS * (sparse().prefill(chunks) - dense(topk=0).prefill(chunks))
    assert longer == pytest.approx(0.29, rel=0.25)


def test_sglang_computes_short_prompts_dense_and_decodes_the_chosen() -> None:
    short, long = [(2048, 0), (100, 1900)], [(2049, 0)]
    term, plain = sparse("sglang-0.4"), dense("sglang-0.4")
    assert term.prefill(short) == plain.prefill(short)
    assert term.prefill(long) > plain.prefill(long)
    scored = sparse("sglang-0.4", topk=10**6)  # nothing is left out: what is more is the indexer
    extra = [scored.decode(64, 64.0 * c)[0] - plain.decode(64, 64.0 * c)[0] for c in (500, 1000, 1500)]
    assert extra[2] - extra[1] == pytest.approx(extra[1] - extra[0])
    assert extra[0] > 64 * 500 * 132 / 4.8e12


@pytest.mark.parametrize("engine", ["sglang-0.4", "vllm-latest"])
def test_beyond_the_top_k_only_the_indexer_grows(engine: str) -> None:
    term = sparse(engine)
    full, later = term.decode(32, 32 * 4096.0), term.decode(32, 32 * 8192.0)
    keys = 32 * 4096 * (132 + 8) / (0.93 * 4.8e12)
    assert later[0] - full[0] == pytest.approx(keys, rel=0.15)
    assert full[1] * 4096 == pytest.approx(later[0] - full[0])


@settings(deadline=None, max_examples=60)
@given(
    decodes=st.integers(1, 300), context=st.integers(1, 30_000), steps=st.integers(1, 400),
    engine=st.sampled_from(["sglang-0.4", "vllm-latest"]),
)  # fmt: skip
def test_decodes_are_affine_as_long_as_they_say(decodes: int, context: int, steps: int, engine: str) -> None:
    term = sparse(engine)
    seconds, growth, holds = term.decode(decodes, float(decodes * context))
    assert seconds >= term.floor(BatchShape((), decodes, decodes * context, context))
    ahead = min(steps, holds)
    then = term.decode(decodes, float(decodes * (context + ahead)))[0]
    assert then == pytest.approx(seconds + ahead * growth, rel=1e-6)


@settings(deadline=None, max_examples=40)
@given(chunk=st.integers(1, 8192), cached=st.integers(0, 60_000), ranks=st.sampled_from([1, 8]))
def test_prompts_are_not_below_their_roofline(chunk: int, cached: int, ranks: int) -> None:
    for engine in ("sglang-0.4", "vllm-latest"):
        term = sparse(engine, ranks)
        assert term.prefill([(chunk, cached)]) >= term.floor(BatchShape(((chunk, cached),), 0, 0))
