"""Metrics against figures that others published."""

from __future__ import annotations

import math

import pytest

from simulator.results import metrics as m


def test_mfu_and_hfu_of_korthikanti_2022() -> None:
    """GPT-3 175B on 64 A100, 13.75 s: 51.4 % MFU, and 52.8 % HFU with core attention recomputed (table 5)."""
    batch, sequence, layers, hidden, vocabulary = 64, 2048, 96, 12288, 51200
    gemm = 72 * batch * sequence * layers * hidden**2
    attention = gemm * sequence / (6 * hidden)
    model = gemm + attention + gemm * vocabulary / (12 * hidden * layers)
    assert m.mfu(model, 13.75, 64, 312e12) == pytest.approx(0.514, abs=5e-4)
    # Its equation for hardware FLOPs counts the attention term twice: s/3h in place of s/6h.
    assert m.hfu(model + attention, 13.75, 64, 312e12) == pytest.approx(0.528, abs=5e-4)


@pytest.mark.parametrize(("p", "n"), [(4, 8), (8, 16), (64, 512)])
def test_both_bubbles(p: int, n: int) -> None:
    total, busy = float(n + p - 1), float(n)
    assert m.bubble_over_ideal(total, busy) == pytest.approx((p - 1) / n)
    assert m.bubble_over_total(total, busy) == pytest.approx((p - 1) / (n + p - 1))


def test_tpot_is_per_gap_and_undefined_for_one_token() -> None:
    assert m.tpot(0.5, 2.5, 101) == pytest.approx(0.02)
    assert math.isnan(m.tpot(0.5, 0.5, 1))


def test_slo_binds_only_where_it_is_set() -> None:
    assert m.slo_met(9.0, 9.0, 9.0)
    assert m.slo_met(0.3, math.nan, 9.0, ttft_limit=0.3, tpot_limit=0.01)
    assert not m.slo_met(0.31, 0.01, 1.0, ttft_limit=0.3)
    assert not m.slo_met(0.1, 0.02, 1.0, tpot_limit=0.01)


def test_money_and_energy() -> None:
    # 8 accelerators at 2 USD/h that make 4,000 token/s: 16 / 14.4 = 1.11 USD per million tokens.
    assert m.usd_per_million_tokens(16 / 3600, 4000) == pytest.approx(16 / 14.4)
    assert m.energy_per_token(10_200, 4000) == pytest.approx(2.55)
    assert m.tokens_per_second_per_gpu(2048 * 64, 13.75, 64) == pytest.approx(148.95, abs=0.01)
    assert math.isnan(m.usd_per_million_tokens(1.0, 0.0))
