"""Shares of the rated FLOP/s that are borrowed from a board of the same chip with another power."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cost_devices import accelerator

from simulator.cost.resolve import MOST_ACHIEVED, Resolver
from simulator.hardware.profiles import load_accelerator
from simulator.hardware.types import PowerProfile

LENDER = accelerator("lender", peak=1e15)
BOARD = replace(accelerator("board", curves={}, peak=1e15), power=PowerProfile(70, 700))


def share(device: object, key: str = "gemm.bf16.compute") -> float:
    resolver = Resolver(device, (LENDER,))  # type: ignore[arg-type]
    return resolver.constants[resolver.id(key)]


def test_the_published_pair_of_boards() -> None:
    """A100 at 300 W, from the one at 400 W: 252.9 of 271.2 TFLOP/s."""
    board, lender = load_accelerator("a100-pcie-80gb"), load_accelerator("a100-sxm-80gb")
    bare = replace(board, efficiency={})
    resolver = Resolver(bare, (lender,))
    found = resolver.constants[resolver.id("gemm.bf16.compute")] / lender.efficiency["gemm.bf16.compute"].value
    assert found == pytest.approx(252.9 / 271.2, rel=0.005)


def test_equal_watts_per_flop_leave_it_alone_and_more_raise_it_to_a_limit() -> None:
    own = LENDER.efficiency["gemm.bf16.compute"].value
    assert share(BOARD) == pytest.approx(own)
    halved = replace(BOARD, power=PowerProfile(35, 350), peak_flops={k: v / 2 for k, v in BOARD.peak_flops.items()})
    assert share(halved) == pytest.approx(own)
    assert share(replace(BOARD, power=PowerProfile(70, 350))) < own < share(replace(BOARD, power=PowerProfile(70, 900)))
    assert share(replace(BOARD, power=PowerProfile(70, 9000))) == MOST_ACHIEVED


def test_memory_and_other_architectures_are_borrowed_as_they_are() -> None:
    weak = replace(BOARD, power=PowerProfile(70, 350))
    assert share(weak, "gemm.bf16.memory") == pytest.approx(LENDER.efficiency["gemm.bf16.memory"].value)
    other = replace(weak, architecture="other")
    assert share(other) == pytest.approx(LENDER.efficiency["gemm.bf16.compute"].value)
