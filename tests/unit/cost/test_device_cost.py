"""Properties and closed forms of the price of one Op on one device."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from cost_devices import CURVES, accelerator, constants
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.constants import Trust
from simulator.cost.device import DeviceCost
from simulator.cost.kernels import GRAPH_LAUNCH, attention_waves, grouped_gemm_flops, smooth_max
from simulator.cost.resolve import SAME_ARCHITECTURE_SIGMA
from simulator.hardware.types import Accelerator
from simulator.workload.framework import Framework
from simulator.workload.ops import OpKind, Work

sizes = st.integers(1, 60_000)
chips = st.builds(
    accelerator,
    peak=st.floats(1e13, 5e15),
    bandwidth=st.floats(2e11, 1e13),
    sms=st.integers(0, 200),
    architecture=st.sampled_from(["volta", "ampere", "hopper", "blackwell", "cdna3"]),
    curves=st.sampled_from([CURVES, {}, {k: v for k, v in CURVES.items() if "gemm" not in k}]),
)
dtypes = st.sampled_from(["bf16", "fp16", "fp8", "fp4", "int8", "int4", "fp32"])
kernels = st.sampled_from(["unfused", "flash-1", "flash-2", "flash-3", "paged"])


def gemm(m: int, n: int, k: int, dtype: str = "bf16", kind: OpKind = OpKind.GEMM, groups: int = 1) -> Work:
    return Work(kind, dtype, 2.0 * m * n * k, 2.0 * (m * k + groups * n * k + m * n), m, n, k, groups)


def attention(batch: int, query: int, context: float, heads: int, kv_heads: int, head: int, **more: object) -> Work:
    moved = 4.0 * batch * (context * kv_heads + query * heads) * head
    flops = 4.0 * batch * query * context * heads * head * (2.5 if more.get("backward") else 1.0)
    return Work(
        OpKind.ATTENTION, "bf16", flops, moved, batch=batch, q_len=query, kv_len=context, heads=heads,
        kv_heads=kv_heads, head_dim=head, **more,
    )  # type: ignore[arg-type] # fmt: skip


works = st.one_of(
    st.builds(gemm, sizes, sizes, sizes, dtypes),
    st.builds(gemm, sizes, sizes, sizes, dtypes, st.just(OpKind.GROUPED_GEMM), st.integers(1, 256)),
    st.builds(
        attention, st.integers(1, 64), st.integers(1, 9000), st.floats(1, 1e5), st.integers(1, 128), st.integers(1, 16),
        st.sampled_from([64, 72, 80, 128, 192, 576]), causal=st.booleans(), backward=st.booleans(),
    ),
    st.builds(lambda b, f: Work(OpKind.ELEMENTWISE, "bf16", f, b), st.floats(0, 1e12), st.floats(0, 1e12)),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(chips, works, kernels, st.booleans(), st.floats(0.1, 10))
def test_never_below_the_roofline(chip: Accelerator, work: Work, kernel: str, graphs: bool, factor: float) -> None:
    cost = DeviceCost(chip, Framework("f", "serving", attention_kernel=kernel, cuda_graphs=graphs), relatives=())  # type: ignore[arg-type]
    price = cost.price(work)
    floor = max(work.flops / chip.peak(work.dtype), work.bytes / chip.memory_bandwidth)
    assert price.floor == pytest.approx(floor)
    assert price.seconds >= floor
    moved = cost.moved(dict.fromkeys(price.constants, factor)).price(work)
    assert moved.seconds >= floor * (1 - 1e-12)


@settings(max_examples=200, deadline=None)
@given(chips, sizes, sizes, sizes, st.integers(0, 2))
def test_a_larger_gemm_takes_no_less(chip: Accelerator, m: int, n: int, k: int, grow: int) -> None:
    cost = DeviceCost(chip, relatives=())
    shape = [m, n, k]
    before = cost.price(gemm(*shape)).seconds
    shape[grow] += 1 + shape[grow] // 3
    assert cost.price(gemm(*shape)).seconds >= before


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 8), st.integers(9, 20_000), st.integers(1, 5_000), st.integers(1, 64))
def test_a_longer_prompt_takes_no_less(batch: int, length: int, more: int, heads: int) -> None:
    cost = DeviceCost(accelerator(), relatives=())

    def seconds(tokens: int) -> float:
        return cost.price(attention(batch, tokens, (tokens + 1) / 2, heads, 1, 128, causal=True)).seconds

    assert seconds(length + more) >= seconds(length)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 512), st.floats(10, 1e5), st.floats(10, 1e5), st.integers(1, 16))
def test_decode_attention_is_affine_in_context_and_equals_the_price(
    batch: int, context: float, other: float, kv_heads: int
) -> None:
    cost = DeviceCost(accelerator(), relatives=())
    template = attention(batch, 1, context, 4 * kv_heads, kv_heads, 128)
    constant, per_sequence, per_token = cost.decode_attention_coefficients(template)
    elsewhere = attention(batch, 1, other, 4 * kv_heads, kv_heads, 128)
    predicted = constant + per_sequence * batch + per_token * batch * other
    assert cost.price(elsewhere).seconds == pytest.approx(predicted, rel=1e-9)
    assert cost.decode_attention(batch, batch * other, template) == pytest.approx(predicted, rel=1e-9)


def test_decode_attention_reads_the_cache_at_the_fitted_bandwidth() -> None:
    work = attention(64, 1, 4096, 64, 8, 128)
    kv = 2 * 2.0 * 64 * 4096 * 8 * 128
    rest = work.bytes - kv
    expected = 11e-6 + (kv + rest) / (0.9 * 3e12) + 25e-9 * 64 * 8
    assert DeviceCost(accelerator(), relatives=()).price(work).seconds == pytest.approx(expected)


def test_gemm_follows_its_formula() -> None:
    work = gemm(2048, 4096, 4096)
    compute, memory = work.flops / (0.8 * 1e15), work.bytes / (0.85 * 3e12)
    price = DeviceCost(accelerator(), relatives=()).price(work)
    assert price.seconds == pytest.approx(4e-6 + (compute**2 + memory**2) ** 0.5)
    assert price.bound == "compute"
    assert set(price.constants) == {f"chip.gemm.bf16.{x}" for x in ("launch", "compute", "memory", "sharpness")}


def test_prefill_follows_its_formula() -> None:
    work = attention(1, 4096, 2048.0, 32, 8, 128, causal=True)
    expected = 12e-6 + work.flops / (0.6 * 1e15) * (1 + 1000 / 4096)
    assert DeviceCost(accelerator(), relatives=()).price(work).seconds == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kernel", "architecture", "ratio"),
    [("flash-3", "hopper", 1), ("flash-2", "hopper", 1.75), ("flash-1", "hopper", 3.5), ("flash-2", "ampere", 1),
     ("flash-1", "ampere", 2), ("flash-3", "ampere", 1), ("flash-2", "cdna3", 1)],
)  # fmt: skip
def test_older_kernels_are_slower_by_the_published_ratio(kernel: str, architecture: str, ratio: float) -> None:
    work = attention(8, 16_384, 8192.5, 32, 8, 128, causal=True)
    framework = Framework("f", "training", attention_kernel=kernel)  # type: ignore[arg-type]
    chip = accelerator(architecture=architecture, vendor="amd" if architecture == "cdna3" else "nvidia")
    old = DeviceCost(chip, framework, relatives=()).price(work).seconds
    best = DeviceCost(chip, relatives=()).price(work).seconds
    assert (old - 12e-6) / (best - 12e-6) == pytest.approx(ratio)


def test_backward_runs_at_63_over_73_of_the_forward_rate() -> None:
    cost = DeviceCost(accelerator(), relatives=())
    forward = cost.price(attention(1, 8192, 4096.5, 32, 8, 128, causal=True)).seconds - 12e-6
    backward = cost.price(attention(1, 8192, 4096.5, 32, 8, 128, causal=True, backward=True)).seconds - 12e-6
    assert backward / forward == pytest.approx(2.5 * 73 / 63)


def test_a_head_size_off_the_grid_pays_for_its_padding() -> None:
    cost = DeviceCost(accelerator(), relatives=())

    def rate(head: int) -> float:
        work = attention(1, 16_384, 8192.5, 64, 64, head, causal=True)
        return work.flops / (cost.price(work).seconds - 12e-6)

    assert rate(80) / rate(96) == pytest.approx(80 / 96)
    assert rate(64) == pytest.approx(rate(128))


def test_cuda_graphs_only_take_the_launch_away() -> None:
    small = gemm(1, 512, 512)
    eager = DeviceCost(accelerator(), relatives=()).price(small).seconds
    graph = DeviceCost(accelerator(), Framework("f", "serving", cuda_graphs=True), relatives=()).price(small)
    assert eager - graph.seconds == pytest.approx(4e-6 - GRAPH_LAUNCH.value)
    assert GRAPH_LAUNCH.id in graph.constants


def test_absorbed_latent_attention_is_bound_by_compute() -> None:
    heads, latent, rope = 128, 512, 64
    context, batch = 8192.0, 64
    work = Work(
        OpKind.ATTENTION, "bf16", 2.0 * heads * (2 * latent + rope) * context * batch,
        2.0 * (latent + rope) * context * batch, batch=batch, q_len=1, kv_len=context, heads=heads, kv_heads=1,
        head_dim=latent + rope,
    )  # fmt: skip
    assert DeviceCost(accelerator(peak=1e15, bandwidth=4e12), relatives=()).price(work).bound == "compute"
    assert DeviceCost(accelerator(peak=1e16, bandwidth=4e12), relatives=()).price(work).bound == "memory"


def test_grouped_gemm_pays_for_rows_that_do_not_fill_tiles() -> None:
    one_row_each = gemm(64, 4096, 4096, kind=OpKind.GROUPED_GEMM, groups=64)
    assert grouped_gemm_flops(one_row_each, 0) == pytest.approx(16 * one_row_each.flops)  # tiles of 16 rows
    few_rows = gemm(64 * 17, 4096, 4096, kind=OpKind.GROUPED_GEMM, groups=64)
    assert grouped_gemm_flops(few_rows, 0) == pytest.approx(64 / 17 * few_rows.flops)  # of 64 rows
    full = gemm(64 * 256, 4096, 4096, kind=OpKind.GROUPED_GEMM, groups=64)
    assert grouped_gemm_flops(full, 0) == full.flops


def test_attention_waves_count_blocks_and_cap() -> None:
    # 480 tokens x 32 heads: 128 blocks of 128 rows on 108 multiprocessors take two waves.
    assert attention_waves(attention(1, 480, 4000, 32, 8, 128), 108) == pytest.approx(216 * 128 / (32 * 480))
    assert attention_waves(attention(1, 352, 4000, 32, 8, 128), 108) == pytest.approx(108 * 128 / (32 * 352))
    assert attention_waves(attention(1, 64, 4000, 1, 1, 128), 108) == 2.0
    assert attention_waves(attention(1, 64, 4000, 1, 1, 128), 0) == 1.0


@given(st.floats(1e-9, 1), st.floats(1e-9, 1), st.floats(1, 10))
def test_smooth_max_lies_between_maximum_and_sum(a: float, b: float, p: float) -> None:
    assert max(a, b) * (1 - 1e-12) <= smooth_max(a, b, p) <= (a + b) * (1 + 1e-12)
    assert smooth_max(a, b, 1.0) == pytest.approx(a + b)


def test_constants_come_from_the_device_then_relatives_then_datasheet() -> None:
    work = gemm(4096, 4096, 4096)
    own = accelerator("own")
    assert DeviceCost(own, relatives=()).price(work).trust == Trust.FITTED
    bare = replace(own, name="bare", efficiency={})
    assert DeviceCost(bare, relatives=()).price(work).trust == Trust.DATASHEET
    sibling, stranger = accelerator("sibling"), accelerator("stranger", architecture="ampere", year=2020)
    borrowed = DeviceCost(bare, relatives=(own, sibling, stranger))
    assert borrowed.price(work).trust == Trust.BORROWED
    constant = borrowed.constants.entries["bare.gemm.bf16.compute"]
    assert constant.value == pytest.approx(0.8)
    assert "own, sibling: same architecture (hopper)" in constant.source
    assert constant.sigma == pytest.approx(math.hypot(0.1, SAME_ARCHITECTURE_SIGMA))


def test_spread_among_lenders_widens_the_interval() -> None:
    bare = accelerator("bare", architecture="new", year=2024, curves={})
    low = accelerator("low", curves={**CURVES, "gemm.bf16.compute": 0.4})
    high = accelerator("high", curves={**CURVES, "gemm.bf16.compute": 0.9})
    cost = DeviceCost(bare, relatives=(low, high))
    cost.price(gemm(64, 64, 64))
    compute, memory = (cost.constants.entries[f"bare.gemm.bf16.{x}"] for x in ("compute", "memory"))
    assert compute.value == pytest.approx(0.6)
    assert compute.sigma > memory.sigma > 0.2


@given(st.floats(1e12, 1e13), st.integers(16, 256))
def test_a_borrowed_cast_takes_its_time_per_multiprocessor(bandwidth: float, sms: int) -> None:
    """The kernel that makes inputs narrow does not get faster with the memory, up to the memory's bandwidth."""
    lender = accelerator("lender", curves={**CURVES, "gemm.fp8.cast": 0.3, "gemm.fp8.compute": 0.8})
    cost = DeviceCost(accelerator("bare", bandwidth=bandwidth, sms=sms, curves={}), relatives=(lender,))
    used = list[str]()
    rate = cost.value("gemm.fp8.cast", used) * bandwidth
    assert rate == pytest.approx(min(bandwidth, 0.3 * lender.memory_bandwidth / lender.sm_count * sms))
    assert cost.value("gemm.bf16.memory", used) == 0.85


def test_experts_save_the_launch_of_the_cast_that_the_curve_holds() -> None:
    narrow = {f"gemm.fp8.{leaf}": CURVES[f"gemm.bf16.{leaf}"] for leaf in ("compute", "memory", "sharpness")}
    curves = {**CURVES, **narrow, "gemm.fp8.launch": 7e-6}
    work = replace(gemm(64, 64, 64), kind=OpKind.GROUPED_GEMM, dtype="fp8", groups=4)
    whole = DeviceCost(accelerator(curves=curves), relatives=()).price(work).seconds
    cast = DeviceCost(accelerator(curves={**curves, "gemm.fp8.cast": 0.3}), relatives=()).price(work).seconds
    assert whole - cast == pytest.approx(CURVES["elementwise.launch"])


def test_best_achieved_matmul_is_used_before_borrowing() -> None:
    measured = replace(
        accelerator("m", curves={}), efficiency=constants("m", {"max_achievable_matmul.bf16.compute": 0.51})
    )
    cost = DeviceCost(measured, relatives=(accelerator("lender"),))
    price = cost.price(gemm(8192, 8192, 8192))
    assert cost.constants["m.gemm.bf16.compute"] == 0.51
    assert price.trust == Trust.BORROWED  # launch and memory still are


def test_moved_constants_leave_the_original_alone() -> None:
    cost = DeviceCost(accelerator(), relatives=())
    work = gemm(4096, 4096, 4096)
    before = cost.price(work).seconds
    faster = cost.moved({"chip.gemm.bf16.compute": 1.1}).price(work).seconds
    assert faster < before == cost.price(work).seconds
    assert DeviceCost(accelerator(), None, {"chip.gemm.bf16.compute": 1.1}, ()).price(work).seconds == faster


def test_communication_is_refused_and_no_work_is_free() -> None:
    cost = DeviceCost(accelerator(), relatives=())
    with pytest.raises(ValueError, match="NetworkCost"):
        cost.price(Work(OpKind.COLLECTIVE, "bf16", message=1.0))
    assert cost.price(Work(OpKind.GEMM, "bf16")).seconds == 0.0


def test_host_copy_takes_the_host_link() -> None:
    price = DeviceCost(accelerator(), relatives=()).price(Work(OpKind.COPY, "bf16", message=64e9, bytes=64e9))
    assert price.seconds == pytest.approx(10e-6 + 1 / 0.85)
    assert price.floor == pytest.approx(1.0)


@pytest.mark.parametrize(("heads", "kv_heads"), [(32, 8), (32, 32), (64, 1)])
def test_a_decode_reads_keys_and_values_besides_queries_and_outputs(heads: int, kv_heads: int) -> None:
    """Two 16-bit tensors of batch × context × kv_heads × head_dim; what else the Op touches is not of the cache."""
    from simulator.cost.attention import _kv_bytes

    batch, context, head_dim = 16, 3000, 128
    cache, rest = 2 * 2.0 * batch * context * kv_heads * head_dim, 2 * 2.0 * batch * heads * head_dim
    work = Work(
        OpKind.ATTENTION, "bf16", 1.0, cache + rest, batch=batch, q_len=1, kv_len=context, heads=heads,
        kv_heads=kv_heads, head_dim=head_dim,
    )  # fmt: skip
    assert _kv_bytes(work) == pytest.approx(cache)


def test_weight_gradients_of_groups_are_whole_matrices() -> None:
    """Rows are what is summed over: tiles cover the matrix of each group, however few rows it has."""
    rows, groups = 77, 20
    gradient = replace(gemm(3072, 5120, rows, kind=OpKind.GROUPED_GEMM, groups=groups), k=groups * rows)
    gradient = replace(gradient, operator="weight_gradient", flops=groups * gradient.flops)
    assert grouped_gemm_flops(gradient, 0) == pytest.approx(gradient.flops)
