"""Decode attention of a device whose kernels were measured: their prices at knots, and lines between."""

from __future__ import annotations

import pytest

from simulator.calibration.cases import llama_model
from simulator.cost.device import DeviceCost
from simulator.hardware.profiles import load_accelerator
from simulator.serving.attention_terms import KNOTS, SoftmaxTerm, attention_term
from simulator.workload.ops import OpKind, Work


def term(name: str) -> tuple[SoftmaxTerm, DeviceCost]:
    spec = llama_model(1024, 4).layers[0][0].attention
    assert spec is not None
    device = DeviceCost(load_accelerator(name))
    found = attention_term(spec, device, 1, "bf16")
    assert isinstance(found, SoftmaxTerm)
    return found, device


@pytest.mark.parametrize("batch", [1, 8])
def test_at_a_knot_the_price_is_that_of_the_kernel(batch: int) -> None:
    found, device = term("cpu-xeon-amx-1t")
    for context in (64.0, 512.0, 1024.0):  # powers of two are knots
        moved = 2 * batch * context * 4 * 64 * 2.0 + 2 * 2.0 * batch * 16 * 64
        work = Work(
            OpKind.ATTENTION, "bf16", 4.0 * batch * context * 16 * 64, moved, batch=batch, q_len=1, kv_len=context,
            heads=16, kv_heads=4, head_dim=64,
        )  # fmt: skip
        assert found.decode(batch, batch * context)[0] == pytest.approx(device.price(work).seconds, rel=1e-9)


def test_growing_contexts_cost_what_they_cost_one_by_one() -> None:
    found, _ = term("cpu-xeon-amx-1t")
    batch, context = 4, 4 * 100.0
    now, growth, holds = found.decode(batch, context)
    assert 1 <= holds <= 100 * (2 ** (1 / KNOTS) - 1) + 1 and found.bounded
    for step in range(holds):
        assert found.decode(batch, context + step * batch)[0] == pytest.approx(now + step * growth, rel=1e-9)
    beyond = found.decode(batch, context + (holds + 5) * batch)[0]
    assert beyond != pytest.approx(now + (holds + 5) * growth, rel=1e-9)  # the next line is another one


def test_a_device_without_measured_kernels_keeps_its_line() -> None:
    found, device = term("h100-sxm")
    assert not found.bounded
    one, two = found.decode(4, 400.0), found.decode(4, 40000.0)
    assert one[1] == two[1] and two[0] - one[0] == pytest.approx(one[1] * 39600 / 4)
    assert not device.tabulated(Work(OpKind.GEMM, "bf16", 1.0, 1.0, 1, 1, 1))
