"""What widening weights costs: GEMMs in 16 bits whose weights are stored in fp8 or int4.

Small batches read the weights and gain; large ones multiply, and unpacking competes with that for the multiprocessor.
From GPUStack's A100 runs of vLLM 0.11 (Marlin kernels): a thousand ShareGPT requests at once, and a hundred prompts of
32,000 tokens. ``gemm_share_unpacked`` minimises the median absolute error of their durations on a grid. What these runs
share with those in 16 bits (host, front end) is not fitted here, so the same runs in bf16 are printed beside.

    python benchmarks/fits/weight_only.py --shared ../shared
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from simulator.constants import Constant, Trust
from simulator.validation.cases import Case
from simulator.validation.read import read_file
from simulator.validation.serving_runs import run_serving

SHARES = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0)
WEIGHT_ONLY = ("fp8-weight-only", "int4")


def errors(cases: Sequence[Case], share: float) -> dict[str, float]:
    """Relative error of every run's duration."""
    found = {}
    for case in cases:
        deployment = case.subject.deployment
        assert deployment is not None
        engine = deployment.framework
        own = Constant(f"{engine.name}.gemm_share_unpacked", share, "", 0.3, Trust.FITTED, "")
        engine = replace(engine, constants={**engine.constants, "gemm_share_unpacked": own})
        prediction, reason = run_serving(replace(case.subject, deployment=replace(deployment, framework=engine)))
        if not reason:
            found[case.id] = (
                prediction["duration"] / next(m.value for m in case.measured if m.quantity == "duration") - 1
            )
    return found


def spread(found: dict[str, float]) -> float:
    """Median absolute error."""
    return statistics.median(map(abs, found.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    cases = read_file(parser.parse_args().shared / "reference/published_serving.yaml").cases
    runs = [
        c for c in cases if c.labels.source == "gpustack" and "a100" in c.labels.gpu and "vllm" in c.labels.framework
    ]
    narrow = [c for c in runs if c.labels.precision in WEIGHT_ONLY]
    models = sorted({c.labels.model for c in narrow})
    known = {share: errors(narrow, share) for share in SHARES}
    best = min(SHARES, key=lambda s: spread(known[s]))
    for share in SHARES:
        print(f"share {share:.2f}: median |error| {spread(known[share]):.0%} of {len(narrow)} durations")
    print(f"gemm_share_unpacked {best}")
    for model in models:
        of = {c.id for c in narrow if c.labels.model == model}
        without = min(SHARES, key=lambda s: spread({k: e for k, e in known[s].items() if k not in of}))
        mine = spread({k: e for k, e in known[without].items() if k in of})
        print(f"    without {model}: {without}, its error {mine:.0%} ({len(of)} runs)")
    wide = errors([c for c in runs if c.labels.precision == "bf16" and c.labels.model in models], best)
    print("in bf16: " + ", ".join(f"{name} {error:+.0%}" for name, error in wide.items()))


if __name__ == "__main__":
    main()
