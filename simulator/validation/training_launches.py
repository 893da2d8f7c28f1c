"""What the scripts that launched published training runs say and the records made of their results do not.

``training_launches.csv``: words in the name of a source, the parallelism that a run must have for the row to apply, an
option of the plan, its value, and where that stands. Each row is a word of a launch script and holds for every run of
the source; none is about one run.
"""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

from simulator.workload.plan import Plan

__all__ = ["with_launch_options"]


@cache
def _known() -> tuple[dict[str, str], ...]:
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def with_launch_options(plan: Plan, source: str) -> tuple[Plan, list[str]]:
    """The plan with what the scripts of its source ask for beside it, and what was taken from them, in words."""
    found, words = dict(plan.options), list[str]()
    for row in _known():
        if not re.search(row["source"], source, re.IGNORECASE) or getattr(plan, row["asks"]) == 1:
            continue
        value = row["value"]
        found[row["option"]] = int(value) if value.isdigit() else value
        words.append(f"{row['option']} {value}: {row['where']}")
    return replace(plan, options=tuple(sorted(found.items()))), words
