"""A plan that does not fit, and the plan that is named instead: it fits, and with less it would not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from simulator.cluster.rollout import estimate_job
from simulator.training.nearest import nearest_fit
from simulator.training.step import estimate_step
from simulator.workload.jobs import TrainingJob
from simulator.workload.plan import Plan
from tests.unit.strategies.training_cases import cluster, job


def changed(plan: Plan, words: str) -> Plan:
    """The plan with the changes that the words name."""
    values: dict[str, Any] = {}
    for pair in words.split(", "):
        name, value = pair.split()
        values[name] = {"true": True, "false": False}.get(value, int(value) if value.isdigit() else value)
    return plan.with_(**values)


@pytest.mark.parametrize(
    ("model", "plan"),
    [
        ("gpt3-13b", Plan(data_parallel=16)),
        ("gpt3-13b", Plan(tensor_parallel=2, data_parallel=8)),
        ("gpt3-13b", Plan(pipeline_parallel=2, data_parallel=8)),
    ],
)
def test_the_named_plan_fits_and_needs_every_change(model: str, plan: Plan) -> None:
    asked = job(plan, name=model)
    assert not estimate_step(asked, cluster(), with_interval=False).feasible
    words = nearest_fit(asked, cluster())
    assert words
    there = changed(plan, words)
    assert estimate_step(replace(asked, plan=there), cluster(), with_interval=False).feasible
    assert f"the nearest plan that fits: {words}" in estimate_job(asked, cluster()).reason
    groups = [w for w in words.split(", ") if not w.startswith("data_parallel")]
    for left_out in groups if len(groups) > 1 else []:
        rest = ", ".join(w for w in words.split(", ") if w != left_out)
        if "parallel" in left_out:  # a wider axis comes with its share of data_parallel
            continue
        assert not estimate_step(replace(asked, plan=changed(plan, rest)), cluster(), with_interval=False).feasible


def test_what_fits_nowhere_names_nothing() -> None:
    assert not nearest_fit(job(Plan(data_parallel=16), name="gpt3-175b"), cluster(1))


def test_micro_batches_are_halved_until_they_fit() -> None:
    """The largest of 64, 32, 16 ... that the run itself says fits."""
    plan = Plan(tensor_parallel=2, sequence_parallel=True, data_parallel=8, zero_stage=1)

    def run(size: int) -> TrainingJob:
        asked = job(plan, name="gpt3-13b", batch=512)
        return replace(asked, batch=replace(asked.batch, micro_batch_size=size))

    fitting = [s for s in (64, 32, 16, 8, 4, 2, 1) if estimate_step(run(s), cluster(), with_interval=False).feasible]
    assert 1 < fitting[0] < 64
    assert nearest_fit(run(64), cluster()) == f"micro_batch_size {fitting[0]}"
