"""Comparisons: parts add up to the difference, shared errors cancel, odds follow the closed form."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

import simulator
from simulator.errors import ConfigError
from simulator.scenario.compare import compare
from simulator.scenario.compare_draws import Side, draw, odds_against, price_factors
from simulator.scenario.compare_spread import draws_of
from simulator.scenario.sweep import sweep

STEP = "gpt3-175b-selene"
RECOMPUTE = "workloads.0.plan.recompute"
DRAWS = 40_000


def side(seconds: float, sensitivity: dict[str, float], kind: str = "training", usd: float = 1.0) -> Side:
    return Side({"kind": kind, "seconds": seconds, "usd": usd, "tokens_per_s": 1 / seconds}, sensitivity)


def test_the_parts_add_up_to_the_difference() -> None:
    found = compare([STEP], {RECOMPUTE: ["selective", "full"]}, depth="step")
    second = found.names[1]
    (seconds,) = (r for r in found.tables["metrics"] if r["part"] == "seconds")
    parts = sum(r[f"difference:{second}"] for r in found.tables["time"])
    assert parts == pytest.approx(seconds[f"difference:{second}"])
    assert seconds[f"difference:{second}"] > 0
    biggest = found.tables["time"][0]
    assert biggest["part"] == "recompute"
    assert [c["path"] for c in found.changes] == ["workloads.0.plan.recompute"]
    memory = {r["part"]: r[f"difference:{second}"] for r in found.tables["memory"]}
    assert min(memory, key=lambda k: memory[k]) == "activation"


def test_a_variant_beats_itself_in_half_of_the_draws() -> None:
    found = compare([STEP, STEP], depth="step")
    assert found.names == (f"{STEP} (1)", f"{STEP} (2)")
    assert {row["share"] for row in found.odds} == {0.5}
    assert {row["ratio_high"] - row["ratio_low"] for row in found.odds} == {0.0}
    assert {row["swing"] for row in found.tornado} == {0.0}
    assert found.changes == ()


def test_errors_of_one_constant_cancel_and_of_two_do_not() -> None:
    shared = draw([side(1.0, {"a": 0.2}), side(1.01, {"a": 0.2})], "seconds", DRAWS, 0)
    apart = draw([side(1.0, {"a": 0.2}), side(1.01, {"b": 0.2})], "seconds", DRAWS, 0)
    assert shared is not None and apart is not None
    assert odds_against(shared[0], shared[1], "seconds") == 1.0
    assert odds_against(apart[0], apart[1], "seconds") == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("gap", [0.02, 0.05, 0.1])
def test_odds_of_two_independent_errors_follow_the_normal_law(gap: float) -> None:
    # 1 + s·z₁ < (1 + gap)(1 + s·z₂)  ⇔  s·z₁ − (1 + gap)·s·z₂ < gap
    s = 0.05
    values = draw([side(1.0, {"a": s}), side(1.0 + gap, {"b": s})], "seconds", DRAWS, 3)
    assert values is not None
    wanted = NormalDist().cdf(gap / (s * math.sqrt(1 + (1 + gap) ** 2)))
    deviation = 4 * math.sqrt(wanted * (1 - wanted) / DRAWS)
    assert odds_against(values[0], values[1], "seconds") == pytest.approx(wanted, abs=deviation)


def test_more_is_better_for_rates() -> None:
    values = draw([side(1.0, {}), side(2.0, {})], "tokens_per_s", 100, 0)
    assert values is not None
    assert odds_against(values[0], values[1], "tokens_per_s") == 1.0


def test_prices_of_one_source_cancel_and_are_uniform_in_their_range() -> None:
    def rented(source: str, usd: float) -> Side:
        return Side({"kind": "serving", "usd": usd}, {}, ((source, 0.5 * usd, 1.5 * usd),))

    same = draw([rented("h100", 1.0), rented("h100", 1.01)], "usd", DRAWS, 0)
    other = draw([rented("h100", 1.0), rented("b200", 1.0)], "usd", DRAWS, 0)
    assert same is not None and other is not None
    assert odds_against(same[0], same[1], "usd") == 1.0
    assert odds_against(other[0], other[1], "usd") == pytest.approx(0.5, abs=0.03)
    assert np.quantile(other[0], (0.0, 0.5, 1.0)) == pytest.approx([0.5, 1.0, 1.5], abs=0.02)


def test_draws_are_the_same_whatever_else_is_compared() -> None:
    two = draw([side(1.0, {"a": 0.1}), side(1.0, {"b": 0.1})], "seconds", 50, 7)
    three = draw([side(1.0, {"c": 0.3}), side(1.0, {"a": 0.1}), side(1.0, {"b": 0.1})], "seconds", 50, 7)
    assert two is not None and three is not None
    assert np.array_equal(two[0], three[1]) and np.array_equal(two[1], three[2])


def test_saved_runs_sweep_rows_and_scenarios_compare_alike(tmp_path: Path) -> None:
    simulator.estimate(STEP).save(tmp_path / "run")
    sweep(STEP, {RECOMPUTE: ["selective", "full"]}, depth="step", jobs=1, output=tmp_path / "sweep")
    found = compare([tmp_path / "run", f"{tmp_path}/sweep#0", STEP, simulator.estimate(STEP)], depth="step")
    (seconds,) = (r for r in found.tables["metrics"] if r["part"] == "seconds")
    assert len({seconds[name] for name in found.names}) == 1


def test_traffic_is_drawn_with_the_same_seeds_for_all() -> None:
    vary = ["workloads.0.requests.count=60", "workloads.0.deployment.router=least-outstanding,least-outstanding"]
    found = compare(["llama3-70b-chat", "llama3-70b-chat"], vary[:1], traffic_draws=3, jobs=1)
    first, second = ([r for r in found.spread if r["name"] == n] for n in found.names)
    assert [(r["p10"], r["p50"], r["p90"]) for r in first] == [(r["p10"], r["p50"], r["p90"]) for r in second]
    assert {r["beats_first"] for r in second} == {0.5}
    assert all(r["p10"] <= r["p50"] <= r["p90"] for r in found.spread)


def test_draws_of_everything_are_runs_under_the_seeds_and_constants_drawn() -> None:
    vary = ["workloads.0.requests.count=60", "workloads.0.deployment.router=least-outstanding,round-robin"]
    found = compare(["llama3-70b-chat"], vary, traffic_draws=3, jobs=1, seed=3)
    for result, name in zip(found.results, found.names, strict=True):
        side = Side.of(result, "chat")
        runs = []
        for point in draws_of(side, 3, 3):
            changed = [f"{path}={json.dumps(value)}" for path, value in point.items()]
            router = f"workloads.0.deployment.router={name.partition(' ')[2]}"
            runs.append(simulator.run("llama3-70b-chat", [*vary[:1], router, *changed]).of("chat"))
        for metric in ("ttft_p90", "slo_attainment", "usd"):
            values = np.array([row[metric] for row in runs])
            moved = values * price_factors(side, 3, 3) if metric == "usd" else values
            (row,) = (r for r in found.spread if (r["name"], r["metric"]) == (name, metric))
            assert [row["p10"], row["p50"], row["p90"]] == pytest.approx(np.quantile(moved, (0.1, 0.5, 0.9)))
            assert row["over"] == "requests, failures, constants, prices"


def test_slower_constants_break_latency_limits() -> None:
    busy = ["workloads.0.requests.count=300", 'workloads.0.slo={"tpot": "15 ms"}']
    plain = simulator.run("llama3-70b-chat", busy)
    names = plain.sources["constant"].unique()
    host = next(name for name in names if name.endswith("host_per_step"))
    slow = simulator.run("llama3-70b-chat", [*busy, f"constants={json.dumps({host: 6.0})}"])
    assert slow.of("chat")["slo_attainment"] < plain.of("chat")["slo_attainment"]
    assert any("6 times" in warning for warning in slow.warnings)


@pytest.mark.parametrize(("name", "within"), [("llama3-70b-chat", 1e-9), (STEP, 0.1)])
def test_a_constant_moved_in_the_scenario_moves_the_time_as_its_sensitivity_says(name: str, within: float) -> None:
    plain = simulator.estimate(name)
    (workload,) = plain.summary["workload"]
    before = plain.of(workload)["seconds"]
    for row in plain.rows("sources")[:6]:
        moved = simulator.estimate(name, [f"constants={json.dumps({row['constant']: 1 + row['sigma']})}"])
        # Of a pipeline the sensitivity keeps bubbles and exposed tails in proportion: true to first order only.
        assert moved.of(workload)["seconds"] / before - 1 == pytest.approx(row["sensitivity"], rel=within, abs=1e-4)


def test_a_constant_that_nothing_rests_on_is_said() -> None:
    moved = simulator.estimate(STEP, ['constants={"a100-sxm-80gb.gem.bf16": 1.1}'])
    assert any("unknown constant 'a100-sxm-80gb.gem.bf16'" in warning for warning in moved.warnings)
    with pytest.raises(ConfigError, match="needs more than 0"):
        simulator.estimate(STEP, ['constants={"a": 0}'])


def test_failures_spread_the_time_of_a_training() -> None:
    failures = {"mtbf": {"process": "200 h"}, "detection": "1 min", "restart": "10 min"}
    job = {"workloads.0.steps": 2_000, "workloads.0.checkpoint": {"every": "10 min"}, "failures": failures}
    fixed = [f"{path}={json.dumps(value)}" for path, value in job.items()]
    found = compare([STEP], [*fixed, f"{RECOMPUTE}=selective,full"], traffic_draws=3, jobs=1)
    ratios = [r for r in found.spread if r["metric"] == "effective_time_ratio"]
    assert len(ratios) == 2 and all(0 < r["p10"] <= r["p90"] < 1 for r in ratios)
    slower = [r for r in found.spread if r["metric"] == "training_seconds"][1]
    assert slower["beats_first"] is not None and slower["beats_first"] < 0.5


def test_what_cannot_be_compared_is_said() -> None:
    with pytest.raises(ConfigError, match="needs two variants"):
        compare([STEP], depth="estimate")
    with pytest.raises(ConfigError, match="--workload"):
        compare(["quickstart", "quickstart"], depth="estimate")
    with pytest.raises(ConfigError, match="unknown workload 'chta', did you mean 'chat'"):
        compare(["quickstart", "quickstart"], depth="estimate", workload="chta")
    different = compare([STEP, "llama3-70b-chat"], depth="step")
    assert different.odds == () and any("different things" in note for note in different.notes)
