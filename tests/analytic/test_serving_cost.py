"""Serving cost against closed forms: golden yields, weight floors, arithmetic intensity, optimal drafts."""

from __future__ import annotations

import pytest

from simulator.strategies.protocols import BatchShape
from simulator.strategies.speculation.acceptance import best_draft_length, chain_tokens, speedup
from simulator.workload.plan import Plan
from tests.serving_deployments import replica


@pytest.mark.parametrize(("drafts", "tokens"), [(3, 2.95), (4, 3.36), (5, 3.69), (7, 4.16)])
def test_expected_tokens_at_four_fifths_acceptance(drafts: int, tokens: float) -> None:
    """(1 − α^(γ+1))/(1 − α): golden values of the strategy catalogue, section 12."""
    assert round(chain_tokens(0.8, drafts), 2) == tokens
    assert chain_tokens(0.8, drafts) == pytest.approx((1 - 0.8 ** (drafts + 1)) / 0.2)


def test_the_best_number_of_drafts() -> None:
    assert best_draft_length(0.8, 0.05) == 8
    assert round(speedup(0.8, 8, 0.05), 2) == 3.09
    assert best_draft_length(0.3, 0.5) == 0  # drafts that cost more than they bring
    assert chain_tokens(1.0, 6) == 7


@pytest.mark.parametrize(
    ("model", "node", "plan", "seconds"),
    [
        ("llama-3.1-70b", "mi300x-8x", Plan(tensor_parallel=8, precision="fp8"), 1.7e-3),
        ("llama-2-70b", "dgx-h100", Plan(tensor_parallel=8), 5.1e-3),
    ],
)
def test_a_single_token_takes_at_least_the_reading_of_the_weights(
    model: str, node: str, plan: Plan, seconds: float
) -> None:
    """Weights over eight ranks and their bandwidth; floors as computed in the hardware notes (sections 3 and 4)."""
    assert replica(model, node=node, plan=plan).floor(BatchShape((), 1, 500, 500)) == pytest.approx(seconds, rel=0.03)


def test_absorbed_latent_attention_is_242_flops_per_byte() -> None:
    """2·H·(2·c_kv + d_rope) over (c_kv + d_rope)·2 bytes at H = 128."""
    cost = replica("deepseek-v3", plan=Plan(precision="fp8"))
    long, longer = (BatchShape((), 1, n, n) for n in (100_000, 200_000))
    (term, _), *_ = cost.attention[0]
    flops = term.flops(longer) - term.flops(long)
    assert flops / (term.bytes(longer) - term.bytes(long)) == pytest.approx(242, abs=0.5)


def test_verification_shares_the_reading_of_the_cache() -> None:
    """Five query tokens read the context once and multiply the FLOPs by five."""
    one, five = replica(), replica(queries=5)
    batch = BatchShape((), 16, 16 * 4000, 4000)
    (single, _), *_ = one.attention[0]
    (several, _), *_ = five.attention[0]
    assert several.flops(batch) == pytest.approx(5 * single.flops(batch), rel=2e-3)
    assert several.bytes(batch) == pytest.approx(single.bytes(batch), rel=0.01)


def test_a_decode_step_grows_by_the_bytes_of_a_token() -> None:
    """Slope per iteration: one more token of context per sequence, 131,072 bytes each, at the bandwidth reached."""
    cost = replica()
    slope = cost.decode_segment(BatchShape((), 64, 64 * 2000, 2000)).slope
    share = 64 * 131_072 / cost.node.accelerator.memory_bandwidth / slope
    assert 0.5 < share < 1.0


def test_prefill_approaches_two_flops_per_parameter_and_token() -> None:
    """8,000 tokens through 6.98 billion layer parameters plus scores, on one H100: between peak and a third of it."""
    cost = replica()
    batch = BatchShape(((8000, 0),), 0, 0)
    layers = 32 * (4096 * (4096 * 2 + 2 * 1024) + 3 * 4096 * 14336)
    work = 2 * 8000 * layers + 4 * 32 * 8000 * 4000.5 * 4096
    assert cost.flops(batch) == pytest.approx(work, rel=0.06)
    rate = work / sum(cost.device_times(batch))
    assert 0.33 < rate / cost.device.accelerator.peak("bf16") < 0.8
