"""Iteration times: never below the roofline, affine where they say so, padded as the engine pads."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.constants import Constant, Trust
from simulator.hardware import load_node
from simulator.serving.iteration import ReplicaCost
from simulator.serving.token_costs import grid, served_block
from simulator.strategies.protocols import BatchShape
from simulator.strategies.serving_offload.streaming import WeightStream
from simulator.strategies.sparsity.kept_context import KeptContext
from simulator.workload.framework_files import load_framework
from simulator.workload.model_files import load_model
from simulator.workload.ops import Op
from simulator.workload.plan import Plan
from tests.serving_deployments import FABRIC, replica

VARIANTS: dict[str, dict[str, Any]] = {
    "dense": {},
    "two-stages": {"model": "llama-3.1-70b", "plan": Plan(tensor_parallel=4, pipeline_parallel=2)},
    "eager-2023": {"framework": "vllm-0.2", "node": "dgx-a100-640"},
    "async": {"framework": "sglang-0.4"},
    "windows": {"model": "gemma-3-27b"},
    "latent-moe": {"model": "deepseek-v2-lite"},
    "data-parallel-attention": {
        "model": "qwen3-30b-a3b",
        "plan": Plan(data_parallel=8, expert_parallel=8),
    },
    "whole-experts": {
        "model": "qwen3-30b-a3b",
        "plan": Plan(tensor_parallel=4, expert_parallel=4, options=(("expert", "tensor-ranks"),)),
    },
    "sliced-experts": {
        "model": "qwen3-30b-a3b",
        "plan": Plan(data_parallel=8, expert_parallel=8, options=(("expert", "gathered-slices"),)),
    },
    "recurrent": {"model": "jamba-v0.1", "plan": Plan(tensor_parallel=8)},
    "fp8": {"plan": Plan(precision="fp8"), "kv_dtype": "fp8"},
    "verification": {"queries": 5},
    "budget": {"kept": KeptContext(ratio=0.5, cap=900, evicts=True)},
    "launched": {"framework": "launched"},
    "streamed": {"stream": WeightStream((0.02,), True, {"host": 1.0}, 0.0, (0.0,))},
}


LAUNCH = 40e-6


def launched(**more: Any) -> ReplicaCost:
    """vLLM with a host that takes 40 us per kernel, and graphs for decodes of up to 64 sequences."""
    plain = load_framework("vllm-0.10")
    slow = Constant("test.host_per_launch", LAUNCH, "s", 0.0, Trust.ASSUMED, "of the test")
    framework = replace(plain, constants={**plain.constants, "host_per_launch": slow}, cuda_graph_max_sequences=64)
    return ReplicaCost(load_model("llama-3.1-8b"), more.pop("plan", Plan()), framework, replica().node, FABRIC, **more)


@cache
def cost_of(name: str) -> ReplicaCost:
    return launched() if name == "launched" else replica(**VARIANTS[name])


@st.composite
def batches(draw: st.DrawFn) -> BatchShape:
    decodes = draw(st.integers(0, 300))
    chunk = st.tuples(st.integers(1, 3000), st.integers(0, 6000))
    prefill = tuple(draw(st.lists(chunk, min_size=0 if decodes else 1, max_size=4)))
    context = decodes * draw(st.integers(1, 9000)) + draw(st.integers(0, 300)) * bool(decodes)
    return BatchShape(prefill, decodes, context, context)


@pytest.mark.parametrize("name", VARIANTS)
@settings(max_examples=25, deadline=None)
@given(batch=batches())
def test_an_iteration_is_never_below_the_roofline(name: str, batch: BatchShape) -> None:
    cost = cost_of(name)
    assert cost.iteration(batch) >= cost.floor(batch) > 0
    assert cost.iteration(batch) == pytest.approx(sum(cost.stage_times(batch)), rel=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
@settings(max_examples=15, deadline=None)
@given(decodes=st.integers(1, 200), context=st.integers(1, 3000), extra=st.integers(0, 199))
def test_a_segment_is_the_iterations_one_by_one(name: str, decodes: int, context: int, extra: int) -> None:
    cost = cost_of(name)
    start = decodes * context + extra % decodes
    base, slope, valid = cost.decode_segment(BatchShape((), decodes, start, context))
    assert valid >= 1
    for i in (0, 1, 2, 7, 100, valid - 1):
        if i < min(valid, 20_000):
            single = cost.iteration(BatchShape((), decodes, start + decodes * i, context + i))
            assert base + slope * i == pytest.approx(single, rel=1e-9)


@pytest.mark.parametrize("name", ["dense", "eager-2023", "latent-moe"])
@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(1, 8192))
def test_between_grid_points_seconds_lie_between_their_neighbours(name: str, tokens: int) -> None:
    costs = cost_of(name).costs
    sizes = grid(8192)
    high = next(size for size in sizes if size >= tokens)
    low = max((size for size in sizes if size <= tokens), default=sizes[0])
    for part in costs.parts:
        ends = [costs.seconds(part, size, captured=False) for size in (low, high)]
        seconds = costs.seconds(part, tokens, captured=False)
        assert min(ends) * (1 - 1e-12) <= seconds <= max(ends) * (1 + 1e-12)
        assert costs.seconds(part, tokens, captured=True) == ends[1]


def test_captured_sizes_pad_what_the_engine_pads() -> None:
    """vLLM V1 replays graphs for mixed batches up to 512 tokens, vLLM 0.5 for decodes up to 256 only."""
    new, old, eager = replica(framework="vllm-0.10"), replica(framework="vllm-0.5"), replica(framework="vllm-0.2")

    def same(cost: ReplicaCost, a: int, b: int, mixed: bool) -> bool:
        return cost.linear_seconds(0, a, 8, mixed) == cost.linear_seconds(0, b, 8, mixed)

    assert same(new, 57, 64, False) and same(new, 57, 64, True) and same(new, 497, 512, True)
    assert same(old, 57, 64, False) and not same(old, 57, 64, True) and not same(old, 497, 512, False)
    assert not same(eager, 57, 64, False)


def test_the_captured_sizes_are_those_of_vllm() -> None:
    documented = [1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)]
    assert [size for size in grid(8192) if size <= 512] == documented


def test_pipeline_stages_add_up_to_the_whole_model() -> None:
    """Without host and sends, two stages take what one takes: the same layers."""
    bare = replace(load_framework("vllm-0.10"), constants={})
    node = replica().node
    model = load_model("llama-3.1-8b")
    one, two = (ReplicaCost(model, Plan(pipeline_parallel=n), bare, node, FABRIC) for n in (1, 2))
    batch = BatchShape(((700, 0),), 32, 32_000, 1000)
    assert sum(two.device_times(batch)) - two._send_seconds(732) == pytest.approx(
        sum(one.device_times(batch)), rel=1e-12
    )
    assert [sum(c.values()) for c in two.layers_of_stage] == [16, 16]


def test_the_host_adds_or_hides() -> None:
    adding, hiding = replica(framework="vllm-0.10"), replica(framework="vllm-0.10")
    hiding.framework = replace(hiding.framework, async_scheduling=True)
    batch = BatchShape((), 64, 64_000, 1000)
    assert adding.iteration(batch) == pytest.approx(sum(adding.device_times(batch)) + adding.host_seconds(64))
    assert hiding.iteration(batch) == pytest.approx(max(sum(hiding.device_times(batch)), hiding.host_seconds(64)))


def test_a_breakdown_adds_up() -> None:
    for name in VARIANTS:
        cost = cost_of(name)
        batch = BatchShape((), 48, 48_000, 1000)
        assert sum(cost.breakdown(batch).values()) == pytest.approx(cost.iteration(batch), rel=1e-9)


def test_data_parallel_attention_deals_sequences_out() -> None:
    cost = cost_of("data-parallel-attention")
    assert cost.local(BatchShape((), 64, 64_000, 1500)) == BatchShape((), 8, 8000, 1500)
    assert cost.local(BatchShape((), 65, 65_000, 1500)).decodes == 9
    mine = cost.local(BatchShape(((3000, 0), (900, 0), (800, 10)), 0, 0))
    assert mine.prefill == ((3000, 0),)


def test_rows_that_reach_the_head_are_the_sequences_that_sample() -> None:
    batch = BatchShape(((500, 0), (100, 300)), 7, 7000, 1000)
    assert cost_of("dense").rows(batch) == 9
    assert cost_of("verification").rows(batch) == 7 * 5 + 2
    assert cost_of("verification").tokens(batch) == 7 * 5 + 600


def test_a_mixture_reads_only_the_experts_its_tokens_touch() -> None:
    """HBM bytes of one layer's experts follow E·(1 − (1 − k/E)^tokens)."""
    cost = replica("mixtral-8x7b", plan=Plan(tensor_parallel=2))
    layer = cost.model.layers[0][0]
    assert layer.mlp is not None
    expert = 3 * 4096 * layer.mlp.moe_intermediate_size * 2 / 2  # three matrices in bf16 over two ranks
    few, many = (cost.costs.below(layer, tokens).hbm for tokens in (1, 64))
    assert few < many
    touched = round(8 * (1 - (1 - 2 / 8) ** 64)) - 2
    assert many - few == pytest.approx(touched * expert, rel=0.03)  # the rest is 63 more tokens of activations


def test_whole_experts_do_the_work_of_sliced_ones() -> None:
    sliced = replica("qwen3-30b-a3b", plan=Plan(tensor_parallel=4))
    whole = cost_of("whole-experts")
    batch = BatchShape((), 128, 128_000, 1000)
    # The weighted sum over a token's experts is split over the ranks as well; the GEMMs are the same.
    assert whole.flops(batch) == pytest.approx(sliced.flops(batch), rel=1e-3)
    assert whole.flops(batch) < sliced.flops(batch)
    assert whole.traffic(batch)["hbm"] == pytest.approx(sliced.traffic(batch)["hbm"], rel=0.1)


def test_waiting_for_weights_replaces_compute_that_is_shorter() -> None:
    plain, streamed = cost_of("dense"), cost_of("streamed")
    small, large = BatchShape((), 1, 100, 100), BatchShape(((8000, 0),), 0, 0)
    assert sum(streamed.device_times(small)) == 0.02
    assert streamed.iteration(large) == plain.iteration(large)
    added = replica(stream=WeightStream((0.02,), False, {}, 0.0, (0.0,)))
    assert added.iteration(small) == pytest.approx(plain.iteration(small) + 0.02)


def test_kernels_are_launched_one_by_one_where_no_graph_is_replayed() -> None:
    """32 layers of 11 Ops each, an embedding and the three Ops of the head: nothing is shorter than their launches."""
    slow, host = launched(), cost_of("dense").host_seconds
    ops = 32 * 11 + sum(len(served(slow, part)) for part in ("embedding", "head"))
    pieces = 32 * 2 * LAUNCH  # of every layer a graph and the attention beside it
    assert slow._launching[0] == pytest.approx((ops * LAUNCH, ops * LAUNCH, pieces))
    short, long = BatchShape(((600, 0),), 0, 0), BatchShape(((8000, 0),), 0, 0)
    assert slow.iteration(short) == pytest.approx(ops * LAUNCH + host(1))
    assert slow.iteration(long) == cost_of("dense").iteration(long) > ops * LAUNCH
    captured, few, many = BatchShape(((100, 0),), 0, 0), BatchShape((), 64, 6400), BatchShape((), 65, 6500)
    kernels = sum(cost_of("dense").device_times(captured))
    assert slow.iteration(captured) == pytest.approx(max(kernels, pieces) + host(1))
    assert pieces < ops * LAUNCH
    assert slow.iteration(few) == cost_of("dense").iteration(few) < ops * LAUNCH
    assert slow.iteration(many) == pytest.approx(ops * LAUNCH + host(65))


def served(cost: ReplicaCost, part: str) -> list[Op]:
    return list(served_block(part, cost.model, cost.plan, cost.framework, 9).forward)


def test_narrow_arithmetic_launches_a_conversion_for_every_gemm() -> None:
    """Four of them in a dense layer with gated up-projections in one."""
    narrow, wide = launched(plan=Plan(precision="fp8")), launched()
    assert narrow._launching[0][0] - wide._launching[0][0] == pytest.approx(32 * 4 * LAUNCH)
    assert launched(plan=Plan(precision="fp8-weight-only"))._launching == wide._launching


def test_stages_share_the_launches() -> None:
    one, two = launched()._launching, launched(plan=Plan(pipeline_parallel=2))._launching
    assert sum(stage[0] for stage in two) == pytest.approx(one[0][0]) and two[0] != two[1]


def eager(**values: float) -> ReplicaCost:
    """vLLM of 2023 on DGX H100 with these constants instead of its own for launches."""
    plain = load_framework("vllm-0.2")
    kept = {k: c for k, c in plain.constants.items() if k not in ("host_per_launch", "launch_exposed", PROMPTS)}
    own = {k: Constant(f"test.{k}", v, "", 0.0, Trust.ASSUMED, "of the test") for k, v in values.items()}
    return ReplicaCost(load_model("llama-3.1-8b"), Plan(), replace(plain, constants=kept | own), replica().node, FABRIC)


PROMPTS = "host_per_prompt_layer"


@pytest.mark.parametrize(("launch", "exposed"), [(1e-6, 0.0), (1e-6, 0.25), (80e-6, 0.0), (80e-6, 0.25)])
def test_of_launches_and_kernels_the_longer_counts_and_a_share_of_the_shorter(launch: float, exposed: float) -> None:
    bare, cost = eager(), eager(host_per_launch=launch, launch_exposed=exposed)
    launches = cost.costs.stage_launches(cost.layers_of_stage, 0) * launch
    for batch in (BatchShape((), 4, 4000, 1000), BatchShape(((300, 0),), 0, 0)):
        kernels = sum(bare.device_times(batch))
        assert (launches > kernels) == (launch == 80e-6)
        expected = max(kernels, launches) + exposed * min(kernels, launches)
        assert sum(cost.device_times(batch)) == pytest.approx(expected, rel=1e-12)


def test_attention_of_prompts_keeps_the_host_longer() -> None:
    short, decodes = BatchShape(((8, 0),), 0, 0), BatchShape((), 8, 800, 100)
    plain, longer = eager(host_per_launch=80e-6), eager(**{"host_per_launch": 80e-6, PROMPTS: 1e-3})
    assert longer.iteration(short) - plain.iteration(short) == pytest.approx(32 * 1e-3)
    assert longer.iteration(decodes) == plain.iteration(decodes)


@pytest.mark.parametrize(("constant", "layers"), [("host_per_latent_layer", 61), ("host_per_expert_layer", 58)])
def test_layers_of_some_kinds_keep_the_host_longer(constant: str, layers: int) -> None:
    """All 61 layers of DeepSeek-V3 have latent attention, 58 have experts; none of Llama has either."""
    seconds = []
    for model in ("deepseek-v3", "llama-3.1-8b"):
        plan = Plan(tensor_parallel=8, precision="fp8") if model == "deepseek-v3" else Plan()
        for extra in ({}, {constant: Constant("test.layer", 2e-3, "s", 0.0, Trust.ASSUMED, "")}):
            engine = load_framework("vllm-latest")
            engine = replace(engine, constants=engine.constants | extra)
            cost = ReplicaCost(load_model(model), plan, engine, replica().node, FABRIC)
            seconds.append(cost._launching[0])
    between = layers if "latent" in constant else 0  # pieces of graphs hold experts, but no attention
    more = [layers * 2e-3, layers * 2e-3, between * 2e-3]
    assert seconds[1] == pytest.approx([s + m for s, m in zip(seconds[0], more, strict=True)])
    assert seconds[2] == seconds[3]


def test_pieces_of_graphs_leave_out_all_of_latent_attention_but_its_output() -> None:
    """Eight Ops, four of them GEMMs whose input is made narrow in fp8, and the piece itself; 16 bit needs no casts."""
    engine = load_framework("tensorrt-llm-1.2")
    each = engine.constants["host_per_launch"].value
    waits = engine.constants["host_per_latent_layer"].value
    for precision, launches in (("fp8", 13), ("fp4", 13), ("fp4-mlp", 9), ("bf16", 9)):
        plan = Plan(tensor_parallel=8, precision=precision)
        cost = ReplicaCost(load_model("deepseek-v3"), plan, engine, replica().node, FABRIC)
        assert cost._launching[0][2] == pytest.approx(61 * (launches * each + waits))


@pytest.mark.parametrize(("device", "layers"), [("dgx-h100", 36), ("dgx-b200", 0)])
def test_experts_that_are_widened_keep_the_host_longer(device: str, layers: int) -> None:
    """gpt-oss-120b in MXFP4: Hopper multiplies in 16 bits, Blackwell has units for fp4."""
    seconds = []
    for value in (0.0, 2e-3):
        constant = Constant("test.layer", value, "s", 0.0, Trust.ASSUMED, "")
        engine = load_framework("vllm-latest")
        engine = replace(engine, constants=engine.constants | {"host_per_unpacked_expert_layer": constant})
        plan = Plan(tensor_parallel=2, precision="fp4")
        seconds.append(ReplicaCost(load_model("gpt-oss-120b"), plan, engine, load_node(device), FABRIC)._launching[0])
    assert seconds[1][:2] == pytest.approx([s + layers * 2e-3 for s in seconds[0][:2]])
    assert seconds[1][2] == seconds[0][2]


def test_a_host_of_half_the_speed_takes_twice_as_long_to_launch() -> None:
    cost = eager(host_per_launch=80e-6)
    slow = ReplicaCost(cost.model, cost.plan, cost.framework, replace(cost.node, host_speed=0.5), FABRIC)
    batch = BatchShape((), 1, 100, 100)
    assert sum(slow.device_times(batch)) == pytest.approx(2 * sum(cost.device_times(batch)))


def test_decodes_outgrow_their_launches() -> None:
    """A segment ends where kernels become longer than launches; before, the exposed share of their growth shows."""
    cost = eager(host_per_launch=30e-6, launch_exposed=0.25)
    start = BatchShape((), 64, 64 * 100, 100)
    base, slope, valid = cost.decode_segment(start)
    bare, growth, _ = eager().decode_segment(start)
    host, launches = cost.host_seconds(64), cost.costs.stage_launches(cost.layers_of_stage, 0) * 30e-6
    assert base == pytest.approx(host + launches + 0.25 * (bare - host)) and slope == pytest.approx(0.25 * growth)
    assert (bare - host) + growth * (valid - 1) <= launches < (bare - host) + growth * valid
