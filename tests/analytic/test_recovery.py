"""Failures and recovery against closed forms: expected wall time, optimal interval, surviving copies, renewal laws."""

from __future__ import annotations

import math
from itertools import combinations, islice
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import simulator
from simulator import registry
from simulator.cluster.failure_draws import failures_of, repair_time
from simulator.strategies.cluster_protocols import JobFacts, Recovery
from simulator.strategies.recovery.checkpoint import Gemini, daly_interval, survival_probability, young_interval
from simulator.workload.failures import FailureKind, FailureModel, NodeEvents, Repair
from simulator.workload.plan import Plan

DAY = 86400.0


def scenario(failures: object, recovery: str = "checkpoint-restart", **job: Any) -> dict[str, Any]:
    plan = {"tensor_parallel": 4, "sequence_parallel": True, "data_parallel": 2, "zero_stage": 0}
    return {
        "cluster": {
            "nodes": {"profile": "dgx-h100", "count": 4},
            "storage": {"name": "store", "read": "10 GB/s", "write": "10 GB/s"},
            "site": {"power_price": "0.1 USD/kWh"},
        },
        "workloads": [
            {
                "training": "tune",
                "model": "llama-3.1-8b",
                "framework": "megatron-core-0.8",
                "batch": {"global_batch_size": 64, "micro_batch_size": 1, "sequence_length": 4096},
                "steps": 200_000,
                "nodes": 1,
                "plan": plan,
                "checkpoint": {"every": "600 s", "to": "store", "mode": "sync"},
                "recovery": recovery,
                **job,
            }
        ],
        "seed": 5,
        **({"failures": failures} if failures else {}),
    }


OFTEN = {"mtbf": {"crash": "16 h"}, "software": ["crash"], "detection": "30 s", "restart": "90 s", "repair": "0 s"}
"""One crash of a job of 8 accelerators every two hours."""


def conserved(run: Any) -> bool:
    return run.useful + sum(run.lost.values()) == pytest.approx(run.wall, rel=1e-9)


def test_wall_time_is_the_expectation_over_exponential_failures() -> None:
    # Daly 2006, equation 16: M·e^(R/M)·(e^((τ+δ)/M) − 1) per τ seconds of work. The read adds to R.
    result = simulator.run(scenario(OFTEN, steps=2_000_000))
    run, job = result.details["tune.run"], result.of("tune")
    assert run.done
    assert conserved(run)
    mttf, write = 7200.0, np.mean([end - begin for begin, end in run.checkpoints])
    work = round(600 / job["seconds"]) * job["seconds"]
    restart = 120.0 + write  # the storage reads as fast as it writes
    factor = mttf * math.exp(restart / mttf) * (math.exp((work + write) / mttf) - 1) / work
    assert run.interrupted > 300
    assert run.wall / run.useful == pytest.approx(factor, rel=0.02)


def test_the_optimal_interval_minimises_that_expectation() -> None:
    for write, mttf in ((10.0, 7200.0), (60.0, 11_124.0), (300.0, 3600.0)):
        best = minimize_scalar(
            lambda tau, w=write, m=mttf: (math.exp((tau + w) / m) - 1) / tau, bounds=(1.0, 10 * mttf), method="bounded"
        ).x
        assert daly_interval(write, mttf) == pytest.approx(best, rel=0.01)
        assert young_interval(write, mttf) > best
    assert daly_interval(1e-6, 1e6) == pytest.approx(young_interval(1e-6, 1e6), rel=1e-4)
    assert daly_interval(3.0, 1.0) == 1.0


def test_optimal_in_a_scenario_loses_less_than_its_neighbours() -> None:
    def lost(every: str) -> float:
        work = scenario(OFTEN, checkpoint={"every": every, "to": "store", "mode": "sync"})
        return simulator.run(work).of("tune")["effective_time_ratio"]

    best = lost("optimal")
    assert best > lost("60 s")
    assert best > lost("3600 s")


def test_optimal_of_an_asynchronous_save_is_dalys_for_the_copy_to_the_host() -> None:
    def ran(every: str) -> Any:
        return simulator.run(scenario(OFTEN, checkpoint={"every": every, "to": "store", "mode": "async"}))

    result = ran("optimal")
    run, step = result.details["tune.run"], result.of("tune")["seconds"]
    # 8.03e9 parameters at 14 bytes over eight PCIe 5.0 links: what a save stops the job.
    node = simulator.load(scenario(OFTEN)).cluster.groups[0].node
    staging = 8.03e9 * 14 / 8 / node.accelerator.host_link.bandwidth
    begins = np.array([begin for begin, _ in run.checkpoints])
    assert np.median(np.diff(begins)) == pytest.approx(daly_interval(staging, 7200.0) + staging, abs=step)
    assert run.lost["checkpoint"] == pytest.approx(len(begins) * staging, rel=0.05)
    best = result.of("tune")["effective_time_ratio"]
    assert best > ran("20 s").of("tune")["effective_time_ratio"]
    assert best > ran("900 s").of("tune")["effective_time_ratio"]


def test_a_job_that_loses_everything_again_and_again_is_given_up() -> None:
    # Eight processes fail every 90 s together and a save takes 600 s of work: e^(−(600 + 120)/90) of attempts.
    storm = {"mtbf": {"crash": "720 s"}, "software": ["crash"], "detection": "30 s", "restart": "90 s", "repair": "0 s"}
    result = simulator.run(scenario(storm))
    run, row = result.details["tune.run"], result.of("tune")
    assert not run.done
    assert not row["feasible"]
    assert "makes no progress: 200 interruptions in a row lost all work since step 0" in row["reason"]
    assert run.interrupted == 200
    assert run.steps == 0
    assert result.provenance["clock_events"] < 200 * 20
    assert conserved(run)
    # The same failures with saves that take 10 s: it goes on to the end.
    saved = simulator.run(scenario(storm, steps=100, checkpoint={"every": "10 s", "to": "store", "mode": "async"}))
    assert saved.details["tune.run"].done


def test_without_failures_nothing_is_lost_but_checkpoints() -> None:
    with_none = simulator.run({**scenario({"mtbf": "1000000000 h"}), "until": "1 d"})
    without = simulator.run({**scenario(None), "until": "1 d"})
    keys = ("steps", "training_seconds", "effective_time_ratio")
    assert [with_none.of("tune")[k] for k in keys] == [without.of("tune")[k] for k in keys]


@pytest.mark.parametrize(("nodes", "copies"), [(6, 2), (8, 2), (9, 3), (8, 4)])
def test_surviving_copies_by_enumeration(nodes: int, copies: int) -> None:
    gemini = Gemini(copies)
    job = JobFacts(nodes, 8, 1.0, 1e9, Plan(data_parallel=8 * nodes), 32)
    for lost in range(1, nodes + 1):
        sets = list(combinations(range(nodes), lost))
        kept = sum(gemini.restore(job, s).back_to == "memory" for s in sets)
        assert survival_probability(nodes, copies, lost) == pytest.approx(kept / len(sets))
        if copies <= lost < 2 * copies:  # GEMINI's closed form is exact there
            bound = 1 - nodes / copies * math.comb(nodes - copies, lost - copies) / math.comb(nodes, lost)
            assert kept / len(sets) == pytest.approx(bound)


def model(shape: float) -> FailureModel:
    return FailureModel("m", (FailureKind("a", 40 * DAY), FailureKind("b", 80 * DAY)), shape=shape)


@pytest.mark.parametrize("shape", [0.6, 1.0, 2.0])
def test_drawn_failures_come_at_their_rate_from_the_start(shape: float) -> None:
    sizes = [8] * 500
    random = np.random.Generator(np.random.PCG64(1))
    drawn = list(islice(failures_of(model(shape), sizes, random), 60_000))
    times = np.array([f.time for f in drawn])
    assert (np.diff(times) >= 0).all()
    rate = 4000 * (1 / 40 + 1 / 80) / DAY
    assert len(times) / times[-1] == pytest.approx(rate, rel=0.02)
    early = np.searchsorted(times, times[-1] / 10)  # a renewal process that began new would be 2x off for shape 0.6
    assert early / len(times) == pytest.approx(0.1, rel=0.05)
    assert np.mean([f.kind.name == "a" for f in drawn]) == pytest.approx(2 / 3, rel=0.02)
    gaps: dict[tuple[int, str], list[float]] = {}
    for failure in drawn:
        gaps.setdefault((failure.node, failure.kind.name), []).append(failure.time)
    between = np.concatenate([np.diff(v) for (_, kind), v in gaps.items() if kind == "a"])
    spread = math.gamma(1 + 2 / shape) / math.gamma(1 + 1 / shape) ** 2 - 1
    assert np.var(between) / np.mean(between) ** 2 == pytest.approx(spread, rel=0.25)


def test_a_replayed_record_repeats_every_failure_with_its_repair() -> None:
    trace = NodeEvents((0, 1, 1), (1.0, 2.0, 5.0), (3.0, 2.5, math.inf), ("x", "y", "x"), 4, 10.0)
    replay = FailureModel("r", trace=trace)
    drawn = list(islice(failures_of(replay, [8] * 4, np.random.Generator(np.random.PCG64(0))), 6))
    assert [f.time for f in drawn] == [1.0, 2.0, 5.0, 11.0, 12.0, 15.0]
    assert [f.repair for f in drawn[:3]] == [2.0, 0.5, math.inf]
    assert drawn[1].node == drawn[2].node != drawn[0].node
    assert replay.mttf(4 * 8) == pytest.approx(10.0 / 3)


def test_repairs_have_their_median_and_mean() -> None:
    random = np.random.Generator(np.random.PCG64(2))
    repair = Repair(100.0, 1.0)
    times = [repair_time(repair, random) for _ in range(20_000)]
    assert np.median(times) == pytest.approx(100.0, rel=0.03)
    assert np.mean(times) == pytest.approx(repair.mean, rel=0.05)


PIPED = {
    "tensor_parallel": 8, "sequence_parallel": True, "pipeline_parallel": 2, "data_parallel": 2, "zero_stage": 0
}  # fmt: skip
NODE = {"mtbf": {"node": "64 h"}, "detection": "30 s", "restart": "90 s", "regroup": "10 s", "repair": "2 h"}


@pytest.mark.parametrize("recovery", [r.name for r in registry.strategies(family="recovery")])
def test_every_recovery_conserves_time_and_finishes(recovery: str) -> None:
    work = scenario(NODE, recovery, nodes=4, plan=PIPED, steps=50_000)
    result = simulator.run(work)
    run = result.details["tune.run"]
    assert isinstance(registry.lookup("recovery", recovery)(), Recovery)
    assert run.done
    assert conserved(run)
    assert run.useful == pytest.approx(50_000 * result.of("tune")["seconds"], rel=1e-9)
    assert min(run.lost.values()) >= 0
    assert run.interrupted > 5
    assert simulator.run(work).to_json(("summary", "events")) == result.to_json(("summary", "events"))


def test_recoveries_differ_as_they_should() -> None:
    names = ("checkpoint-restart", "just-in-time", "oobleck", "varuna", "bamboo")
    rows = {r: simulator.run(scenario(NODE, r, nodes=4, plan=PIPED, steps=50_000)).of("tune") for r in names}
    assert rows["just-in-time"]["lost_rework"] < 0.05 * rows["checkpoint-restart"]["lost_rework"]
    assert rows["checkpoint-restart"]["lost_node"] > 0
    for elastic in ("oobleck", "varuna", "bamboo"):
        assert rows[elastic]["lost_node"] < 0.5 * rows["checkpoint-restart"]["lost_node"]
        assert rows[elastic]["lost_slow"] > 0
    assert rows["oobleck"]["effective_time_ratio"] > rows["checkpoint-restart"]["effective_time_ratio"]


def test_copies_in_memory_lose_less_work_than_storage() -> None:
    plan = {"tensor_parallel": 8, "sequence_parallel": True, "zero_stage": 0}
    plain = simulator.run(scenario(NODE, nodes=2, plan=plan))
    gemini = simulator.run(scenario(NODE, "gemini", nodes=2, plan=plan))
    assert gemini.of("tune")["lost_rework"] < 0.1 * plain.of("tune")["lost_rework"]
    assert gemini.of("tune")["effective_time_ratio"] > plain.of("tune")["effective_time_ratio"]


def test_spares_save_the_wait_for_repairs() -> None:
    plan = {"tensor_parallel": 4, "sequence_parallel": True, "data_parallel": 8}
    full = simulator.run(scenario(NODE, nodes=4, plan=plan, steps=20_000)).of("tune")
    spared = scenario(NODE, nodes=4, plan=plan, steps=20_000)
    spared["cluster"]["nodes"]["count"] = 8
    assert full["lost_node"] > 0
    assert simulator.run(spared).of("tune")["lost_node"] < 0.05 * full["lost_node"]


def test_a_degraded_node_slows_the_whole_job_while_it_lasts() -> None:
    # A node is slow for 1 h on average every 8 h: a share of 1/9 of its life, in which speed is halved.
    slow = {"degraded": {"hot": {"mtbf": "64 h", "speed": 0.5}}, "repair": "1 h"}
    run = simulator.run(scenario(slow, checkpoint=None)).details["tune.run"]
    assert conserved(run)
    assert run.interrupted == 0
    # Lost per wall second: half of the share of time in which at least one slow period is on (M/G/∞: 1 − e^(−1/8)).
    assert run.lost["slow"] / run.wall == pytest.approx(0.5 * (1 - math.exp(-1 / 8)), rel=0.15)


def test_a_recovery_that_cannot_work_is_an_error_before_anything_runs() -> None:
    work = scenario(NODE, "just-in-time", plan={"tensor_parallel": 4, "data_parallel": 2, "zero_stage": 1})
    with pytest.raises(simulator.errors.ConfigError, match="no second copy of the optimizer states"):
        simulator.load(work)
    with pytest.raises(simulator.errors.ConfigError, match=r"failures.mtbf.*above 0"):
        simulator.load(scenario({"mtbf": "-5 h"}))
    with pytest.raises(simulator.errors.ConfigError, match="did you mean 'llama3-2024'"):
        simulator.load(scenario("lama3-2024"))


def test_just_in_time_loses_half_a_step_per_failure() -> None:
    """The wall time is the renewal sum: every failure costs its detection, save, restart, read and half a step."""
    result = simulator.run(
        scenario(OFTEN, "just-in-time", steps=2_000_000, checkpoint={"every": "1000 h", "to": "store"})
    )
    run, step = result.details["tune.run"], result.of("tune")["seconds"]
    assert run.interrupted > 300
    assert run.lost["rework"] / run.interrupted == pytest.approx(step / 2, rel=0.1)
    transfer = 8.03e9 * 14 / 10e9  # the state at the storage's 10 GB/s, saved and read
    lost = 30.0 + 90.0 + 2 * transfer + step / 2
    assert run.wall / run.useful == pytest.approx(1 / (1 - lost / 7200.0), rel=0.02)


@pytest.mark.parametrize("recovery", ["oobleck", "varuna"])
def test_elastic_speed_is_that_of_the_machines_that_work(recovery: str) -> None:
    """Machine repair without a queue: of four nodes M/(M + R) are up in the mean, and the job goes so fast.

    With several copies and one stage any number of nodes can be used; M = 64 h / 8, R = 1 h.
    """
    failures = {"mtbf": {"node": "64 h"}, "detection": "1 s", "restart": "1 s", "regroup": "1 s", "repair": "1 h"}
    plan = {"tensor_parallel": 8, "sequence_parallel": True, "data_parallel": 4, "zero_stage": 0}
    work = scenario(
        failures, recovery, nodes=4, plan=plan, steps=10_000_000, checkpoint={"every": "1 h", "to": "store"}
    )
    run = simulator.run({**work, "until": "60 d"}).details["tune.run"]
    assert run.interrupted > 400
    done = run.useful + run.lost["rework"]
    assert done / (done + run.lost["slow"]) == pytest.approx(8 / (8 + 1), rel=0.03)
    assert run.lost["node"] < 0.005 * run.wall, "all four are gone for (1/9)⁴ of the time, and then waited for together"


@pytest.mark.parametrize(("stages", "microbatches"), [(2, 3), (4, 6), (4, 12), (8, 40), (2, 64)])
def test_bamboo_computes_its_copies_in_the_bubble(stages: int, microbatches: int) -> None:
    """In forwards: m·3 are busy of (m + p − 1)·3, and m more forwards are free up to the (p − 1)·3 of the bubble."""
    idle, total = 3 * (stages - 1), 3 * (microbatches + stages - 1)
    job = JobFacts(stages, 8, 1.0, 1e9, Plan(pipeline_parallel=stages), 32, bubble=idle / total)
    slow = (total + max(0, microbatches - idle)) / total
    assert registry.lookup("recovery", "bamboo")().protect(job).slow_down == pytest.approx(slow)


def test_bamboo_with_a_doubled_stage_runs_as_fast_as_that_stage() -> None:
    """A pipeline of many micro-batches goes at the pace of its slowest stage, here with the work of two."""
    from simulator.training.pipeline import PipelineCosts, run_schedule

    plain = PipelineCosts.uniform(4)
    doubled = registry.lookup("pipeline", "1f1b")()
    alone = run_schedule(doubled, plain, 4, 512, 1).makespan
    slow = PipelineCosts(
        forward=np.array([1.0, 2.0, 1.0, 1.0]) * plain.forward, backward=np.array([1.0, 2.0, 1.0, 1.0]) * plain.backward
    )
    both = run_schedule(doubled, slow, 4, 512, 1).makespan
    job = JobFacts(8, 8, 1.0, 1e9, Plan(pipeline_parallel=4, data_parallel=2, tensor_parallel=8), 32)
    bamboo = registry.lookup("recovery", "bamboo")()
    assert bamboo.restore(job, [3]).speed == pytest.approx(alone / both, rel=0.01)
    assert bamboo.restore(job, [3, 5]).back_to == "storage", "a neighbour of the same pipeline is gone too"
    assert bamboo.restore(job, [3, 4]).back_to == "step"
