"""Host times of the serving engines of 2025-26, and how fast experts in fp4 are read where a device has no fp4 units.

From decode times of InferenceX: closed loops of 4 to 16 requests with answers of 8,192 tokens, where prompts hardly
disturb the decodes. What the published time per token has beyond the kernels that the simulator prices is the host
time of a step; its median over the runs of an engine is the constant. No run decides more than another.

1. vLLM of 2026 on gpt-oss-120b, B200 (fp4 units: nothing is unpacked); vLLM 0.10 with --async-scheduling on
   Llama-3.1-70B, TensorRT-LLM on all models of B200 and H200 in fp8 or with fp4 units, SGLang on DeepSeek-R1;
2. with these host times, how many bytes of fp4 experts a multiprocessor of H100 and H200 unpacks per clock, and what
   the kernels around such a GEMM take: prompts of 1,024 tokens, 4 to 64 requests, both engines.

    python benchmarks/fits/inferencex_decode.py --shared ../shared
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from simulator.cost.kernels import UNPACKED_EXPERT_BYTES, UNPACKED_EXPERT_START
from simulator.serving.iteration import ReplicaCost
from simulator.strategies.protocols import BatchShape
from simulator.validation.cases import Case
from simulator.validation.read import read_file

MOST, ANSWER = 16, 8192
MANY = 64
"""Requests up to which experts are unpacked at the rate of the weights, not of the arithmetic."""

MIDDLE = 0.9
"""Mean over stated length: lengths are uniform between 80 % of the stated ones and those."""


TENSORRT_LLM = ("tensorrt-llm-1.0", "tensorrt-llm-1.2")

RATES = (7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 14.0)
STARTS = (5e-6, 10e-6, 15e-6, 20e-6, 25e-6, 30e-6)


def decodes(cases: Iterable[Case], most: int = MOST, answers: Collection[int] = (ANSWER,)) -> list[Case]:
    """Runs of few requests with long answers, without speculation or data-parallel attention."""
    found = []
    for case in cases:
        deployment, load = case.subject.deployment, dict(case.subject.settings)
        assert deployment is not None
        plain = "speculation" not in dict(deployment.options) and deployment.plan.data_parallel == 1
        if plain and int(str(load["concurrency"])) <= most and float(str(load["osl"])) in answers:
            found.append(case)
    return found


def times(case: Case, scale: dict[str, float] | None = None) -> tuple[float, float]:
    """Seconds per token: kernels alone, and published."""
    deployment, load, cluster = case.subject.deployment, dict(case.subject.settings), case.subject.cluster
    assert deployment is not None and cluster is not None
    cost = ReplicaCost(
        deployment.model, deployment.plan, deployment.framework, cluster.groups[0].node, cluster.fabric,
        deployment.kv_dtype, deployment.max_num_batched_tokens, scale,
    )  # fmt: skip
    batch, context = int(str(load["concurrency"])), MIDDLE * (float(str(load["isl"])) + float(str(load["osl"])) / 2)
    kernels = sum(cost.device_times(BatchShape((), batch, int(batch * context), int(context))))
    return kernels, next(m.value for m in case.measured if m.kind == "serving_tpot")


def host(name: str, cases: list[Case]) -> float:
    """Median of what is beyond the kernels, printed with the errors that remain."""
    pairs = [times(case) for case in cases]
    seconds = max(0.0, statistics.median(published - kernels for kernels, published in pairs))
    with_it = statistics.median(abs((k + seconds) / p - 1) for k, p in pairs)
    without = statistics.median(abs(k / p - 1) for k, p in pairs)
    print(
        f"{name}: host_per_step {seconds * 1e3:.2f} ms; median |error| {with_it:.0%}, without host {without:.0%} "
        f"({len(pairs)} runs)"
    )
    return seconds


def unpacking(cases: list[Case], hosts: dict[str, float]) -> None:
    """Rate and start of GEMMs that unpack experts: the least mean over devices of the median absolute error, under the
    host times of the engines; then each device and engine under the best of the others."""
    grid = [(rate, start) for rate in RATES for start in STARTS]
    known = {pair: [_unpacked(c, hosts[c.labels.framework], *pair) for c in cases] for pair in grid}

    def error(pair: tuple[float, float], without: str = "", only: str = "") -> float:
        groups: dict[str, list[float]] = {}
        for case, e in zip(cases, known[pair], strict=True):
            name = f"{case.labels.framework} {case.labels.gpu}"
            if name != without and only in ("", name):
                groups.setdefault(name, []).append(abs(e))
        return statistics.fmean(statistics.median(g) for g in groups.values())

    best = min(grid, key=error)
    print(f"unpacked experts: {best[0]:.0f} B per multiprocessor and clock, {best[1] * 1e6:.0f} us; {error(best):.0%}")
    for name in sorted({f"{c.labels.framework} {c.labels.gpu}" for c in cases}):
        other = min(grid, key=lambda pair: error(pair, without=name))
        print(f"    without {name}: {other[0]:.0f} B, {other[1] * 1e6:.0f} us, its error {error(other, only=name):.0%}")


def _unpacked(case: Case, seconds: float, rate: float, start: float) -> float:
    known = (UNPACKED_EXPERT_BYTES, rate), (UNPACKED_EXPERT_START, start)
    kernels, published = times(case, {constant.id: value / constant.value for constant, value in known})
    return (kernels + seconds) / published - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    path = parser.parse_args().shared / "reference/serving_peers/inferencex_runs.csv.gz"
    known = [c for c in read_file(path).cases if c.split == "dev"]
    cases = decodes(known)

    def those(test: Callable[[str, str, str], bool]) -> list[Case]:
        return [c for c in cases if test(c.labels.framework, c.labels.model, c.labels.gpu)]

    def unpacks(case: Case) -> bool:
        return case.labels.precision == "fp4" and not case.labels.gpu.startswith("b200")

    latest = host("vllm-latest", those(lambda f, m, g: f == "vllm-latest" and g == "b200_sxm"))
    host("vllm-0.10-async", those(lambda f, m, g: f == "vllm-0.10-async"))
    trt = host("tensorrt-llm", [c for c in those(lambda f, m, g: f in TENSORRT_LLM) if not unpacks(c)])
    host("sglang-0.4", those(lambda f, m, g: f == "sglang-0.4"))
    many = [
        c
        for c in decodes(known, MANY, (1024, ANSWER))
        if unpacks(c) and int(float(str(c.subject.setting("isl")))) == 1024
    ]
    unpacking(many, {"vllm-latest": latest, **dict.fromkeys(TENSORRT_LLM, trt)})


if __name__ == "__main__":
    main()
