"""What keeps vLLM's server busy per request, what only takes time, and what a chat template costs.

A few clients do not tell work from waiting: a request alone needs both. A burst does: work of a thousand requests adds
up, waiting does not. So

1. ``front_end_per_request`` w and ``front_end_latency`` l are taken together from bursts that no template is rendered
   for (gpt-oss, whose messages vLLM encodes itself: GPUStack) and from every ``EVERY``-th run of up to 128 clients that
   send text (InferenceX), both with the same weight;
2. ``front_end_per_chat`` c from bursts of models with a template (GPUStack), by version of vLLM: the smallest
   whose mean absolute error, models with the same weight, is within half a point of the best (8 and 10 ms have 12.1 %,
   their 90th percentiles over runs are 48 and 68 %). One source; the value with each model left out is printed.

The work is that of a host of speed 1, whose threads do it (``host_speed`` of a node). The first pair minimises the
median absolute error of the mean time to first token on a grid.

    python benchmarks/fits/front_end.py --shared ../shared
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from simulator.validation.cases import Case
from simulator.validation.read import read_file
from simulator.validation.trials import first_token_errors, published_first

MANY, EVERY, BURST = 128, 8, 900
WORK, LATENCY = (0.001, 0.002, 0.003, 0.004), (0.004, 0.006, 0.008, 0.010, 0.012, 0.014)
ALIKE = 0.005
CHAT = (0.0, 0.002, 0.004, 0.006, 0.008, 0.010, 0.012)

Errors = list[tuple[str, float]]


def spread(found: Errors, without: str = "") -> float:
    """Median absolute error."""
    return statistics.median(abs(e) for model, e in found if model != without)


def of_vllm(path: Path, source: str) -> list[Case]:
    """Development runs of the source on vLLM that publish a mean time to first token."""
    known = [c for c in read_file(path).cases if c.labels.source == source and published_first(c)]
    return [c for c in known if "vllm" in c.labels.framework]


def clients(case: Case) -> int:
    """Requests that are there at once."""
    load = dict(case.subject.settings)
    return int(str(load["concurrency"])) or int(str(load["count"]))


def server(work: float, latency: float, chat: float = 0.0) -> dict[str, float]:
    """Constants of the process in front [s]."""
    return {"front_end_per_request": work, "front_end_latency": latency, "front_end_per_chat": chat}


def work_and_latency(bursts: Sequence[Case], text: Sequence[Case]) -> tuple[float, float]:
    """The pair that fits bursts without a template and text alike."""
    best: Mapping[tuple[float, float], float] = {
        (work, latency): sum(spread(first_token_errors(c, server(work, latency))) for c in (bursts, text))
        for work in WORK
        for latency in LATENCY
    }
    for (work, latency), both in sorted(best.items(), key=lambda item: item[1])[:4]:
        print(f"    {work * 1e3:.0f} ms of work, {latency * 1e3:.0f} ms of waiting: medians together {both:.1%}")
    return min(best, key=best.__getitem__)


def smallest(tried: Mapping[float, Errors], without: str = "") -> float:
    """The smallest value whose mean absolute error is as good as the best, models with the same weight."""

    def mean(found: Errors) -> float:
        models = {model for model, _ in found} - {without}
        return statistics.fmean(statistics.fmean(abs(e) for m, e in found if m == model) for model in models)

    means = {c: mean(found) for c, found in tried.items()}
    return min(c for c in means if means[c] < min(means.values()) + ALIKE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    reference = parser.parse_args().shared / "reference"
    text = of_vllm(reference / "serving_peers/inferencex_runs.csv.gz", "InferenceX")
    text = [c for c in text if clients(c) <= MANY][::EVERY]
    chats = [c for c in of_vllm(reference / "published_serving.yaml", "gpustack") if clients(c) >= BURST]
    plain = [c for c in chats if c.subject.deployment and not c.subject.deployment.renders_chats]
    print(f"{len(plain)} bursts without a template, {len(text)} runs of text", flush=True)
    work, latency = work_and_latency(plain, text)
    for name, presets in {"0.10": ("vllm-0.10", "vllm-0.10-async"), "latest": ("vllm-latest",)}.items():
        mine = [c for c in chats if c not in plain and c.labels.framework in presets and "910b" not in c.labels.gpu]
        tried = {c: first_token_errors(mine, server(work, latency, c)) for c in CHAT}
        chat = smallest(tried)
        print(
            f"vllm {name}: {chat * 1e3:.0f} ms per chat, median {spread(tried[chat]):.1%} ({len(mine)} runs)",
            flush=True,
        )
        models = sorted({c.labels.model for c in mine})
        for model in models if len(models) > 1 else ():
            other = smallest(tried, model)
            print(f"    without {model}: {other * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
