"""Every shipped scenario runs, keeps its roofline floor, and predicts what it predicted before.

The golden summaries are not truth, they are memory: a change that moves predictions fails here and prints which moved
and by how much. When the move is meant, write them again with ``python tests/golden/test_scenarios.py`` and say why in
the commit.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import simulator
from simulator.data import names
from simulator.results.tables import Result

FOLDER = Path(__file__).parent / "summaries"
SCENARIOS = [name for name in names("scenarios") if name != "template"]
SHORTER = {"shared-week": ("until=6 h", "workloads.chat.requests.duration=6 h")}
"""A week of requests takes half a minute; its first hours run through the same code."""
TOLERANCE = 1e-6
SHOWN = (
    "seconds",
    "seconds_low",
    "seconds_high",
    "floor_seconds",
    "mfu",
    "hfu",
    "bubble_over_total",
    "exposed_communication",
    "memory_peak",
    "requests",
    "rejected",
    "duration",
    "output_tokens_per_s",
    "ttft_median",
    "ttft_p90",
    "tpot_median",
    "tpot_p90",
    "itl_p99",
    "e2e_p90",
    "kv_capacity_tokens",
    "kv_occupancy_mean",
    "slo_attainment",
    "slo_goodput",
    "effective_time_ratio",
    "energy_per_token",
    "usd_per_million_tokens",
)


@cache
def run(name: str) -> Result:
    return simulator.run(simulator.load(name, SHORTER.get(name, ())))


def summary(result: Result) -> dict[str, dict[str, Any]]:
    """The figures people compare, by workload."""
    found = {}
    for row in result.rows("summary"):
        kept = {
            key: float(row[key]) for key in SHOWN if isinstance(row.get(key), int | float) and math.isfinite(row[key])
        }
        found[row["workload"]] = {"feasible": bool(row["feasible"]), "plan": row["plan"], **kept}
    return found


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_prediction_is_below_its_roofline(name: str) -> None:
    for row in run(name).rows("summary"):
        if row["feasible"] and row["kind"] != "jobs":
            assert row["seconds"] >= row["floor_seconds"] * (1 - 1e-12), row["workload"]
            assert row["seconds_low"] <= row["seconds"] <= row["seconds_high"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_columns_are_defined_and_tables_consistent(name: str) -> None:
    result = run(name)
    assert result.undocumented() == []
    for row in result.rows("summary"):
        mine = [r for r in result.rows("time") if r["workload"] == row["workload"]]
        if row["feasible"] and row["kind"] == "training":
            assert sum(r["seconds"] for r in mine) == pytest.approx(row["seconds"], rel=1e-9)


@pytest.mark.parametrize("name", SCENARIOS)
def test_predictions_have_not_moved(name: str) -> None:
    path = FOLDER / f"{name}.json"
    assert path.is_file(), f"no golden summary of '{name}': python {Path(__file__).name}"
    before, now = json.loads(path.read_text(encoding="utf-8")), summary(run(name))
    moved = []
    for workload in sorted(before.keys() | now.keys()):
        old, new = before.get(workload, {}), now.get(workload, {})
        for key in sorted(old.keys() | new.keys()):
            a, b = old.get(key), new.get(key)
            if isinstance(a, float) and isinstance(b, float):
                if not math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-12):
                    moved.append(
                        f"{workload}.{key}: {a:.6g} → {b:.6g} ({b / a - 1:+.2%})"
                        if a
                        else f"{workload}.{key}: 0 → {b:.6g}"
                    )
            elif a != b:
                moved.append(f"{workload}.{key}: {a} → {b}")
    assert not moved, f"{len(moved)} predictions of '{name}' moved:\n" + "\n".join(moved)


def write() -> None:
    """Write every golden summary again."""
    FOLDER.mkdir(exist_ok=True)
    for name in SCENARIOS:
        text = json.dumps(summary(run(name)), indent=1, sort_keys=True)
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        print(name)


if __name__ == "__main__":
    write()
