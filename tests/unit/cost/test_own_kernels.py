"""An engine with matrix multiplications of its own: slower where its kernels are, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cost_devices import accelerator
from test_device_cost import gemm

from simulator.constants import Constant, Trust
from simulator.cost.device import VECTOR_ROWS, DeviceCost
from simulator.workload.framework import Framework

CHIP = replace(accelerator(bandwidth=2e12, sms=100), boost_clock=1.5e9)


def engine(**values: float) -> DeviceCost:
    own = {k: Constant(f"test.{k}", v, "", 0.1, Trust.ASSUMED, "of the test") for k, v in values.items()}
    return DeviceCost(CHIP, Framework("test", "serving", constants=own), relatives=())


def test_vectors_are_read_at_what_the_multiprocessors_can_take() -> None:
    """100 of them at 1.5 GHz and 4 B: 0.6 TB/s, of 1.7 TB/s that memory gives."""
    few, many = gemm(VECTOR_ROWS, 8192, 8192), gemm(VECTOR_ROWS + 1, 8192, 8192)
    own, library = engine(vector_bytes=4.0), engine()
    body = own.price(few).seconds - 4e-6
    assert body == pytest.approx(few.bytes / (4.0 * 100 * 1.5e9), rel=0.01)
    assert own.price(many).seconds == library.price(many).seconds
    assert engine(vector_bytes=40.0).price(few).seconds == library.price(few).seconds


def test_a_share_of_the_compute_efficiency_counts_where_compute_does() -> None:
    large, other = gemm(8192, 8192, 8192, "fp16"), gemm(8192, 8192, 8192, "bf16")
    half, library = engine(gemm_share_fp16=0.5), engine()
    assert half.price(large).seconds == pytest.approx(2 * library.price(large).seconds, rel=0.03)
    assert half.price(other).seconds == library.price(other).seconds
    assert "test.gemm_share_fp16" in half.price(large).constants
