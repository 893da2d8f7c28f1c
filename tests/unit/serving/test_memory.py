"""Sizes of the cache: golden bytes per token, replication, windows, states, and what has to fit."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.hardware.profiles import load_node
from simulator.serving.estimate import estimate_deployment
from simulator.serving.footprint import kv_bytes_per_token, state_bytes
from simulator.serving.memory import cache_size
from simulator.workload.model_files import load_model
from simulator.workload.ops import TensorClass
from simulator.workload.plan import Plan
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable
from tests.serving_deployments import cluster, deployment, requests

H100 = load_node("dgx-h100")


def per_token(model: str, ranks: int = 1, width: float = 2.0) -> float:
    layers = load_model(model).layer_list()
    return sum(kv_bytes_per_token(layer.attention, ranks, width) for layer in layers if layer.attention is not None)


@pytest.mark.parametrize(
    ("model", "expected"),
    [("opt-13b", 819_200), ("opt-175b", 4.5 * (1 << 20)), ("llama-2-70b", 327_680), ("deepseek-v3", 70_272)],
)
def test_bytes_per_token_are_the_published_ones(model: str, expected: float) -> None:
    """Strategy catalogue section 12; DeepSeek: 61 layers of 512 + 64 numbers."""
    assert per_token(model) == expected


def test_key_value_heads_are_split_then_replicated() -> None:
    whole = per_token("llama-3.1-8b")
    assert [whole / per_token("llama-3.1-8b", ranks) for ranks in (1, 2, 8, 16, 32)] == [1, 2, 8, 8, 8]


def test_a_latent_cache_is_not_divided() -> None:
    assert per_token("deepseek-v3", 8) == per_token("deepseek-v3") == 61 * 576 * 2


def test_a_recurrent_state_is_per_sequence() -> None:
    """Mamba-2 2.7B: 80 heads of 64 with a state of 128, in 64 layers, and 4 taps before."""
    layers = load_model("mamba2-2.7b").layer_list()
    assert per_token("mamba2-2.7b") == 0
    inner = 2 * 2560
    expected = 64 * (4 * inner * 128 + 2 * inner * 4)
    assert sum(state_bytes(layer.attention, 1) for layer in layers if layer.attention) == expected
    few, many = (
        cache_size(deployment("jamba-v0.1", plan=Plan(tensor_parallel=8), max_num_seqs=n), H100) for n in (8, 256)
    )
    assert few.tokens > many.tokens > 0


def test_capacity_is_what_the_weights_leave() -> None:
    """Memory · utilisation − weights − workspace − reserve, over bytes per token, in whole blocks."""
    size = cache_size(deployment("llama-3.1-8b"), H100)
    stage = size.ledger.stages[0]
    room = H100.accelerator.memory_usable * 0.9 - sum(v for k, v in stage.by_class.items() if k != TensorClass.KV)
    assert size.bytes_per_token == 32 * 8 * 2 * 128 * 2
    assert size.tokens == int(room // size.bytes_per_token // 16) * 16
    assert stage.by_class[TensorClass.PARAM] == pytest.approx(8.03e9 * 2, rel=1e-3)


def test_fp8_halves_the_weights_of_the_linear_layers() -> None:
    bf16, fp8 = (
        cache_size(deployment("llama-3.1-8b", plan=Plan(precision=p)), H100)
        .ledger.stages[0]
        .by_class[TensorClass.PARAM]
        for p in ("bf16", "fp8")
    )
    ends = 2 * 128_256 * 4096 * 2
    assert (fp8 - ends) / (bf16 - ends) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(("dtype", "factor"), [("bf16", 1.0), ("fp8", 2.0), ("int4", 4.0)])
def test_a_narrow_cache_holds_more_tokens(dtype: str, factor: float) -> None:
    plain, narrow = (cache_size(deployment("llama-3.1-8b", kv_dtype=d), H100).tokens for d in ("bf16", dtype))
    assert narrow == pytest.approx(factor * plain, rel=1e-4)


def test_windows_hold_their_window_where_the_engine_can() -> None:
    """Gemma 3 has five sliding layers of 1,024 tokens to one full one; a request of 8,192 tokens."""
    table = requests(inputs=8000, outputs=192)
    sizes = {
        name: cache_size(deployment("gemma-3-27b", name, table, max_num_batched_tokens=2048), H100)
        for name in ("vllm-0.6", "vllm-0.10")
    }
    layers = load_model("gemma-3-27b").layer_list()
    full = sum(layer.attention.kind == "full" for layer in layers if layer.attention)
    share = (full + (len(layers) - full) / 8) / len(layers)
    assert sizes["vllm-0.10"].bytes_per_token == pytest.approx(share * sizes["vllm-0.6"].bytes_per_token)


def test_the_share_a_window_holds_is_weighted_by_tokens() -> None:
    columns = np.zeros(2), np.array([512, 3072]), np.array([512, 4096])
    table = RequestTable(*columns, "two", TraceProvenance("test", "generated", 2, 2))
    size = cache_size(deployment("mistral-7b", "vllm-0.10", table), H100)
    whole = per_token("mistral-7b")
    assert size.bytes_per_token == pytest.approx(whole * (1024 + 4096) / (1024 + 7168))


def test_data_parallel_ranks_each_have_a_cache() -> None:
    one = cache_size(deployment("qwen3-30b-a3b", plan=Plan(), max_num_seqs=64), H100)
    eight = cache_size(
        deployment("qwen3-30b-a3b", plan=Plan(data_parallel=8, expert_parallel=8), max_num_seqs=64), H100
    )
    assert eight.tokens > 8 * one.tokens  # the experts are spread, the caches are not


def test_a_model_that_does_not_fit_says_by_how_much() -> None:
    answer = estimate_deployment(deployment("llama-3.1-405b", plan=Plan(tensor_parallel=8)), cluster())
    assert not answer.feasible
    assert "out of memory" in answer.reason and "param" in answer.reason


def test_a_context_beyond_model_or_cache_is_said() -> None:
    answer = estimate_deployment(
        deployment("llama-3.1-70b", plan=Plan(tensor_parallel=4), max_model_len=200_000), cluster()
    )
    assert answer.feasible
    assert any("131072 positions" in note for note in answer.warnings)
    tight = estimate_deployment(
        deployment("llama-2-70b", plan=Plan(tensor_parallel=2), max_model_len=4096, max_num_batched_tokens=2048),
        cluster(),
    )
    assert any("vLLM refuses" in note for note in tight.warnings) == (
        tight.feasible and tight.metrics["kv_capacity_tokens"] < 4096
    )
