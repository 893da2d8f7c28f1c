"""Host times of the serving engines of 2025-26, and how fast experts in fp4 are read where a device has no fp4 units.

From decode times of InferenceX: closed loops of 4 to 16 requests with answers of 8,192 tokens, where prompts hardly
disturb the decodes. What the published time per token has beyond the kernels that the simulator prices is the host
time of a step; its median over the runs of an engine is the constant. No run decides more than another.

1. vLLM of 2026 on gpt-oss-120b, B200 (fp4 units: nothing is unpacked);
2. with that host time, the share of the usual memory efficiency on H100 and H200 that brings the median to zero;
3. vLLM 0.10 with --async-scheduling on Llama-3.1-70B, TensorRT-LLM on all models of B200 and H200 in fp8 or with fp4
   units, SGLang on DeepSeek-R1.

    python benchmarks/fits/inferencex_decode.py --shared ../shared
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

from simulator.cost.kernels import UNPACKED_EXPERTS
from simulator.serving.iteration import ReplicaCost
from simulator.strategies.protocols import BatchShape
from simulator.validation.cases import Case
from simulator.validation.read import read_file

MOST, ANSWER = 16, 8192
MIDDLE = 0.9
"""Mean over stated length: lengths are uniform between 80 % of the stated ones and those."""


def decodes(cases: Iterable[Case]) -> list[Case]:
    """Runs of few requests with long answers, without speculation or data-parallel attention."""
    found = []
    for case in cases:
        deployment, load = case.subject.deployment, dict(case.subject.settings)
        assert deployment is not None
        plain = "speculation" not in dict(deployment.options) and deployment.plan.data_parallel == 1
        if plain and int(str(load["concurrency"])) <= MOST and float(str(load["osl"])) == ANSWER:
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


def unpacking(cases: list[Case], seconds: float) -> None:
    """Share of memory efficiency with which the kernels and ``seconds`` of host time match the runs in the median."""
    best = min((s / 100 for s in range(20, 101, 2)), key=lambda s: abs(_bias(cases, seconds, s)))
    print(
        f"unpacked experts: {best:.2f} of the usual memory efficiency; median |error| "
        f"{statistics.median(abs(e) for e in _errors(cases, seconds, best)):.0%}, at 1: "
        f"{statistics.median(abs(e) for e in _errors(cases, seconds, 1.0)):.0%} ({len(cases)} runs)"
    )


def _errors(cases: list[Case], seconds: float, share: float) -> list[float]:
    scale = {UNPACKED_EXPERTS.id: share / UNPACKED_EXPERTS.value}
    return [(k + seconds) / p - 1 for k, p in (times(case, scale) for case in cases)]


def _bias(cases: list[Case], seconds: float, share: float) -> float:
    return statistics.median(_errors(cases, seconds, share))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    path = parser.parse_args().shared / "reference/serving_peers/inferencex_runs.csv.gz"
    cases = [c for c in decodes(read_file(path).cases) if c.split == "dev"]

    def those(test: Callable[[str, str, str], bool]) -> list[Case]:
        return [c for c in cases if test(c.labels.framework, c.labels.model, c.labels.gpu)]

    def unpacks(case: Case) -> bool:
        return case.labels.precision == "fp4" and not case.labels.gpu.startswith("b200")

    latest = host("vllm-latest", those(lambda f, m, g: f == "vllm-latest" and g == "b200_sxm"))
    unpacking([c for c in those(lambda f, m, g: f == "vllm-latest") if unpacks(c)], latest)
    host("vllm-0.10-async", those(lambda f, m, g: f == "vllm-0.10-async"))
    host("tensorrt-llm-1.0", [c for c in those(lambda f, m, g: f == "tensorrt-llm-1.0") if not unpacks(c)])
    host("sglang-0.4", those(lambda f, m, g: f == "sglang-0.4"))


if __name__ == "__main__":
    main()
