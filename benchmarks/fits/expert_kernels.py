"""Curves of served expert blocks by library, architecture and format, from timings of aiconfigurator-core (extra
``measured``): ``EXPERT_CURVES`` of simulator/cost/expert_kernels.py.

TensorRT-LLM's generated kernels run in vLLM and SGLang (through FlashInfer) and in TensorRT-LLM and have one curve;
Triton's are written and tuned by vLLM and SGLang apart, CUTLASS and DeepGEMM are fitted on TensorRT-LLM, which alone
takes them by default. One curve holds for all devices of an architecture; engines and devices weigh the same. Balanced
choices and the power law of served models, experts touched as the simulator counts them. Per curve: constants, median
error, that of the same blocks as kernels one after the other by the device's GEMM curve, that of every device when the
others were fitted, and of every engine when the others were: or that of other engines' kernels of the same name.

    python benchmarks/fits/expert_kernels.py [library]
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from simulator.calibration import aiconfigurator
from simulator.calibration.aiconfigurator import ExpertTiming
from simulator.cost.device import DeviceCost
from simulator.cost.experts import VECTOR, expert_block
from simulator.cost.kernels import grouped_gemm_flops
from simulator.hardware.profiles import load_accelerator
from simulator.workload.lowering_mlp import SERVED_ROUTING, experts_touched
from simulator.workload.ops import DTYPE_BYTES, OpKind, Work

FORMS = {"bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8_block", "nvfp4": "fp4"}

LIBRARIES = (
    ("deepgemm", "deepgemm"), ("min_latency", "trtllm-gen"), ("flashinfer_trtllm", "trtllm-gen"),
    ("nongated", ""), ("triton", "triton"), ("vllm_fused_moe", "triton"), ("cutlass", "cutlass"),
    ("moe_torch_flow", "cutlass"),
)  # fmt: skip
"""Words of a kernel's name → library; the first that is found counts."""

CURVES = {
    "triton": ("triton", ("vllm",)),
    "triton-sglang": ("triton", ("sglang",)),
    "cutlass": ("cutlass", ("trtllm",)),
    "deepgemm": ("deepgemm", ("trtllm",)),
    "trtllm-gen": ("trtllm-gen", ("vllm", "sglang", "trtllm")),
}
"""Library of a curve → kernels, and the engines whose timings are fitted."""

LAWS = {"balanced": 0.0, f"power_law_{SERVED_ROUTING}": SERVED_ROUTING}

WHOLE = "1.3.0rc20"
"""The newest version of TensorRT-LLM whose expert blocks were all timed."""

Z80 = 1.2816
"""80 % of a normal distribution lie within so many sigmas."""

MOST = 700
"""Timings of one engine on one device that a fit looks at, evenly spread over sizes."""

Features = NDArray[np.float64]


class Group(NamedTuple):
    """Timings of one library and format, by one engine on one device."""

    device: str
    engine: str
    features: Features
    """Per timing: seconds, FLOPs over the peak rate [s], bytes of weights over the bandwidth [s], gathered elements, as
    kernels one after the other [s]."""


def library_of(kernels: str) -> str:
    return next((library for word, library in LIBRARIES if word in kernels.lower()), "")


def features(timing: ExpertTiming, cost: DeviceCost, form: str) -> tuple[float, ...]:
    accelerator = cost.accelerator
    dtype = form.removesuffix("_block")
    rows, wide = timing.tokens * timing.per_token, 2 if timing.gated else 1
    touched = experts_touched(timing.experts, timing.per_token, timing.tokens, LAWS[timing.law])
    if timing.law == "balanced":
        touched = min(timing.experts, rows)
    flops = 0.0
    for n, k in ((wide * timing.width, timing.hidden), (timing.hidden, timing.width)):
        work = Work(OpKind.GROUPED_GEMM, dtype, 2.0 * rows * n * k, 0.0, rows, n, k, touched)
        flops += grouped_gemm_flops(work, accelerator.sm_count)
    weights = touched * (wide + 1.0) * timing.width * timing.hidden * DTYPE_BYTES[dtype]
    compute, memory = flops / accelerator.rate(dtype), weights / accelerator.memory_bandwidth
    sizes = timing.tokens, timing.per_token, timing.hidden, timing.width
    apart = cost.curve(expert_block(dtype, *sizes, touched, timing.gated))
    return timing.seconds, compute, memory, float(rows) * timing.hidden, apart


def groups() -> dict[tuple[str, str, str], list[Group]]:
    """(library, architecture, format) → its timings."""
    found: dict[tuple[str, str, str], list[Group]] = {}
    for device in aiconfigurator.devices():
        accelerator = load_accelerator(aiconfigurator.ACCELERATORS[device])
        cost = DeviceCost(replace(accelerator, kernel_table=""))
        base = accelerator.architecture.partition("+")[0]
        for engine, versions in aiconfigurator.engines(device).items():
            version = WHOLE if WHOLE in versions else ""
            best: dict[tuple[str, str], dict[ExpertTiming, float]] = {}
            for timing in aiconfigurator.read_expert_blocks(device, engine, version):
                library, form = library_of(timing.kernels), FORMS.get(timing.form, "")
                known = form.removesuffix("_block") in accelerator.peak_flops and timing.law in LAWS
                if not (library and known):
                    continue
                if timing.width % VECTOR == 0 and timing.hidden % VECTOR == 0:
                    mine, size = best.setdefault((library, form), {}), timing._replace(seconds=0.0)
                    mine[size] = min(timing.seconds, mine.get(size, math.inf))
            for (library, form), times in best.items():
                every = sorted(times.items())
                few = [every[i * len(every) // MOST] for i in range(MOST)] if len(every) > MOST else every
                rows = [features(size._replace(seconds=seconds), cost, form) for size, seconds in few]
                found.setdefault((library, base, form), []).append(Group(device, engine, np.array(rows)))
    return found


def block(x: Features, rows: Features) -> Features:
    """Seconds of blocks by the logarithms of start, shares, seconds per element and sharpness."""
    start, compute, memory, element, sharpness = np.exp(x)
    a, b = rows[:, 1] / compute, rows[:, 2] / memory
    high, low = np.maximum(a, b), np.minimum(a, b)
    seconds: Features = start + high * (1 + (low / high) ** sharpness) ** (1 / sharpness) + element * rows[:, 3]
    return seconds


def fit(every: Sequence[Group]) -> Features:
    """Least robust relative error, engines and devices alike."""
    rows = np.concatenate([group.features for group in every])
    weights = np.concatenate([np.full(len(g.features), 1 / math.sqrt(len(g.features))) for g in every])

    def residual(x: Features) -> Features:
        found: Features = weights * np.log(block(x, rows) / rows[:, 0])
        return found

    low, high = np.log([1e-6, 0.02, 0.1, 1e-15, 1.0]), np.log([1e-3, 1.0, 1.0, 1e-10, 8.0])
    begins = [np.log([start, 0.5, 0.8, 1e-12, 1.8]) for start in (2e-5, 8e-5)]
    scale = 0.1 * float(weights.min())
    fits = [least_squares(residual, x, bounds=(low, high), loss="soft_l1", f_scale=scale) for x in begins]
    best: Features = min(fits, key=lambda f: float(f.cost)).x
    return best


def error(x: Features, every: Iterable[Group], share: float = 0.5) -> float:
    """Median over engines and devices of the median relative error, or of another quantile of theirs."""
    found = [float(np.quantile(np.abs(block(x, g.features) / g.features[:, 0] - 1), share)) for g in every]
    return statistics.median(found)


def without(every: Sequence[Group], by: str) -> str:
    """Error of each device or engine under the curve of the others."""
    names = sorted({str(getattr(group, by)) for group in every})
    if len(names) < 2:
        return f"one {by}"
    parts = []
    for name in names:
        others = [g for g in every if getattr(g, by) != name]
        parts.append(f"{name} {error(fit(others), [g for g in every if getattr(g, by) == name]):.0%}")
    return ", ".join(parts)


def report(library: str, base: str, form: str, every: Sequence[Group]) -> None:
    engines = CURVES[library][1]
    mine, others = [g for g in every if g.engine in engines], [g for g in every if g.engine not in engines]
    if not mine:
        return
    x = fit(mine)
    sigma = error(x, mine, 0.8) / Z80
    values = ", ".join(f"{value:.3g}" for value in (*np.exp(x)[:4], round(float(np.exp(x[4])), 1), round(sigma, 2)))
    print(f'    ("{library}", "{base}", "{form}"): ExpertCurve({values}),')
    apart = [float(np.median(np.abs(g.features[:, 4] / g.features[:, 0] - 1))) for g in mine]
    blocks = sum(len(g.features) for g in mine)
    print(f"        {blocks} blocks, error {error(x, mine):.1%}, as kernels apart {statistics.median(apart):.1%}")
    told = ", ".join(f"{g.engine} on {g.device} {error(x, [g]):.0%}" for g in others)
    print(
        f"        left out: {without(mine, 'device')}; {without(mine, 'engine')}{'; ' + told if told else ''}",
        flush=True,
    )


def main() -> None:
    wanted = sys.argv[1:] or list(CURVES)
    known = sorted(groups().items())
    for library in wanted:
        for (kernels, base, form), every in known:
            if kernels == CURVES[library][0]:
                report(library, base, form, every)


if __name__ == "__main__":
    main()
