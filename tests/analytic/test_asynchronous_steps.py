"""Steps of pipelines that never drain, of token slices and of several pipelines per rank, as a job is priced."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.strategies.pipeline.avgpipe import AvgPipe
from simulator.training.pipeline import PipelineCosts, run_schedule
from simulator.training.pipelined import PipelinedJob
from simulator.workload.plan import Plan
from tests.unit.strategies.training_cases import FRAMEWORK, cluster, job

PLAN = Plan(pipeline_parallel=4, data_parallel=4)
M = 8  # micro-batches of every replica


def pipeline(schedule: str, **options: object) -> PipelinedJob:
    return PipelinedJob(job(PLAN.with_(schedule=schedule, **options), FRAMEWORK), cluster())


@pytest.mark.parametrize("schedule", ["pipedream", "pipedream-2bw", "pipemare", "spectrain", "xpipe", "hetpipe"])
def test_a_pipeline_that_never_drains_runs_at_its_slowest_stage(schedule: str) -> None:
    # Catalogue 2b: throughput = 1 / max_i(stage_i). Sends block the ranks here, so each task takes its send as well.
    work = pipeline(schedule)
    stages = np.array([f.seconds + b.seconds for f, b in zip(work.forward_times, work.backward_times, strict=True)])
    assert M * stages.max() * (1 - 1e-9) <= work.pipeline_seconds <= M * (stages.max() + 4 * work.p2p_seconds)
    assert work.pipeline_seconds < pipeline("1f1b").pipeline_seconds
    assert any(w.startswith(f"{schedule}: ") and "target loss" in w for w in work.warnings())


def test_updates_after_every_microbatch_are_paid_for() -> None:
    each, once = pipeline("pipedream"), pipeline("pipedream-2bw")
    assert each.run().parts["optimizer"] == pytest.approx(M * once.run().parts["optimizer"])
    wave = pipeline("hetpipe")
    assert wave.run().parts["optimizer"] == pytest.approx(each.run().parts["optimizer"])
    # One exchange of gradients per wave instead of one per micro-batch; replicas are neighbours on a node here.
    assert wave.traffic().by_link["scale_up"] < each.traffic().by_link["scale_up"]


@pytest.mark.parametrize("slices", [1, 4, 8])
def test_token_slices_shrink_the_fill(slices: int) -> None:
    # GPipe with unlike stages: one pass through the others, m through the slowest; a pass takes 1/S of the time.
    work, plain = pipeline("terapipe", token_slices=slices), pipeline("gpipe")
    seconds = [np.array([t.seconds for t in times]) for times in (work.forward_times, work.backward_times)]
    expected = sum((t.sum() - t.max()) / slices + M * t.max() for t in seconds)
    assert work.timeline.busy.sum() == pytest.approx(plain.timeline.busy.sum())
    even = PipelineCosts.uniform(4)
    assert expected <= work.pipeline_seconds * (1 + 1e-9) and work.pipeline_seconds == pytest.approx(expected, rel=0.02)
    assert run_schedule(work.schedule, even, 4, M).makespan == pytest.approx(3 * (M * slices + 3))
    assert work.traffic().by_link == pytest.approx(plain.traffic().by_link)
    memories = [p.memory().stages[0].by_class["activation"] for p in (work, plain)]
    assert memories[0] == pytest.approx(memories[1])


def test_two_pipelines_per_rank_hide_messages() -> None:
    # Without messages: as 1F1B over all micro-batches. With messages as long as a task one pipeline waits, two do not.
    p, m = 4, 16
    one, two = AvgPipe(1), AvgPipe(2)
    assert run_schedule(two, PipelineCosts.uniform(p), p, m).makespan == pytest.approx(3 * (m + p - 1))
    slow = PipelineCosts.uniform(p, p2p=1.5)
    assert run_schedule(two, slow, p, m).makespan < 0.85 * run_schedule(one, slow, p, m).makespan


def test_each_pipeline_has_states_of_its_own() -> None:
    states = {
        n: pipeline("avgpipe", pipelines=n).memory().stages[0].by_class for n in (1, 2)
    }  # parameters: n copies and the reference
    assert states[2]["optim"] == pytest.approx(2 * states[1]["optim"])
    assert states[2]["grad"] == pytest.approx(2 * states[1]["grad"])
    assert states[2]["param"] == pytest.approx(1.5 * states[1]["param"])
    assert "share" in AvgPipe(3).check(4, 8, 1)


@pytest.mark.parametrize("schedule", ["pipemare", "spectrain", "xpipe"])
def test_one_weight_version_where_pipedream_keeps_one_per_microbatch_in_flight(schedule: str) -> None:
    stages, stashed = (pipeline(s).memory().stages for s in (schedule, "pipedream"))
    held = [(a.by_class["param"], b.by_class["param"]) for a, b in zip(stages, stashed, strict=True)]
    assert [b / a for a, b in held] == pytest.approx([4, 3, 2, 1])
