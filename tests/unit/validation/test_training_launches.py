"""What launch scripts say of whole sources, not of runs."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from simulator.registry import record_of
from simulator.strategies.compile import passes_of
from simulator.validation import training_launches
from simulator.validation.training_launches import with_launch_options
from simulator.workload.plan import Plan


def test_simumax_exchanged_heads_and_padded_experts() -> None:
    plan, words = with_launch_options(Plan(context_parallel=8), "SimuMax B200 release v1.2 (real column)")
    assert dict(plan.options) == {"context": "ulysses"}
    assert len(words) == 1 and "cp_comm_type a2a" in words[0]
    plan, words = with_launch_options(Plan(expert_parallel=8, data_parallel=8), "SimuMax B200")
    assert dict(plan.options) == {"expert": "gshard", "capacity_factor": 1}
    assert len(words) == 2


@pytest.mark.parametrize("source", ["Megatron-MoE-ModelZoo", "nanotron sweep", ""])
def test_other_sources_and_parallelisms_are_left_alone(source: str) -> None:
    plan = Plan(context_parallel=2, expert_parallel=4, data_parallel=4)
    assert with_launch_options(plan, source) == (plan, [])
    dense = Plan(tensor_parallel=8)
    assert with_launch_options(dense, "SimuMax B200") == (dense, [])


def test_every_row_names_a_parallelism_a_strategy_and_its_script() -> None:
    path = Path(training_launches.__file__).with_suffix(".csv")
    for row in csv.DictReader(path.open(encoding="utf-8", newline="")):
        plan, _ = with_launch_options(Plan(**{row["asks"]: 2}), row["source"])
        assert "@" in row["where"] and str(dict(plan.options)[row["option"]]) == row["value"]
        if row["option"] in ("context", "expert"):
            assert row["value"] in {record_of(type(step)).name for step in passes_of(plan)}
