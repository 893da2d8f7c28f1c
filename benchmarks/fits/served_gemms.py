"""How long GEMMs of served models take in each engine over their price there, from timings of aiconfigurator-core
(extra ``measured``): nothing is fitted, the table says which prices to mend first.

Shapes of DeepSeek-V3 on eight ranks and of Llama-3.1-70B on four; medians of timed over priced by rows: decodes of 4 to
64 and of 128 to 512 sequences, prompts of 1,024 to 4,096 and of 8,192 to 16,384 tokens. Blocks of experts are in
``expert_kernels.py``, latent attention in ``latent_attention.py``.

    python benchmarks/fits/served_gemms.py [device ...]
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable
from dataclasses import replace

from simulator.calibration import aiconfigurator
from simulator.cost.device import DeviceCost
from simulator.cost.kernel_table import Row
from simulator.hardware.profiles import load_accelerator
from simulator.workload.framework_files import load_framework
from simulator.workload.ops import OpKind

ENGINES = {"vllm": "vllm-latest", "sglang": "sglang-0.4", "trtllm": "tensorrt-llm-1.0"}
SHAPES = {(2112, 7168), (3072, 1536), (7168, 2048), (512, 7168), (2560, 8192), (14336, 8192), (8192, 7168)}
"""(n, k) of q_a with kv_a, q_b, output and shared experts of DeepSeek-V3; qkv, up and down of Llama-3.1-70B."""

NEAR = 0.15
"""Share by which a timed width may differ."""

BANDS = {"4-64": (4, 64), "128-512": (128, 512), "1k-4k": (1024, 4096), "8k-16k": (8192, 16384)}


def served(row: Row) -> bool:
    work = row.work
    return work.kind is OpKind.GEMM and any(k == work.k and abs(work.n / n - 1) < NEAR for n, k in SHAPES)


def ratios(cost: DeviceCost, rows: Iterable[Row]) -> str:
    """Medians by band of rows; weights of a served model are not in the cache."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for band, (least, most) in BANDS.items():
            if least <= row.work.m <= most:
                found.setdefault(band, []).append(row.seconds / cost.price(replace(row.work, near=0.0)).seconds)
    return "; ".join(f"{band} rows {statistics.median(found[band]):.2f}" for band in BANDS if band in found)


def main() -> None:
    for device in sys.argv[1:] or ("h100_sxm", "h200_sxm", "b200_sxm"):
        accelerator = load_accelerator(aiconfigurator.ACCELERATORS[device])
        for engine in aiconfigurator.engines(device):
            cost = DeviceCost(accelerator, load_framework(ENGINES[engine]))
            rows = [row for row in aiconfigurator.read_kernels(device, engine)[0] if served(row)]
            for dtype in sorted({row.work.dtype for row in rows} & set(accelerator.peak_flops)):
                print(
                    f"{device} {engine} {dtype}: {ratios(cost, [r for r in rows if r.work.dtype == dtype])}", flush=True
                )
            if blocks := [row for row in aiconfigurator.read_block_scaled(device, engine) if served(row)]:
                print(f"{device} {engine} fp8 with scales per block: {ratios(cost, blocks)}", flush=True)


if __name__ == "__main__":
    main()
