"""Quantiles of measured over predicted peak memory of training, over everything published with a peak.

Prints the quantiles that ``simulator/results/memory_error.py`` holds, and how many peaks of each source lie in the 80 %
interval of the other sources.

    python benchmarks/fits/memory_interval.py --shared ../shared
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from simulator.results.memory_error import CHANCES
from simulator.validation.run import validate

FILES = (
    "published_training.yaml",
    "training_peers/nanotron/h100_sweep_dev.csv",
    "training_peers/simumax/b200_steps_memory_dev.csv",
)
APART = "before the fix"
"""Rows that a bug of their framework slowed are kept apart, as in the validation."""


def measured_over_predicted(folder: Path) -> dict[str, list[float]]:
    """Ratios by source, one for each configuration."""
    seen: set[str] = set()
    found: dict[str, list[float]] = {}
    for row in validate([folder / name for name in FILES]).rows:
        if row.kind == "training_memory" and row.predicted == row.predicted and APART not in row.source:
            if row.configuration not in seen:
                found.setdefault(row.source, []).append(row.published / row.predicted)
            seen.add(row.configuration)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    ratios = measured_over_predicted(parser.parse_args().shared / "reference")
    together = np.concatenate(list(ratios.values()))
    found = zip(CHANCES, np.quantile(together, CHANCES), strict=True)
    print(f"{len(together)} configurations: " + ", ".join(f"{100 * c:.0f} % {q:.3f}" for c, q in found))
    for source, own in ratios.items():
        low, high = np.quantile(np.concatenate([v for k, v in ratios.items() if k != source]), (0.1, 0.9))
        inside = np.mean([low <= x <= high for x in own])
        print(f"{source}: {len(own)} configurations, {100 * inside:.0f} % in the interval of the others")


if __name__ == "__main__":
    main()
