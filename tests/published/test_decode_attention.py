"""Decode attention against the published micro-benchmark of Flash-Decoding, and where both kernels meet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.cost.device import DeviceCost
from simulator.hardware.profiles import load_node
from simulator.serving.attention_terms import attention_term
from simulator.strategies.decode_attention.kernels import Grid
from simulator.strategies.protocols import BatchShape
from simulator.workload.model import AttentionSpec
from tests.serving_deployments import replica

CODE_LLAMA = AttentionSpec("full", 16, 2, 128, 128)
"""CodeLlama-34B on four GPUs: 16 query heads for 2 key/value heads."""

BLOG = [
    (256, 256, 390.5, 63.4), (128, 512, 366.3, 67.7), (64, 1024, 364.8, 77.7), (32, 2048, 352.0, 58.5),
    (16, 4096, 401.7, 57.0), (8, 8192, 529.2, 56.4), (4, 16384, 582.7, 58.2), (2, 32768, 1156.1, 60.3),
    (1, 65536, 2300.6, 64.4), (1, 131072, 4592.2, 106.6),
]  # fmt: skip
"""Sequences, tokens of each, microseconds of FlashAttention 2.0.9 and of Flash-Decoding on an A100, fp16: PyTorch blog,
Flash-Decoding for long-context inference, 13 October 2023. The device's curve was fitted on other kernels."""


def microseconds(grid: Grid | None, sequences: int, tokens: int, spec: AttentionSpec = CODE_LLAMA) -> float:
    device = DeviceCost(load_node("dgx-a100-640").accelerator, None, {})
    return attention_term(spec, device, 1, "fp16", grid=grid).decode(sequences, sequences * tokens)[0] * 1e6


@pytest.mark.parametrize(("sequences", "tokens", "whole", "split"), BLOG)
def test_published_micro_benchmark(sequences: int, tokens: int, whole: float, split: float) -> None:
    attention = microseconds(Grid(1, packed=False), sequences, tokens)
    decoding = microseconds(Grid(), sequences, tokens)
    print(f"{sequences} × {tokens}: {attention:.0f} us for {whole}, {decoding:.0f} us for {split}")
    assert abs(attention / whole - 1.0) < 0.20
    assert abs(decoding / split - 1.0) < 0.27


def test_median_of_the_micro_benchmark() -> None:
    errors = [abs(microseconds(Grid(1, packed=False), b, n) / whole - 1.0) for b, n, whole, _ in BLOG]
    errors += [abs(microseconds(Grid(), b, n) / split - 1.0) for b, n, _, split in BLOG]
    assert sorted(errors)[len(errors) // 2] < 0.09


def test_one_piece_of_heads_that_are_not_shared_is_flash_attention() -> None:
    plain = replace(CODE_LLAMA, num_key_value_heads=16)
    for sequences in (1, 7, 64):
        assert microseconds(Grid(1, packed=True), sequences, 4096, plain) == microseconds(
            Grid(1, packed=False), sequences, 4096, plain
        )


def test_whole_waves_fill_the_device() -> None:
    """108 multiprocessors: 27 sequences of 16 heads are four whole waves, one more sequence starts a fifth."""
    assert Grid(1, packed=False).stretch(27, 16, 16, 108) == 1.0
    assert Grid(1, packed=False).stretch(28, 16, 16, 108) == pytest.approx(5 * 108 / (28 * 16))
    assert Grid(1, packed=False).stretch(1, 16, 2, 108) == pytest.approx(8 * 108 / 16)
    assert Grid(54, packed=True).stretch(1, 16, 2, 108) == 1.0


def test_segments_agree_with_iterations() -> None:
    """A jump over decode iterations adds up to the iterations it stands for, although the batch decides the slope."""
    cost = replica(grid=Grid(1, packed=False))
    batch = BatchShape((), 3, 3000, 1000)
    base, slope, valid = cost.decode_segment(batch)
    assert valid > 100
    grown = batch._replace(decode_context=3000 + 3 * 100)
    assert base + 100 * slope == pytest.approx(cost.iteration(grown), rel=1e-9)
    assert cost.iteration(batch) > replica().iteration(batch)
    assert cost.separate() is None
