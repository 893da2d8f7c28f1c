"""A pool of unlike nodes is divided into groups that run; with one kind of node it is the known best."""

from __future__ import annotations

from typing import Any

import pytest

import simulator
from simulator.errors import ConfigError
from simulator.scenario.recommend import recommend
from simulator.scenario.sweep import sweep

TP, PP = "workloads.0.deployment.plan.tp", "workloads.0.deployment.plan.pp"


TRAINING: dict[str, Any] = {
    "cluster": {"nodes": {"profile": "dgx-h100", "count": 1}},
    "workloads": [
        {
            "training": "pretrain", "model": "gpt3-1.3b", "framework": "megatron-core-0.8",
            "batch": {"global_batch_size": 8, "micro_batch_size": 1, "sequence_length": 1024},
            "plan": {"data_parallel": 8, "precision": "bf16"},
        }
    ],
}  # fmt: skip


def pool(*profiles: str, rate: str = "6 /s", **workload: Any) -> dict[str, Any]:
    work = {
        "serving": "chat", "model": "llama-3.2-1b", "framework": "vllm-0.10",
        "requests": {"rate": rate, "count": 60, "input_tokens": 300, "output_tokens": 60},
        "deployment": {"router": "least-outstanding", "max_model_len": 1024},
        "slo": {"ttft": "150 ms", "tpot": "20 ms", "percentile": 90}, **workload,
    }  # fmt: skip
    nodes = [{"profile": profile, "count": 1} for profile in profiles]
    return {"cluster": {"nodes": nodes[0] if len(nodes) == 1 else nodes}, "workloads": [work]}


def test_one_kind_without_unlike_replicas_is_the_best_of_the_homogeneous_sweep() -> None:
    """One degree only: what is left is how many replicas, and the sweep over replicas tries them all."""
    found = recommend(pool("a10g-4x", rate="40 /s"), {TP: [1], PP: [1]}, objective="cost", planner="hexgen", jobs=1)
    rows = sweep(pool("a10g-4x", rate="40 /s"), {"workloads.0.deployment.replicas": [1, 2, 3, 4]}, jobs=1).rows
    best = max(rows, key=lambda r: (r["slo_attainment"], -r["usd_per_million_tokens"]))
    assert found.best is not None
    assert found.considered == found.simulated == 4
    for column in ("usd_per_million_tokens", "accelerators", "ttft_p90", "slo_attainment"):
        assert found.best.row[column] == pytest.approx(best[column], rel=1e-12)


def test_the_groups_of_a_mixed_pool_run_and_are_the_best_of_all_divisions() -> None:
    asked = pool("a10g-4x", "t4-1x", rate="25 /s")
    found = recommend(asked, {TP: [1, 4], PP: [1]}, objective="cost", planner="hexgen", jobs=1)
    groups = [[{"count": n, "profile": "a10g-4x", "plan": {"tensor_parallel": 1}}] for n in range(1, 5)]
    groups += [[{"count": 1, "profile": "a10g-4x", "plan": {"tensor_parallel": 4}}], []]
    slow = {"count": 1, "profile": "t4-1x", "plan": {"tensor_parallel": 1}}
    every = [g for g in (*groups, *([*g, slow] for g in groups)) if g]
    rows = sweep(asked, {"workloads.0.deployment.groups": every}, jobs=1).rows
    best = max(rows, key=lambda r: (r["slo_attainment"], -r["usd_per_million_tokens"]))
    assert found.considered == found.simulated == len(every) == 11
    assert found.best is not None
    assert found.scenario is not None
    assert found.best.row["usd_per_million_tokens"] == pytest.approx(best["usd_per_million_tokens"], rel=1e-12)
    again = simulator.run(dict(found.scenario)).of("chat")
    assert again["slo_attainment"] == found.best.row["slo_attainment"]
    assert again["usd_per_million_tokens"] == pytest.approx(found.best.objective, rel=1e-12)


def test_replicas_that_do_not_fit_their_memory_are_named() -> None:
    asked = pool("t4-4x", model="llama-3.1-8b", framework="vllm-0.10")
    found = recommend(asked, {TP: [1, 4], PP: [1]}, planner="hexgen", jobs=1)
    assert [(d["profile"], d["tensor_parallel"]) for d in found.dropped] == [("t4-4x", 1)]
    assert found.simulated == 1


def test_what_cannot_be_divided_is_an_error() -> None:
    with pytest.raises(ConfigError, match="give the deployment an 'slo'"):
        recommend(pool("a10g-4x", slo={}), planner="hexgen", jobs=1)
    with pytest.raises(ConfigError, match="leave 'replicas' out"):
        recommend(pool("a10g-4x", deployment={"replicas": 2}), planner="hexgen", jobs=1)
    with pytest.raises(ConfigError, match=r"not over 'cluster\.nodes\.count'"):
        recommend(pool("a10g-4x"), {"cluster.nodes.count": [1, 2]}, planner="hexgen", jobs=1)
    with pytest.raises(ConfigError, match="this is a training job"):
        recommend(TRAINING, planner="hexgen", jobs=1)
