"""Which H100 stood behind the pages of GPUStack that say "NVIDIA H100 GPUs" and no more.

The card differs from the SXM part by its memory (2.0 for 3.35 TB/s), its power (350 for 700 W) and what joins it (PCIe
for NVLink). Every development run of a page is predicted on both; nothing is fitted. A page whose runs agree on one of
them, over engines, number formats and loads, was measured there. The duration decides, since it is in all of them.

    python benchmarks/fits/which_card.py --shared ../shared
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from simulator.validation.cases import Case
from simulator.validation.hardware import cluster_of
from simulator.validation.read import read_file
from simulator.validation.serving_runs import run_serving

CARDS = ("h100_sxm", "h100_pcie")


def error(case: Case, card: str) -> float | None:
    """Relative error of the duration were the run measured on ``card``; ``None`` where it does not fit there."""
    deployment = case.subject.deployment
    assert deployment is not None
    cluster, _ = cluster_of(card, deployment.plan.accelerators * deployment.replicas)
    prediction, _ = run_serving(replace(case.subject, cluster=cluster))
    published = next((m.value for m in case.measured if m.quantity == "duration"), 0.0)
    return prediction["duration"] / published - 1 if prediction and published else None


def show(page: str, runs: Sequence[Case]) -> None:
    """Median, least and greatest error of a page's runs on either card."""
    told = []
    for card in CARDS:
        found = [e for case in runs if (e := error(case, card)) is not None]
        middle = statistics.median(map(abs, found))
        told.append(f"{card} {middle:6.1%} ({min(found):+5.0%} to {max(found):+5.0%}, {len(found)} runs)")
    print(f"{page:18} {'; '.join(told)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    cases = read_file(parser.parse_args().shared / "reference/published_serving.yaml").cases
    known = [c for c in cases if c.labels.source == "gpustack" and c.labels.gpu in CARDS and c.split == "dev"]
    for page in dict.fromkeys(c.labels.model for c in known):
        show(page, [c for c in known if c.labels.model == page])


if __name__ == "__main__":
    main()
