"""Adapters beside a backbone: bytes, roofline, numbers of distinct adapters, the cache, memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from simulator.errors import ConfigError
from simulator.serving.adapters import AdapterCache, AdapterCost, Tenants, adapter_bytes, kv_blocks_left
from simulator.strategies.protocols import BatchShape
from simulator.workload.model_files import load_model
from tests.serving_deployments import replica

BASE = replica("llama-2-7b")
MODEL = load_model("llama-2-7b")


def cost(method: str, tenants: Tenants, **more: float) -> AdapterCost:
    return AdapterCost(BASE, BASE.device, MODEL, tenants, method, **more)  # type: ignore[arg-type]


def decodes(count: int) -> BatchShape:
    return BatchShape((), count, 500 * count, 500)


def test_bytes_of_an_adapter() -> None:
    """Llama-2-7B, q k v o, rank 16: 32 layers · 4 · 16 · (4096 + 4096) · 2 B; half a percent of the weights."""
    assert adapter_bytes(MODEL, 16) == 32 * 4 * 16 * 8192 * 2
    assert adapter_bytes(load_model("llama-2-70b"), 8) == 80 * 8 * 2 * (2 * (8192 + 8192) + 2 * (8192 + 1024))


@given(st.integers(1, 40), st.integers(1, 64), st.floats(0.0, 2.0), st.integers(0, 5))
def test_distinct_adapters_of_a_batch(count: int, sequences: int, exponent: float, seed: int) -> None:
    """Between 1 and both bounds, growing; for equal shares M(1 − (1 − 1/M)^n)."""
    seen = [float(Tenants.zipf(count, 8, exponent).seen(n).sum()) for n in (1, sequences, sequences + 1)]
    assert seen[0] == pytest.approx(1.0) and seen[1] <= seen[2] + 1e-9
    assert seen[1] <= min(count, sequences) + 1e-9
    equal = float(Tenants.zipf(count, 8, 0.0).seen(sequences).sum())
    assert equal == pytest.approx(count * (1 - (1 - 1 / count) ** sequences))


def test_distinct_adapters_agree_with_draws() -> None:
    tenants, rng = Tenants.zipf(50, 8), np.random.Generator(np.random.PCG64(1))
    drawn = rng.choice(50, p=tenants.popularity, size=(4000, 16))
    assert tenants.seen(16).sum() == pytest.approx(np.mean([len(set(row)) for row in drawn]), rel=0.02)


def test_adapters_never_beat_the_roofline_and_the_backbone_is_batched() -> None:
    """Added time at least the bytes of the distinct adapters over the memory bandwidth, and at least their FLOPs."""
    tenants = Tenants.zipf(1000, 16, 0.0)
    for count in (1, 8, 64):
        added = cost("s-lora", tenants).iteration(decodes(count)) - BASE.iteration(decodes(count))
        distinct = float(tenants.seen(count).sum())
        bandwidth = BASE.node.accelerator.memory_bandwidth
        assert added >= (round(distinct)) * adapter_bytes(MODEL, 16) / bandwidth
        assert added < BASE.iteration(decodes(count))
    # Thirty-two tenants in one batch cost far less than a batch for each.
    assert cost("s-lora", tenants).iteration(decodes(32)) < 0.25 * 32 * BASE.iteration(decodes(1))


def test_jumps_and_single_iterations_agree() -> None:
    term = cost("punica", Tenants.zipf(20, 16))
    batch = decodes(24)
    segment = term.decode_segment(batch)
    assert segment.base == pytest.approx(term.iteration(batch))
    later = BatchShape((), 24, batch.decode_context + 24 * 5, 505)
    assert segment.base + 5 * segment.slope == pytest.approx(term.iteration(later), rel=1e-6)


def test_padding_costs_what_the_larger_rank_costs_and_separate_kernels_cost_launches() -> None:
    mixed = Tenants((8, 64), (0.5, 0.5))
    equal = Tenants((64, 64), (0.5, 0.5))
    batch = decodes(32)
    assert cost("punica", mixed).iteration(batch) == pytest.approx(cost("punica", equal).iteration(batch))
    assert cost("s-lora", mixed).iteration(batch) < cost("punica", mixed).iteration(batch)
    many = Tenants.zipf(64, 16, 0.0)
    assert cost("pets", many).iteration(batch) > cost("s-lora", many).iteration(batch)
    one = Tenants((16,), (1.0,))
    assert cost("pets", one).iteration(batch) == pytest.approx(cost("s-lora", one).iteration(batch))


def test_a_fetch_is_hidden_or_waited_for() -> None:
    """Rank 16 is 33.55 MB: at 16 GB/s 2.097 ms for every new request that misses."""
    tenants = Tenants.zipf(100, 16)
    batch = BatchShape(((64, 0), (64, 0), (64, 128)), 0, 0)
    options = {"miss_share": 0.5, "host_bandwidth": 16e9}
    fetch = 2 * 0.5 * adapter_bytes(MODEL, 16) / 16e9
    waited = cost("pets", tenants, **options).iteration(batch) - cost("pets", tenants).iteration(batch)
    assert waited == pytest.approx(fetch)
    slow = {"miss_share": 1.0, "host_bandwidth": 1e9}
    assert cost("s-lora", tenants, **slow).iteration(batch) == pytest.approx(2 * adapter_bytes(MODEL, 16) / 1e9)
    assert cost("s-lora", tenants, **options).iteration(batch) == cost("s-lora", tenants).iteration(batch)


def test_the_least_recently_used_adapter_goes() -> None:
    cache = AdapterCache(2.0)
    assert [cache.use(a, 1.0) for a in (0, 1, 0, 2, 0, 1)] == [False, False, True, False, True, False]
    assert cache.held == 2.0 and not cache.use(9, 3.0) and cache.held == 2.0


@pytest.mark.parametrize("capacity", [5, 20, 60])
def test_misses_follow_ches_approximation(capacity: int) -> None:
    """Independent draws: T solves Σ 1 − exp(−p_i T) = C, and misses are Σ p_i exp(−p_i T) (Che et al. 2002)."""
    tenants = Tenants.zipf(100, 8, 0.9)
    shares = np.array(tenants.popularity)
    draws = np.random.Generator(np.random.PCG64(3)).choice(100, p=shares, size=60_000).tolist()
    horizon = brentq(lambda t: (1 - np.exp(-shares * t)).sum() - capacity, 0.1, 1e6)
    expected = float((shares * np.exp(-shares * horizon)).sum())
    assert AdapterCache(float(capacity)).replay(draws, [1.0] * 100) == pytest.approx(expected, rel=0.03)


def test_unified_paging_takes_what_is_in_use_and_slots_the_worst_case() -> None:
    tenants = Tenants((16,) * 99 + (64,), (1 / 100,) * 100)
    block, one = 16 * 524288.0, adapter_bytes(MODEL, 16)
    left = {m: kv_blocks_left(5000, block, MODEL, tenants, 32, m) for m in ("punica", "s-lora", "pets")}
    assert left["punica"] == 5000 - 32 * 4 * one / block
    assert left["pets"] == 5000 - int(np.ceil((99 + 4) * one / block))
    # 1 − 0.99^32 = 27.5 % of the adapters are in use; one is 4 blocks, the large one 16.
    assert left["s-lora"] == 5000 - int(np.ceil((1 - 0.99**32) * (99 * 4 + 16)))


def test_wrong_tenants_are_named() -> None:
    with pytest.raises(ConfigError, match="sum to 1"):
        Tenants((8, 8), (0.5, 0.4))
    with pytest.raises(ConfigError, match="rank of at least 1"):
        Tenants((0,), (1.0,))
