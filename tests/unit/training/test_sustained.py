"""What the limit of power leaves: the clock of compute units, by the watts of a device, and not that of memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.hardware.profiles import load_accelerator, load_link, load_node
from simulator.hardware.types import Accelerator, Cluster, Fabric, NodeGroup
from simulator.training.block_time import BlockPricer
from simulator.training.pipelined import PipelinedJob
from simulator.training.sustained import UnderLoad, accumulated_share, sustained_share
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model_files import load_model
from simulator.workload.ops import OpKind, Work
from simulator.workload.plan import Plan

H100 = load_accelerator("h100-sxm")
OWN = H100.efficiency["gemm.bf16.continuous.sustained"].value


def relative(watts: float = 1.0, flops: float = 1.0) -> Accelerator:
    """An H100 of its own name with other watts and rates, and no share that was fitted on it."""
    efficiency = {k: c for k, c in H100.efficiency.items() if ".continuous." not in k}
    power = replace(H100.power, peak=watts * H100.power.peak)
    peaks = {dtype: flops * rate for dtype, rate in H100.peak_flops.items()}
    return replace(H100, name="relative", efficiency=efficiency, power=power, peak_flops=peaks)


def share(device: Accelerator, dtype: str = "bf16") -> float:
    found = sustained_share(device, dtype)
    assert found is not None
    return found.value


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp8"])
@pytest.mark.parametrize(
    ("watts", "flops", "kept"), [(1.0, 1.0, OWN), (1.1, 1.0, 1.1 * OWN), (0.5, 1.0, OWN / 2), (1.0, 2.0, OWN / 2)]
)
def test_the_rate_follows_the_watts_below_the_lowest_voltage(
    dtype: str, watts: float, flops: float, kept: float
) -> None:
    assert share(relative(watts, flops), dtype) == pytest.approx(kept)


def test_with_ample_power_the_clock_is_whole() -> None:
    assert share(relative(watts=3.0)) == 1.0


@pytest.mark.parametrize("name", ["gb200", "h200-sxm", "h800-sxm", "gb300"])
def test_fp8_is_limited_wherever_16_bits_are(name: str) -> None:
    device = load_accelerator(name)
    wide, narrow = sustained_share(device, "bf16"), sustained_share(device, "fp8")
    assert wide is not None
    assert narrow is not None
    assert wide.value == pytest.approx(narrow.value, rel=0.12)
    assert (wide.value, narrow.value) == (1.0, 1.0) or wide.id != narrow.id


def test_what_additions_in_fp32_keep_is_no_matter_of_power() -> None:
    one, other = (accumulated_share(load_accelerator(name), "bf16") for name in ("b200-sxm", "gb200"))
    assert one is not None
    assert other is not None
    assert one.value == other.value


def pricer(node: str) -> BlockPricer:
    cluster = Cluster(node, (NodeGroup(load_node(node), 1),), Fabric("fat-tree", load_link("ndr400")))
    job = TrainingJob("job", load_model("llama-3.1-8b"), load_framework("megatron-core-0.8"), Batch(8, 1, 4096),
                      Plan(data_parallel=8))  # fmt: skip
    return PipelinedJob(job, cluster).pricer(0)


@pytest.mark.parametrize("rows", [1, 16, 256, 1024, 8192])
def test_memory_keeps_its_clock(rows: int) -> None:
    """A GEMM takes at most 1/share of its benchmark's time, and hardly more than that where memory binds it."""
    block = pricer("dgx-h100")
    work = Work(OpKind.GEMM, "bf16", 2.0 * rows * 8192 * 8192, 2.0 * (2 * rows * 8192 + 8192 * 8192), rows, 8192, 8192)
    alone = block.device.price(work)
    limited = UnderLoad(block.device).gemm(alone, work, accumulates=False)
    assert alone.seconds <= limited.seconds <= alone.seconds / OWN
    assert limited.floor == alone.floor
    if rows <= 16:
        assert limited.seconds < 1.01 * alone.seconds
    if rows == 8192:
        assert limited.seconds > 0.97 * alone.seconds / OWN


def test_narrower_operands_take_less_time_where_the_device_has_units_for_them() -> None:
    cluster = Cluster("b200", (NodeGroup(load_node("dgx-b200"), 1),), Fabric("fat-tree", load_link("ndr400")))
    model, framework = load_model("llama-3.1-8b"), load_framework("nemo-24.07")
    times = [
        PipelinedJob(TrainingJob(p, model, framework, Batch(64, 2, 8192), Plan(data_parallel=8, precision=p)), cluster)
        .run()
        .seconds
        for p in ("bf16", "fp8", "nvfp4")
    ]
    assert times[0] > 1.3 * times[1] > 1.3 * 1.05 * times[2]
