"""Seconds of the expert block of a served mixture, by the library whose kernels an engine runs.

    t = start + ((F / (c·P))^p + (W / (m·BW))^p)^(1/p) + e·R·H

F padded FLOPs of both grouped GEMMs, W bytes of the experts touched, R·H elements of the rows that come to experts.
``start`` and ``e`` stand for what a block does beside its products: rows are sorted by expert, gathered (by a kernel of
its own in CUTLASS and DeepGEMM, inside the GEMM in Triton and in TensorRT-LLM's generated kernels), made narrow,
activated, put back and summed. ``e`` hardly differs between devices of an architecture whose memories differ by 40 %,
so it is a time and not a share of the memory's bandwidth.

Half of ``start`` falls on each of the two GEMMs, ``e`` on the first; the elementwise Ops of the block are inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from simulator.constants import Constant, Trust
from simulator.cost.experts import unaligned
from simulator.cost.kernels import grouped_gemm_flops, smooth_max, unaligned_experts
from simulator.cost.priced import FREE, Bound, Priced
from simulator.workload.ops import DTYPE_BYTES, OpKind, Work

if TYPE_CHECKING:
    from simulator.cost.device import DeviceCost

__all__ = ["EXPERT_CURVES", "LIBRARIES", "ExpertCurve", "expert_curve", "price_experts"]


class ExpertCurve(NamedTuple):
    """Constants of one library: start [s], shares of the peak rate and of the bandwidth, seconds per gathered element,
    sharpness, and the sigma that 80 % of the timings are within."""

    start: float
    compute: float
    memory: float
    element: float
    sharpness: float
    sigma: float


EXPERT_CURVES: Mapping[tuple[str, str, str], ExpertCurve] = {
    ("triton", "ada", "bf16"): ExpertCurve(6.17e-06, 0.701, 0.774, 7.92e-12, 1.4, 0.11),
    ("triton", "ada", "fp8"): ExpertCurve(4.74e-06, 0.612, 0.763, 7.63e-12, 1.3, 0.16),
    ("triton", "ada", "fp8_block"): ExpertCurve(1.44e-06, 0.505, 0.755, 8.19e-12, 1.9, 0.11),
    ("triton", "ampere", "bf16"): ExpertCurve(2.61e-05, 0.357, 0.704, 3.29e-12, 1.9, 0.21),
    ("triton", "hopper", "bf16"): ExpertCurve(3.23e-05, 0.662, 0.844, 3.01e-12, 1.6, 0.13),
    ("triton", "hopper", "fp8_block"): ExpertCurve(4.25e-05, 0.343, 0.811, 3.68e-12, 2.4, 0.12),
    ("triton-sglang", "ampere", "bf16"): ExpertCurve(3.99e-05, 0.458, 0.805, 4.34e-12, 1.3, 0.16),
    ("triton-sglang", "blackwell-rtx", "bf16"): ExpertCurve(3.71e-06, 0.567, 0.87, 2.66e-12, 1.1, 0.19),
    ("triton-sglang", "blackwell-rtx", "fp8_block"): ExpertCurve(1.96e-05, 0.539, 0.898, 3.13e-12, 2.5, 0.1),
    ("triton-sglang", "hopper", "bf16"): ExpertCurve(2.63e-05, 0.324, 0.831, 1.81e-12, 1.3, 0.21),
    ("triton-sglang", "hopper", "fp8_block"): ExpertCurve(2.77e-05, 0.394, 0.813, 2.77e-12, 2.3, 0.1),
    ("cutlass", "ada", "bf16"): ExpertCurve(8.54e-06, 0.585, 0.795, 1.16e-11, 1.3, 0.11),
    ("cutlass", "ada", "fp8"): ExpertCurve(8.89e-06, 0.485, 0.787, 9.69e-12, 1.6, 0.12),
    ("cutlass", "ampere", "bf16"): ExpertCurve(3.36e-05, 0.517, 0.766, 6.69e-12, 1.9, 0.11),
    ("cutlass", "blackwell", "bf16"): ExpertCurve(3.51e-05, 0.971, 0.838, 2.91e-12, 1.6, 0.13),
    ("cutlass", "blackwell", "fp4"): ExpertCurve(5.97e-05, 0.482, 0.604, 3.62e-12, 4.1, 0.27),
    ("cutlass", "blackwell", "fp8"): ExpertCurve(3.73e-05, 0.86, 0.825, 3.29e-12, 1.8, 0.17),
    ("cutlass", "blackwell-rtx", "bf16"): ExpertCurve(1.85e-05, 0.692, 0.92, 5.51e-12, 1.8, 0.11),
    ("cutlass", "blackwell-rtx", "fp4"): ExpertCurve(4.94e-05, 0.687, 0.712, 3.72e-12, 2.6, 0.16),
    ("cutlass", "blackwell-rtx", "fp8"): ExpertCurve(1.94e-05, 0.686, 0.898, 4.61e-12, 1.9, 0.11),
    ("cutlass", "hopper", "bf16"): ExpertCurve(3.68e-05, 0.879, 0.872, 4.19e-12, 1.5, 0.15),
    ("cutlass", "hopper", "fp8"): ExpertCurve(3.74e-05, 0.865, 0.833, 4.39e-12, 1.6, 0.19),
    ("cutlass", "hopper", "fp8_block"): ExpertCurve(5.04e-05, 0.473, 0.829, 1.05e-11, 2.8, 0.17),
    ("deepgemm", "blackwell", "fp8_block"): ExpertCurve(7.03e-05, 0.673, 0.687, 2.95e-12, 6.2, 0.23),
    ("trtllm-gen", "blackwell", "bf16"): ExpertCurve(1.84e-05, 0.531, 0.846, 1.18e-12, 1.7, 0.2),
    ("trtllm-gen", "blackwell", "fp4"): ExpertCurve(1.82e-05, 0.665, 0.749, 1.29e-12, 1.3, 0.26),
    ("trtllm-gen", "blackwell", "fp8"): ExpertCurve(1.7e-05, 0.503, 0.794, 1.08e-12, 1.5, 0.15),
    ("trtllm-gen", "blackwell", "fp8_block"): ExpertCurve(2.83e-05, 0.238, 0.858, 1.65e-12, 1.3, 0.19),
}
"""(library, architecture, format) → what ``benchmarks/fits/expert_kernels.py`` prints."""

LIBRARIES = tuple(sorted({library for library, _, _ in EXPERT_CURVES}))

SOURCE = (
    "expert blocks of vLLM, SGLang and TensorRT-LLM (aiconfigurator-core 0.12.0): benchmarks/fits/expert_kernels.py"
)


def expert_curve(libraries: tuple[str, ...], architecture: str, form: str) -> tuple[str, ExpertCurve] | None:
    """The first of an engine's ``libraries`` that has kernels for weights of that format there, and its constants."""
    base = architecture.partition("+")[0]
    for library in libraries:
        if (found := EXPERT_CURVES.get((library, base, form))) is not None:
            return f"experts.{library}.{base}.{form}", found
    return None


def price_experts(device: DeviceCost, work: Work) -> Priced | None:
    """Time of one Op of an expert block; nothing where the engine's libraries were not timed on the architecture or the
    device has measured kernels of its own."""
    accelerator, framework = device.accelerator, device.framework
    if framework is None or accelerator.kernel_table or work.dtype not in accelerator.peak_flops:
        return None
    found = expert_curve(framework.expert_kernels, accelerator.architecture, work.experts)
    if found is None:
        return None
    if work.kind is not OpKind.GROUPED_GEMM:
        return FREE
    (name, curve), used = found, list[str]()

    def value(key: str, amount: float, unit: str) -> float:
        return device.shared(Constant(f"{name}.{key}", amount, unit, curve.sigma, Trust.FITTED, SOURCE), used)

    flops = grouped_gemm_flops(work, accelerator.sm_count)
    compute = flops / (min(1.0, value("compute", curve.compute, "")) * accelerator.rate(work.dtype))
    weights = float(work.groups) * work.n * work.k * DTYPE_BYTES[work.dtype]
    memory = weights / (min(1.0, value("memory", curve.memory, "")) * accelerator.memory_bandwidth)
    together = smooth_max(compute, memory, curve.sharpness)
    if unaligned(work):
        together *= device.shared(unaligned_experts(accelerator.architecture, work.dtype), used)
    launch = value("start", curve.start, "s") / 2
    rows = value("element", curve.element, "s") * work.m * work.k if work.gathers else 0.0
    parts: dict[Bound, float] = {"launch": launch, "compute": compute, "memory": max(memory, rows)}
    return device.priced(work, launch + together + rows, max(parts, key=lambda part: parts[part]), used)
