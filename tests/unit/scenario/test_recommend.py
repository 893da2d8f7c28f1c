"""Recommendations equal exhaustive search, and say what binds."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

import simulator
from simulator.errors import ConfigError
from simulator.report.variants import print_recommendation
from simulator.scenario import recommend_training
from simulator.scenario.axes import parse_axes
from simulator.scenario.load import load_scenario
from simulator.scenario.recommend import recommend
from simulator.scenario.recommend_plans import TIMES
from simulator.scenario.recommend_training import on_the_clock, plan_changes, problem_of, sizes_of, sizes_only
from simulator.scenario.recommendation import Candidate, Limit, Recommendation, metric_of
from simulator.scenario.sweep import sweep
from simulator.scenario.sweep_points import Recipe
from simulator.training.plan_evaluator import PlanEvaluator
from simulator.units import parse_quantity
from simulator.workload.plan import Plan

CHAT: dict[str, Any] = {
    "name": "chat",
    "cluster": {"nodes": {"profile": "dgx-h100", "count": 1}},
    "workloads": [
        {
            "serving": "chat", "model": "llama-3.1-8b", "framework": "vllm-0.10",
            "requests": {"rate": "60 /s", "count": 500, "input_tokens": 700, "output_tokens": 120},
            "deployment": {"router": "least-outstanding"},
            "slo": {"ttft": "120 ms", "tpot": "15 ms", "percentile": 90},
        }
    ],
}  # fmt: skip
PROFILE, TP = "cluster.nodes.profile", "workloads.0.deployment.plan.tp"
REPLICAS = "workloads.0.deployment.replicas"
SPACE = {PROFILE: ["dgx-h100", "dgx-a100-640", "hgx-h200"], TP: [1, 2, 4]}


def exhaustive(metric: str, limits: list[Limit]) -> tuple[float, dict[str, Any]]:
    """The best of every variant on one node, each simulated."""
    when = [{"if": {TP: tp}, "then": {REPLICAS: list(range(1, 8 // tp + 1))}} for tp in SPACE[TP] if tp < 8]
    found = sweep({**CHAT, "what_if": {**SPACE, "when": when}}, jobs=1)
    best, point = math.inf, {}
    for row in found.rows:
        value = metric_of(row, metric)
        if row["status"] == "ok" and value is not None and all(x.slack(row) >= 0 for x in limits) and value < best:
            best, point = value, {k: row[k] for k in (PROFILE, TP, REPLICAS)}
    return best, point


@pytest.mark.parametrize(
    ("objective", "metric"),
    [("gpus", "accelerators"), ("cost", "usd_per_million_tokens"), ("energy", "energy_per_token")],
)
def test_the_best_deployment_is_that_of_the_exhaustive_sweep(objective: Any, metric: str) -> None:
    found = recommend(CHAT, SPACE, objective=objective, max_accelerators=8, jobs=1)
    assert found.best is not None
    value, point = exhaustive(metric, list(found.limits))
    assert found.best.objective == pytest.approx(value, rel=1e-12)
    if metric != "accelerators":  # several variants may have equally many
        assert {k: found.best.point[k] for k in point} == point
    assert found.simulated < found.considered


def test_the_answer_does_not_depend_on_the_number_of_processes() -> None:
    one = recommend(CHAT, SPACE, max_accelerators=8, jobs=1, keep=3)
    two = recommend(CHAT, SPACE, max_accelerators=8, jobs=2, keep=3)
    assert [(c.point, c.objective) for c in one.ranked] == [(c.point, c.objective) for c in two.ranked]


def test_one_replica_less_breaks_a_limit_and_the_tightest_is_named_first() -> None:
    found = recommend(CHAT, {PROFILE: ["dgx-h100"], TP: [1]}, objective="gpus", max_accelerators=8, jobs=1)
    assert found.best is not None and found.fewer is not None and found.more is not None
    assert found.fewer.point[REPLICAS] == found.best.point[REPLICAS] - 1
    assert found.fewer.broken
    assert found.more.objective > found.best.objective
    assert [b["slack"] for b in found.binding] == sorted(b["slack"] for b in found.binding)
    assert all(b["slack"] >= 0 for b in found.binding)
    assert found.scenario is not None
    best = load_scenario(found.scenario).deployments[0]
    assert (best.replicas, best.plan.tensor_parallel) == (found.best.point[REPLICAS], 1)


def test_limits_that_nothing_keeps_are_an_answer_with_reasons() -> None:
    found = recommend(CHAT, SPACE, limits=["tpot_p90=0.1 ms"], jobs=1)
    assert found.best is None
    assert found.simulated == 0
    assert all("with one request alone" in row["reason"] for row in found.dropped)


def test_no_size_and_plan_of_a_training_is_better_than_the_recommended_one() -> None:
    changes = ["workloads.0.batch.global_batch_size=16", "workloads.0.model=gpt3-6.7b"]
    space = {PROFILE: ["dgx-h100", "dgx-a100-640"], "cluster.nodes.count": [1, 2]}
    base = [*changes, "workloads.0.plan={precision: bf16}", "workloads.0.plan.dp=8", "cluster.nodes.count=1"]
    scenario = load_scenario("gpt3-175b-selene", base)
    job = scenario.training[0]
    points = [{PROFILE: p, "cluster.nodes.count": n} for p in space[PROFILE] for n in space["cluster.nodes.count"]]
    best = math.inf
    for size in sizes_of(job, scenario.cluster, points, "training_seconds", own_link=True):
        evaluate = PlanEvaluator(job.model, job.framework, size.cluster, job.batch)
        problem = problem_of(job, size.cluster, 1)
        runs = [evaluate(plan) for plan in list(problem.plans())[::9]]
        fastest = min((r.seconds for r in runs if r.feasible), default=math.inf)
        assert fastest >= size.bounds["training_seconds"]
        best = min(best, fastest)
    found = recommend(scenario, space, objective="time", jobs=1)
    assert found.best is not None
    assert found.best.objective <= best
    changes = [f"{path}={value}" for path, value in found.best.point.items() if path != "workloads.0.plan"]
    sections = [f"workloads.0.plan={found.best.point['workloads.0.plan']!r}".replace("'", "")]
    again = sweep("gpt3-175b-selene", [*base[:2], *changes, *sections], depth="step", jobs=1)
    assert again.rows[0]["training_seconds"] == pytest.approx(found.best.objective, rel=1e-9)
    check_plans(found, again.rows[0])


def check_plans(found: Recommendation, row: dict[str, Any]) -> None:
    """Time, memory and traffic of the plans: parts sum to the step, the best is what a sweep of it alone says."""
    assert found.best is not None
    for plan in found.plans:
        assert sum(plan[part] for part in TIMES[1:]) == pytest.approx(plan["seconds"])
        assert 0 < plan["memory_peak"] <= plan["memory_capacity"]
        assert plan["bytes_hbm"] > 0
    best = found.plans[0]
    assert best["plan"].startswith(row["plan"])
    assert (best["seconds"], best["memory_peak"]) == pytest.approx((row["seconds"], row["memory_peak"]), rel=1e-9)
    again = simulator.estimate(found.scenario)
    moved = {f"bytes_{r['link']}": r["bytes"] for r in again.rows("traffic") if r["bytes"] > 0}
    assert moved == {name: value for name, value in best.items() if name.startswith("bytes_")}
    assert found.to_json()["plans"] == list(found.plans)
    screen = Console(file=StringIO(), width=220)
    print_recommendation(found, screen)
    assert "plans of the best size" in screen.file.getvalue() and "scale up bytes" in screen.file.getvalue()


def test_alternatives_of_the_plan_are_part_of_the_search() -> None:
    plan, batch = "workloads.pretrain.plan.tp", "workloads.0.batch.micro_batch_size"
    axes = parse_axes({}, {plan: [1, 2], PROFILE: ["dgx-h100", "hgx-h200"]})
    assert sizes_only(axes) == ([{PROFILE: "dgx-h100"}, {PROFILE: "hgx-h200"}], [plan])
    with pytest.raises(ConfigError, match="micro_batch_size"):
        sizes_only(parse_axes({}, {batch: [1, 2]}))


def test_limits_are_read_with_their_unit() -> None:
    assert Limit.parse("ttft_p90=300 ms") == Limit("ttft_p90", parse_quantity("300 ms", "time"))
    assert Limit.parse("slo_attainment = 0.9").at_least
    for text, words in (("tftt_p90=1 s", "did you mean 'ttft_p90'"), ("ttft_p90=300", "ttft_p90=300")):
        with pytest.raises(ConfigError, match=words):
            Limit.parse(text)
    with pytest.raises(ConfigError, match="one workload"):
        recommend("quickstart")
    with pytest.raises(ConfigError, match="--max-gpus"):
        recommend(CHAT, {REPLICAS: [1, 2]})


MIXED = {
    "cluster": {"nodes": [{"profile": "dgx-h100", "count": 1}, {"profile": "dgx-a100-640", "count": 1}]},
    "workloads": [
        {
            "training": "pretrain", "model": "gpt3-1.3b", "framework": "megatron-core-0.8",
            "batch": {"global_batch_size": 16, "micro_batch_size": 1, "sequence_length": 1024},
            "plan": {"data_parallel": 16, "precision": "bf16"},
        }
    ],
}  # fmt: skip


def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(job: Any, cluster: Any, keep: int) -> Any:
        return replace(
            problem_of(job, cluster, keep), tensor_parallel=(1,), pipeline_parallel=(1,), recompute=("none",),
            zero_stage=(1, 2), micro_batch_size=(1, 2),
        )  # fmt: skip

    monkeypatch.setattr(recommend_training, "problem_of", few)


def test_a_planner_of_mixed_nodes_may_leave_the_slower_ones_out(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow(monkeypatch)
    everything = recommend(MIXED, objective="time", jobs=1)
    found = recommend(MIXED, objective="time", jobs=1, planner="mixed-devices")
    assert everything.best is not None
    assert found.best is not None
    assert everything.best.row["accelerators"] == 16
    assert found.best.row["accelerators"] == 8  # larger micro-batches on H100 alone
    assert found.best.objective < everything.best.objective
    assert any("in proportion to speed" in note for note in found.notes)
    assert any(note.startswith("other plan of this size: ") for note in found.notes)
    assert found.scenario is not None
    again = simulator.run(dict(found.scenario)).of("pretrain")
    assert again["seconds"] == pytest.approx(found.best.objective, rel=1e-9)


def test_a_planner_of_mixed_nodes_writes_stages_that_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best of both kinds of nodes has stages of its own; the scenario it comes with gives the same time."""

    def few(job: Any, cluster: Any, keep: int) -> Any:
        return replace(
            problem_of(job, cluster, keep), tensor_parallel=(1, 2), pipeline_parallel=(1, 2), recompute=("none",),
            zero_stage=(1,), micro_batch_size=(1,),
        )  # fmt: skip

    monkeypatch.setattr(recommend_training, "problem_of", few)
    work = {**MIXED["workloads"][0], "batch": {"global_batch_size": 64, "sequence_length": 2048}}
    source = {**MIXED, "workloads": [work]}
    found = recommend(source, objective="time", jobs=1, planner="mixed-devices")
    assert found.best is not None and found.scenario is not None
    assert len({s["accelerator"] for s in found.best.point["workloads.0.plan"]["stages"]}) == 2
    again = simulator.estimate(dict(found.scenario)).of("pretrain")
    assert again["training_seconds"] == pytest.approx(found.best.objective, rel=1e-9)


def test_a_search_keeps_the_adapters_of_the_job() -> None:
    """LoRA searched is LoRA found: without its options the search would plan another training."""
    scenario = load_scenario("lora-on-one-node", ["what_if={}"])
    job = scenario.training[0]
    plans = list(problem_of(job, scenario.cluster, 1).plans())
    assert {plan.option("peft") for plan in plans} == {"lora"}
    assert {plan.option("lora_rank") for plan in plans} == {16}
    assert {plan.tensor_parallel for plan in plans} == {1, 2, 4, 8}
    written = plan_changes(plans[-1])
    assert written["options"] == {"peft": "lora", "lora_rank": 16}
    changes = [f"workloads.0.plan={json.dumps(written)}", "workloads.0.batch.micro_batch_size=1", "what_if={}"]
    assert dict(load_scenario("lora-on-one-node", changes).training[0].plan.options) == dict(job.plan.options)


TREE = {"topology": "fat-tree", "link": "hdr200", "options": {"nodes_per_leaf": 1}}
LAME = {"of": "leaf0>spine0", "capacity": 0.1}


def test_the_best_plans_are_judged_on_the_fabric_as_it_is() -> None:
    """Plans are searched on sound links; before one is recommended it is run with what happens to them."""
    sound = {**MIXED, "cluster": {"nodes": {"profile": "dgx-a100-640", "count": 2}, "fabric": TREE}}
    lame = {**sound, "cluster": {**sound["cluster"], "fabric": {**TREE, "faults": LAME}}}
    point = {"workloads.0.plan": plan_changes(Plan(data_parallel=16, zero_stage=3)), "workloads.0.steps": 50}
    known = Candidate.of(point, {"feasible": True, "training_seconds": 1.0}, "training_seconds", ())
    seconds = [on_the_clock(Recipe(s), [known], "training_seconds", ())[0].objective for s in (sound, lame)]
    assert seconds[1] > 2 * seconds[0]


def test_what_a_recommendation_cannot_search_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'galvatron'"):
        recommend(MIXED, planner="galvatron-2")
    with pytest.raises(ConfigError, match="2 node types"):
        recommend(MIXED, {PROFILE: ["dgx-h100", "dgx-b200"]})
    with pytest.raises(ConfigError, match="plans of a training job"):
        recommend("llama3-70b-chat", planner="alpa")
