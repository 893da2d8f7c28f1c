"""What a launch takes SGLang's host, and whether latent attention takes it more beside.

First tokens of few clients see the launches of one prompt; bursts see those of decodes beyond the captured graphs.
Every pair of ``host_per_launch`` and ``host_per_latent_layer`` is tried on both: GPUStack's runs (gpt-oss, whose first
tokens are starts inside the measured time, and pipelines left out) and every ``EVERY``-th run of DeepSeek-R1 of
InferenceX. Medians and signed medians of the errors are printed; the pair with the least sum of medians is chosen.

    python benchmarks/fits/sglang_launches.py --shared ../shared
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

PAIRS = ((30e-6, 1.2e-3), (60e-6, 0.5e-3), (80e-6, 0.0))
EVERY = 4
FIGURES = ("output_tokens_per_s", "ttft_mean", "tpot_mean")


def runs(path: Path, source: str) -> list[Case]:
    """Development runs of SGLang that are on the clock."""
    known = [c for c in read_file(path).cases if c.labels.source == source and c.labels.framework == "sglang-0.4"]
    odd = ("gpt-oss",)
    return [
        c for c in known
        if c.split == "dev" and c.subject.runner == "serving" and c.labels.grade != "C"
        and not c.labels.model.startswith(odd) and "pp" not in c.labels.strategy
    ]  # fmt: skip


def errors(cases: Sequence[Case], launch: float, latent: float) -> dict[str, list[float]]:
    """Relative errors by figure."""
    found: dict[str, list[float]] = {figure: [] for figure in FIGURES}
    for case in cases:
        deployment = case.subject.deployment
        assert deployment is not None
        engine, values = deployment.framework, {"host_per_launch": launch, "host_per_latent_layer": latent}
        moved = {k: Constant(f"{engine.name}.{k}", v, "s", 0.4, Trust.FITTED, "") for k, v in values.items()}
        engine = replace(engine, constants={**engine.constants, **moved})
        prediction, _ = run_serving(replace(case.subject, deployment=replace(deployment, framework=engine)))
        for measured in case.measured if prediction else ():
            if measured.quantity in found:
                found[measured.quantity].append(prediction[measured.quantity] / measured.value - 1)
    return {figure: values for figure, values in found.items() if values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    reference = parser.parse_args().shared / "reference"
    known = {
        "GPUStack": runs(reference / "published_serving.yaml", "gpustack"),
        "InferenceX": runs(reference / "serving_peers/inferencex_runs.csv.gz", "InferenceX")[::EVERY],
    }
    total = dict.fromkeys(PAIRS, 0.0)
    for pair in PAIRS:
        for source, cases in known.items():
            told = []
            for figure, found in errors(cases, *pair).items():
                middle = statistics.median(map(abs, found))
                total[pair] += middle
                told.append(f"{figure} {middle:.0%} ({statistics.median(found):+.0%}, {len(found)})")
            print(f"{pair[0] * 1e6:.0f} us, {pair[1] * 1e3:.1f} ms: {source} {'; '.join(told)}", flush=True)
    launch, latent = min(PAIRS, key=total.__getitem__)
    print(f"chosen: {launch * 1e6:.0f} us per launch, {latent * 1e3:.1f} ms per latent layer")


if __name__ == "__main__":
    main()
