"""Every training strategy of the register is reached from a scenario file and answers in time, memory and traffic."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from simulator import registry
from simulator.results.estimate import Estimate
from simulator.scenario.load import load_scenario
from simulator.scenario.run import estimate_scenario, run_scenario

DENSE: dict[str, Any] = {
    "model": "gpt3-1.3b",
    "batch": {"global_batch_size": 64, "micro_batch_size": 1, "sequence_length": 1024},
}
MIXTURE: dict[str, Any] = {
    "model": "qwen3-30b-a3b",
    "batch": {"global_batch_size": 64, "micro_batch_size": 1, "sequence_length": 1024},
}
SWITCH = {**MIXTURE, "model": "llama4-scout"}  # one routed expert per token
UNTIED = {**DENSE, "model": "llama-3.1-8b"}  # embedding and head are two tables

CHUNKS = {
    "interleaved-1f1b": 2, "interleaved-1f1b-overlapped": 2, "breadth-first": 2, "hanayo": 2, "zb-v": 2, "v-half": 2,
    "v-min": 2, "wpipe": 2, "dualpipe-v": 2, "dualpipev": 2,
}  # fmt: skip
"""Schedules that want model chunks."""

OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("tensor", "summa-2d"): {"tensor_rows": 2},
    ("tensor", "tesseract-2.5d"): {"tensor_rows": 2, "tensor_depth": 4},
    ("tensor", "3d"): {"tensor_rows": 2, "tensor_depth": 4},
    ("sharding", "hsdp"): {"shard_group": 8},
    ("sharding", "mics"): {"shard_group": 8},
    ("sharding", "zero++"): {"secondary_group": 8},
    ("expert", "tutel"): {"expert_group": 2},
    ("expert", "node-limited"): {"expert_group": 4},
    ("recompute", "per-stage"): {"recomputed_layers": [6, 4, 2, 0]},
    ("communication", "local-steps"): {"local_steps": 4},
    ("communication", "diloco"): {"local_steps": 4},
    ("communication", "fedavg"): {"local_steps": 4},
}
TENSOR_DEGREE = {"summa-2d": 4, "tesseract-2.5d": 8, "3d": 8}
BATCH_ROWS = {"summa-2d": 2, "tesseract-2.5d": 4, "3d": 2}
ZERO_3 = ("fsdp", "hsdp", "mics", "zero++", "amsp", "paro")


def job_for(family: str, name: str) -> dict[str, Any]:
    """A training job whose plan names the strategy."""
    plan: dict[str, Any] = {"zero_stage": 1, "options": dict(OPTIONS.get((family, name), {}))}
    job = copy.deepcopy(MIXTURE if family == "expert" or name == "lina" else DENSE)
    if family == "pipeline":
        plan |= {"pipeline_parallel": 4, "schedule": name, "virtual_stages": CHUNKS.get(name, 1)}
    elif family == "tensor":
        plan |= {"tensor": name, "tensor_parallel": TENSOR_DEGREE.get(name, 4)}
        job["batch"]["micro_batch_size"] = BATCH_ROWS.get(name, 2)
    elif family == "context":
        plan |= {"context": name, "context_parallel": 4}
    elif family == "expert":
        job = copy.deepcopy(SWITCH if name == "switch" else job)
        plan |= {"expert": name, "expert_parallel": 8, "recompute": "full", "tensor_parallel": 2}
        if name == "switch":
            plan |= {"expert_parallel": 4, "tensor_parallel": 8}
    elif family == "communication":
        job = copy.deepcopy(UNTIED) if name == "embrace" else job
        plan |= {"communication": name, "zero_stage": 0, "tensor_parallel": 8 if name == "embrace" else 1}
        if name in ("optimus-cc", "cross-mesh-resharding"):
            plan |= {"pipeline_parallel": 4, "tensor_parallel": 2}
        if name == "lina":
            plan |= {"expert_parallel": 8, "zero_stage": 1, "recompute": "full", "tensor_parallel": 2}
    elif family == "sharding":
        plan |= {"sharding": name, "zero_stage": 3 if name in ZERO_3 else 1}
    elif family == "offload":
        plan |= {"offload": name, "zero_stage": 3 if name == "zero-infinity" else 1}
        if name in ("mobius", "mpress"):
            plan |= {"pipeline_parallel": 4}
        if name == "mobius":
            plan |= {"schedule": "breadth-first", "virtual_stages": 2}
    elif family == "rollout":
        job["rollout"] = {"method": name, "framework": "vllm-0.10", "prompt_tokens": 256, "response_tokens": 256}
    else:  # recompute, precision, peft
        plan |= {family: name, "pipeline_parallel": 4 if name == "per-stage" else 1}
    return {**job, "plan": plan}


def everything() -> list[tuple[str, str]]:
    """Passes, schedules and policies of training; planners are searches, not plans."""
    found = [(r.family, r.name) for r in registry.strategies(area="training") if r.kind != "planner"]
    assert len(found) > 100
    return found


@pytest.mark.parametrize(("family", "name"), everything())
def test_reached_and_answered_in_three_currencies(
    tmp_path: Path, family: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulator.training.step.step_interval", lambda *_: None)  # it prices each job thirty times
    document = {
        "cluster": {"nodes": {"profile": "dgx-h100", "count": 4}},
        "workloads": [{"training": "job", "framework": "megatron-core-0.8", **job_for(family, name)}],
    }
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    scenario = load_scenario(path)
    result = estimate_scenario(scenario)
    answer = result.details["job"]
    assert isinstance(answer, Estimate)
    assert answer.feasible, answer.reason
    row = result.rows("summary")[0]
    assert row["seconds"] >= row["floor_seconds"] > 0
    assert sum(r["seconds"] for r in result.rows("time")) == pytest.approx(row["seconds"])
    peak = max(s.peak for s in answer.memory.stages if s.tier == "hbm")
    held = [r for r in result.rows("memory") if r["tier"] == "hbm"]
    assert (
        0
        < row["memory_peak"]
        <= peak
        == max(sum(r["bytes"] for r in held if r["stage"] == stage) for stage in {r["stage"] for r in held})
    )
    assert {r["link"] for r in result.rows("traffic")} >= {"hbm"}
    assert all(r["bytes"] >= 0 for r in result.rows("traffic"))
    ran = run_scenario(scenario)  # the same on the clock, as `fmsim run` prints it
    assert ran.undocumented() == []
    for table in ("time", "memory", "traffic"):
        assert ran.rows(table) == result.rows(table)


def test_what_costs_quality_says_so() -> None:
    """A strategy that changes what is computed has a note; those that only move work have none."""
    from simulator.strategies.compile import plan_notes
    from simulator.workload.plan import Plan

    lossy = ("1-bit-adam", "0/1-adam", "1-bit-lamb", "top-k", "cocktail-sgd", "optimus-cc", "diloco", "local-steps",
             "fedavg")  # fmt: skip
    for name in lossy:
        assert plan_notes(Plan(data_parallel=8, pipeline_parallel=2).with_(communication=name, local_steps=4)), name
    for record in registry.strategies(area="training", family="pipeline"):
        traits = registry.lookup("pipeline", record.name)().traits()
        if not traits.flush:
            assert plan_notes(Plan(pipeline_parallel=4, schedule=record.name)), record.name
    assert not plan_notes(Plan(data_parallel=8, pipeline_parallel=2, zero_stage=1))
