"""Queues of jobs and failing replicas on the one clock, from scenarios."""

from __future__ import annotations

import math
from typing import Any

import pytest

import simulator
from simulator.errors import ConfigError

MIX = {"classes": {"a": {"share": 1, "sizes": {8: 3, 16: 1}, "run": {"law": "lognormal", "median": "1 h", "sigma": 1}}}}
QUEUE: dict[str, Any] = {"jobs": "lab", "mix": MIX, "rate": "4 /h", "count": 100, "nodes": 4, "queue": "backfill"}
CHAT: dict[str, Any] = {
    "serving": "chat",
    "model": "llama-3.1-8b",
    "framework": "vllm-0.10",
    "requests": {"rate": "4 /s", "count": 3000, "input_tokens": 500, "output_tokens": 500},
    "deployment": {"replicas": 3, "plan": {"tensor_parallel": 8}},
}


def scenario(*workloads: dict[str, Any], nodes: int = 4, **more: Any) -> dict[str, Any]:
    return {"seed": 2, "cluster": {"nodes": {"profile": "dgx-h100", "count": nodes}}, "workloads": [*workloads], **more}


def test_a_queue_accounts_for_every_accelerator_second() -> None:
    result = simulator.run(scenario(QUEUE))
    row, jobs = result.of("lab"), result.rows("jobs")
    assert result.undocumented() == []
    assert row["jobs_completed"] == row["jobs"] == len(jobs) == 100
    hours = sum(job["accelerators"] * job["run_time"] for job in jobs) / 3600
    assert row["accelerator_hours"] == pytest.approx(hours)
    assert sum(job["accelerator_hours"] for job in jobs) == pytest.approx(hours)
    assert sum(tenant["accelerator_hours"] for tenant in result.rows("tenants")) == pytest.approx(hours)
    assert row["utilization"] == pytest.approx(hours * 3600 / 32 / row["makespan"])
    assert all(job["finish"] - job["start"] == pytest.approx(job["run_time"]) for job in jobs)


def test_a_queue_beside_a_training_job_runs_as_it_does_alone() -> None:
    train = {
        "training": "tune", "model": "llama-3.1-8b", "framework": "megatron-core-0.8", "nodes": 1, "steps": 5,
        "batch": {"global_batch_size": 8, "sequence_length": 4096}, "plan": {"tensor_parallel": 8},
    }  # fmt: skip
    together = simulator.run(scenario(train, QUEUE, nodes=5)).rows("jobs")
    assert together == simulator.run(scenario(QUEUE)).rows("jobs")


def test_failures_cost_a_queue_its_work_since_the_last_checkpoint() -> None:
    failing = {"mtbf": "100 h", "detection": "1 min", "restart": "4 min", "repair": "10 min"}
    saved = simulator.run(scenario({**QUEUE, "checkpoint": "10 min"}, failures=failing)).of("lab")
    lost = simulator.run(scenario(QUEUE, failures=failing)).of("lab")
    for row in (saved, lost):
        assert row["jobs_completed"] == 100
        assert row["interruptions"] > 10
    calm = simulator.run(scenario(QUEUE)).of("lab")["accelerator_hours"]
    for row in (saved, lost):
        assert row["accelerator_hours"] - row["lost_accelerator_hours"] == pytest.approx(calm)
    # At most 10 min of work and 5 min of restart on at most 16 accelerators each time.
    assert saved["lost_accelerator_hours"] <= saved["interruptions"] * 16 * 15 / 60
    assert saved["lost_accelerator_hours"] < lost["lost_accelerator_hours"]


def test_spares_step_in_and_there_are_as_many_as_asked_for() -> None:
    failing = {"mtbf": "200 h", "repair": "1000 d", "detection": "1 s", "restart": "1 s"}
    work = {**QUEUE, "count": 20}
    rows = {
        spares: simulator.run(scenario(work, nodes=10, failures={**failing, "spares": spares}, until="60 h"))
        for spares in (0, 6)
    }
    there = {s: min(r["accelerators_available"] for r in rows[s].rows("resources")) for s in rows}
    assert there[0] < there[6]
    with pytest.raises(ConfigError, match="7 spare nodes, but 6 have no work"):
        simulator.load(scenario(work, nodes=10, failures={**failing, "spares": 7}))


def test_requests_of_failed_replicas_are_served_by_others_and_none_is_lost() -> None:
    failing = {"mtbf": "8 h", "detection": "5 s", "restart": "60 s", "repair": "3 min"}
    result = simulator.run(scenario(CHAT, nodes=3, failures=failing))
    row = result.of("chat")
    assert (row["requests"], row["unfinished"]) == (3000, 0)
    assert row["interruptions"] > 0
    assert row["restarts"] > 0
    failed = [e for e in result.rows("events") if e["event"] == "replica failed"]
    ready = [e for e in result.rows("events") if e["event"] == "replica ready"]
    assert len(failed) == row["interruptions"]
    # Repair (3 min), detection, restart, and then the weights.
    assert ready[0]["time"] - failed[0]["time"] > 180 + 5 + 60
    calm = simulator.run(scenario(CHAT, nodes=3)).of("chat")
    assert row["e2e_p99"] > calm["e2e_p99"]
    assert row["replicas_mean"] < 3


def test_a_queue_has_the_nodes_of_replicas_that_are_not_there() -> None:
    fleet = {
        "plan": {"tensor_parallel": 8},
        "autoscaling": {"policy": "hpa", "max_replicas": 3, "interval": "60 s", "options": {"target": 20}},
    }
    chat, lab = (
        {**CHAT, "deployment": fleet},
        {**QUEUE, "nodes": 1, "rate": "20 /h", "largest": 8, "preemption": "1 min"},
    )
    own = simulator.run(scenario(chat, lab, until="2 h")).of("lab")
    lent = simulator.run(scenario(chat, {**lab, "borrow": "chat"}, until="2 h"))
    row = lent.of("lab")
    assert row["accelerator_hours"] > 1.5 * own["accelerator_hours"]
    assert 0 < row["borrowed_accelerator_hours"] <= 2 * 16
    assert max(r["accelerators_available"] for r in lent.rows("resources") if r["resource"] == "queue") == 24
    assert lent.of("chat")["unfinished"] == 0
    with pytest.raises(ConfigError, match="keeps its replicas"):
        simulator.load(scenario(CHAT, {**lab, "borrow": "chat"}))


def test_what_cannot_be_is_named_with_its_place() -> None:
    bad = {**QUEUE, "tenants": {"a": 0.7, "b": 0.5}, "queue_options": {"reech": 3}, "nodes": 9}
    with pytest.raises(ConfigError) as caught:
        simulator.load(scenario(bad))
    text = str(caught.value)
    for words in ("quotas add up to 1.2", "unknown tenant 'b'", "unexpected keyword argument 'reech'", "9 nodes"):
        assert words in text
    with pytest.raises(ConfigError, match=r"job .* asks for 16 accelerators, the queue has 8"):
        simulator.load(scenario({**QUEUE, "nodes": 1}))
    with pytest.raises(ConfigError, match="needs one source of jobs"):
        simulator.load(scenario({k: v for k, v in QUEUE.items() if k != "mix"}))
    with pytest.raises(ConfigError, match="need an end"):
        simulator.load(scenario({k: v for k, v in QUEUE.items() if k != "count"}))
    with pytest.raises(ConfigError, match="does not resize jobs"):
        simulator.load(scenario({**QUEUE, "elastic": {"noise_scale": 1, "synchronisation": 0.1}}))
    with pytest.raises(ConfigError, match=r"above the quota of 0\.3"):
        simulator.load(scenario({**QUEUE, "tenants": {"a": 0.3}}))


def test_a_summary_keeps_the_state_of_queues_in_few_rows() -> None:
    many = {**QUEUE, "count": 6000, "rate": "60 /h", "largest": 8}
    result = simulator.run(scenario(many, record="summary"))
    assert "jobs" not in result.tables
    assert 1000 < len(result.rows("resources")) < 4097
    assert math.isfinite(result.of("lab")["wait_p99"])
