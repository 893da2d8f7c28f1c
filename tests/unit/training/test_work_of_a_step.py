"""What pricing a step of many ranks does, counted: equal ranks once, an order once, prices that do not move once."""

from __future__ import annotations

from typing import Any

import pytest

import simulator
from simulator.training import memory, pipelined, update
from simulator.training.step import estimate_step


def counting(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[str]:
    calls, plain = list[str](), getattr(module, name)

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        return plain(*arguments, **options)

    monkeypatch.setattr(module, name, counted)
    return calls


def test_a_trillion_parameters_on_64_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = simulator.load("gpt-1t-selene")
    job = scenario.training[0]
    layouts, states = counting(monkeypatch, pipelined, "lay_out"), counting(monkeypatch, memory, "_resident")
    updates = counting(monkeypatch, pipelined, "optimizer_time")
    answer = estimate_step(job, scenario.cluster_of(job.name))
    assert job.plan.pipeline_parallel == 64
    assert answer.interval is not None
    assert len(layouts) == 1
    assert len(states) <= 3  # the first stage, the last, and those between
    # Three kinds of rank, alone and beside the pipeline, and the constants of an update up and down.
    moved = [name for name in answer.interval.sensitivity if name in update_constants(answer)]
    assert len(updates) <= 6 + 2 * len(moved)


def update_constants(answer: Any) -> frozenset[str]:
    pipeline = answer.details["pipeline"]
    found: frozenset[str] = update.optimizer_time(pipeline.chunks_of_rank[0], pipeline.pricer(0)).constants
    return found
