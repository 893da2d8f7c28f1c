"""Reads the query rows of a thread block out of prefill timings with few heads.

A kernel whose grid leaves multiprocessors idle takes as long as its longest block: t = t0 + rows · 4·d·L / r, with L
keys, head size d and r the rate of one multiprocessor, the fitted share of the peak over their number. The slope over L
of grids of one full wave (smaller ones split keys) gives the rows. Below: the error of whole prompts of few heads, with
the longest block and without, and of SimuMax's training kernels on B200, none of which is in the slope.

    python benchmarks/fits/attention_blocks.py --shared ../shared      (extra ``measured``)
"""

from __future__ import annotations

import argparse
import csv
import statistics
from pathlib import Path
from unittest.mock import patch

from simulator.calibration import aiconfigurator
from simulator.cost import attention
from simulator.cost.device import DeviceCost
from simulator.cost.kernel_table import Row
from simulator.hardware.profiles import load_accelerator
from simulator.workload.ops import OpKind, Work

WAVES = {"h100_sxm": 4 * 4096, "b200_sxm": 8 * 4096}
"""Heads times tokens of a grid of 128 blocks, just below the number of multiprocessors."""
LENGTHS = (4096, 8192, 16384)
FEW = 8
"""Sequences times heads: at 4,096 tokens and more these grids leave a device idle or just fill it."""


def prompts(device: str, engine: str) -> list[Row]:
    """Whole prompts of few heads, of head size 128."""
    rows, _ = aiconfigurator.read_kernels(device, engine)
    return [
        r for r in rows
        if r.work.kind is OpKind.ATTENTION and r.work.causal and r.work.head_dim == 128 and r.work.q_len >= 1024
        and r.work.batch * r.work.heads <= FEW
    ]  # fmt: skip


def training_kernels(path: Path) -> list[Row]:
    """SimuMax's causal kernels, whose fractions count the masked half of the scores as well."""
    found = []
    with path.open() as file:
        for row in csv.DictReader(file):
            shape = dict(part.strip().split("=") for part in row["shape"].split(";"))
            if row["gpu"] != "B200-SXM" or not row["op"].startswith("sdp") or shape["seq_len"] != "4096":
                continue
            heads, kv_heads = int(shape["head_num"]), int(shape["kv_head_num"])
            width = (int(shape["qk_head_dim"]) + int(shape["v_head_dim"])) // 2
            backward = row["op"] == "sdp_bwd"
            whole = 4.0 * heads * 4096.0**2 * width * (2.5 if backward else 1.0)
            work = Work(
                OpKind.ATTENTION, "bf16", whole / 2, batch=1, q_len=4096, kv_len=2048.5, heads=heads,
                kv_heads=kv_heads, head_dim=width, causal=True, backward=backward,
            )  # fmt: skip
            found.append(Row(work, whole / (float(row["peak_tflops"]) * 1e12 * float(row["fraction_of_peak"]))))
    return found


def errors(device: DeviceCost, rows: list[Row]) -> str:
    size = [abs(device.price(r.work).seconds / r.seconds - 1) for r in rows]
    return f"{statistics.median(size):.0%}"


def compare(name: str, device: str, rows: list[Row]) -> None:
    accelerator = load_accelerator(device)
    with patch.object(attention, "attention_longest_block", lambda *_: 0.0):
        without = errors(DeviceCost(accelerator), rows)
    print(f"  {name:32s} {len(rows):4d} kernels, median error {errors(DeviceCost(accelerator), rows)}, "
          f"without the longest block {without}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    shared = parser.parse_args().shared
    for name, wave in WAVES.items():
        device = aiconfigurator.ACCELERATORS[name]
        accelerator = load_accelerator(device)
        share = accelerator.efficiency["attention_prefill.bf16.compute"].value
        rate = share * accelerator.peak_flops["bf16"] / accelerator.sm_count
        times = {
            length: statistics.median(
                r.seconds
                for r in prompts(name, "vllm")
                if r.work.q_len == length and r.work.batch * r.work.heads == wave // length
            )
            for length in LENGTHS
        }
        slope = statistics.linear_regression(list(times), list(times.values())).slope
        print(f"{device}: {slope * 1e9:.1f} ns per key, {slope * rate / 512:.0f} rows")
        for engine in ("vllm", "sglang", "trtllm"):
            compare(f"{engine}, at most {FEW} heads", device, prompts(name, engine))
    kernels = training_kernels(shared / "reference/training_peers/simumax/op_efficiency.csv")
    compare("SimuMax, 4 and 8 heads", "b200-sxm", [r for r in kernels if r.work.heads <= FEW])
    compare("SimuMax, 16 to 128 heads", "b200-sxm", [r for r in kernels if r.work.heads > FEW])


if __name__ == "__main__":
    main()
