"""What an A100 draws at work, per operation and per byte, from readings while it served (Splitwise).

Each reading of Llama-2-70B and BLOOM-176B on two to eight A100 (shares of 400 W, Mutinifni/splitwise-sim
data/perf_model.csv) has a peak, which is that of the prompts or of the tokens, and a mean over both. FLOPs and bytes
come from the simulator, the times they took from the same records, so that no predicted time enters. The three terms
of simulator/hardware/power_profile.py minimise the mean absolute log error; batches of more than two prompts are shown
and not fitted, their prompts take up to twice the time of the same prompts alone and nobody says why. Three means of
prompts of 8,192 tokens are below what the card draws without work at that load; they stay in.

    python benchmarks/fits/power_terms.py --shared ../shared
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from simulator.hardware.profiles import load_accelerator
from simulator.hardware.types import PowerProfile
from simulator.serving.estimate import replica_cost
from simulator.serving.iteration import ReplicaCost
from simulator.strategies.protocols import BatchShape
from simulator.validation.read import read_file

DEVICE = "a100-sxm-80gb"
FEW = 2


class Phase(NamedTuple):
    """Shares of peak FLOP/s and of bandwidth in use, and how long."""

    compute: float
    memory: float
    seconds: float


class Reading(NamedTuple):
    """One run: its prompts, its tokens, and what was read as shares of the peak."""

    model: str
    ranks: int
    batch: int
    prompts: Phase
    tokens: Phase
    peak: float
    mean: float


def readings(path: Path) -> Iterator[Reading]:
    device = load_accelerator(DEVICE)
    for case in read_file(path).cases:
        read = {m.quantity: m.value for m in case.measured}
        deployment, cluster = case.subject.deployment, case.subject.cluster
        if "power_peak" not in read or case.labels.source != "splitwise" or deployment is None or cluster is None:
            continue
        cost = replica_cost(deployment, cluster)
        assert isinstance(cost, ReplicaCost)
        batch, prompt, output = (int(float(str(case.subject.setting(k)))) for k in ("batch", "isl", "osl"))
        context = prompt + output / 2

        def phase(shape: BatchShape, seconds: float, steps: int, cost: ReplicaCost = cost) -> Phase:
            compute = cost.flops(shape) / seconds / device.rate(cost.plan.precision)
            return Phase(compute, cost.traffic(shape)["hbm"] / seconds / device.memory_bandwidth, steps * seconds)

        prompts = phase(BatchShape(((prompt, 0),) * batch, 0, 0), read["prefill"], 1)
        tokens = phase(BatchShape((), batch, int(batch * context)), read["token"], output - 1)
        yield Reading(deployment.model.name, deployment.plan.tensor_parallel, batch, prompts, tokens,
                      read["power_peak"], read["power_mean"])  # fmt: skip


def errors(chosen: Sequence[Reading], terms: Sequence[float]) -> np.ndarray:
    """Log of predicted over read, of peaks and means."""
    power = load_accelerator(DEVICE).power
    room = (power.peak - power.idle) / power.peak

    def draw(phase: Phase) -> float:
        active, compute, memory = terms
        return power.idle / power.peak + room * min(1.0, active + compute * phase.compute + memory * phase.memory)

    found = []
    for r in chosen:
        first, later = draw(r.prompts), draw(r.tokens)
        mean = np.average([first, later], weights=[r.prompts.seconds, r.tokens.seconds])
        found += [np.log(max(first, later) / r.peak), np.log(mean / r.mean)]
    return np.array(found)


def fit(chosen: Sequence[Reading]) -> PowerProfile:
    """The terms [W]."""
    power = load_accelerator(DEVICE).power
    starts = ([0.16, 0.8, 1.2], [0.2, 1.5, 0.5], [0.05, 1.0, 1.0])
    found = min((minimize(lambda t: float(np.abs(errors(chosen, t)).mean()), s, method="Nelder-Mead") for s in starts),
                key=lambda r: float(r.fun))  # fmt: skip
    return PowerProfile(power.idle, power.peak, *((power.peak - power.idle) * found.x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    everything = list(readings(parser.parse_args().shared / "reference/published_serving.yaml"))
    few = [r for r in everything if r.batch <= FEW]
    device = load_accelerator(DEVICE)
    for name, out in (("all", ()), ("without 2 ranks", (2,)), ("without 4 ranks", (4,)), ("without 8 ranks", (8,))):
        power = fit([r for r in few if r.ranks not in out])
        scored = [r for r in everything if not out or r.ranks in out]
        size = np.abs(np.expm1(errors(scored, power.shares)))
        per_flop, per_byte = power.compute / device.rate("bf16"), power.memory / device.memory_bandwidth
        print(f"{name}: active {power.active:.0f} W, compute {power.compute:.0f} W ({per_flop * 1e12:.2f} pJ/FLOP), "
              f"memory {power.memory:.0f} W ({per_byte * 1e12:.0f} pJ/B); |error| median {np.median(size):.1%}, "
              f"p90 {np.quantile(size, 0.9):.1%} on {len(size)} readings")  # fmt: skip


if __name__ == "__main__":
    main()
