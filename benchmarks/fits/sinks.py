"""How much slower prompts with attention sinks are where FlashAttention has none.

Before Hopper vLLM runs gpt-oss by its unified Triton kernel. From GPUStack's A100 runs of vLLM 0.11 with a hundred
prompts of 32,000 tokens, where attention is most of the time: ``attention.triton_sinks`` minimises the median absolute
error of their durations on a grid. Printed beside it: the share with each model left out, and what it gives for a run
of the same pages that is not among the fitted, 500 prompts of 4,000 tokens (``CHECKS``).

    python benchmarks/fits/sinks.py --shared ../shared
"""

from __future__ import annotations

import argparse
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from simulator.cost import attention
from simulator.validation.cases import Case
from simulator.validation.read import read_file
from simulator.validation.serving_runs import run_serving

SHARES = (0.06, 0.08, 0.10, 0.12, 0.14, 0.16, 0.18, 0.20, 0.25, 0.3, 1.0)
LONG, CHECK = 32_000, "check "
MODELS = ("gpt-oss-20b", "gpt-oss-120b")
CHECKS = {"gpt-oss-120b": (3998.5, 134.5, 269.39)}
"""Mean prompt and answer [tokens], duration [s] of 500 requests at once: docs/performance-lab/gpt-oss-120b/a100.md."""


def runs_of(path: Path) -> list[Case]:
    """The runs with long prompts."""
    cases = read_file(path).cases
    return [
        c for c in cases
        if c.labels.source == "gpustack" and "a100" in c.labels.gpu and "gpt-oss" in c.labels.model
        and "vllm" in c.labels.framework and c.subject.setting("isl") == LONG
    ]  # fmt: skip


def errors(path: Path, share: float) -> dict[str, float]:
    """Relative error of every run's duration, and of the checks. Prices are kept by the process: each share has its
    own."""
    attention.TRITON_SINKS = replace(attention.TRITON_SINKS, value=share)
    found = {}
    for case in (runs := runs_of(path)):
        published = next(m.value for m in case.measured if m.quantity == "duration")
        found[case.id] = run_serving(case.subject)[0]["duration"] / published - 1
    for model, (prompt, answer, duration) in CHECKS.items():
        case = next(c for c in runs if c.labels.model == model)
        found[CHECK + model] = run_serving(shorter(case, prompt, answer).subject)[0]["duration"] / duration - 1
    return found


def spread(found: dict[str, float], without: str = "") -> float:
    """Median absolute error of the runs that are fitted."""
    return statistics.median(abs(e) for i, e in found.items() if CHECK not in i and not (without and without in i))


def shorter(case: Case, prompt: float, answer: float) -> Case:
    """The same launch under 500 requests of these lengths."""
    told = {**dict(case.subject.settings), "count": 500, "isl": prompt, "osl": answer}
    return replace(case, subject=replace(case.subject, settings=tuple(sorted(told.items()))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    path = parser.parse_args().shared / "reference/published_serving.yaml"
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        known = dict(zip(SHARES, pool.map(partial(errors, path), SHARES), strict=True))
    best = min(SHARES, key=lambda s: spread(known[s]))
    print(f"{best:.2f} of FlashAttention-2's rate, median {spread(known[best]):.1%}")
    for model in MODELS:
        other = min(SHARES, key=lambda s: spread(known[s], model))
        left = [e for i, e in known[other].items() if model in i and CHECK not in i]
        print(f"    without {model}: {other:.2f}, its runs {', '.join(f'{e:+.0%}' for e in left)}")
    for share in (1.0, best):
        told = [f"{i.removeprefix(CHECK)} {e:+.0%}" for i, e in known[share].items() if CHECK in i]
        print(f"    prompts of 4,000 tokens, share {share:.2f}: {', '.join(told)}")


if __name__ == "__main__":
    main()
