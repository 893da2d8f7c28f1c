"""Tables of a step conserve what the executor did, and stay bounded without hiding it."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

import simulator as sim
from simulator.results.tables import schema
from simulator.training.pipelined import PipelinedJob
from simulator.training.step_run import StepRun
from simulator.training.tables import communication_by_axis, timeline_tables


def executed(source: str, *overrides: str) -> tuple[PipelinedJob, StepRun]:
    estimates = sim.estimate(source, [f"workloads.0.{o}" for o in overrides]).details.values()
    pipeline = next(e.details["pipeline"] for e in estimates if "pipeline" in e.details)
    return pipeline, pipeline.run()


@pytest.fixture(scope="module")
def step() -> tuple[PipelinedJob, StepRun]:
    return executed("gpt3-175b-selene")


@pytest.fixture(scope="module")
def long_step() -> tuple[PipelinedJob, StepRun]:
    return executed("gpt-1t-selene")


def frame(of: tuple[PipelinedJob, StepRun], **more: Any) -> pd.DataFrame:
    return pd.DataFrame(timeline_tables(*of, **more)["ops"])


def test_columns_are_those_of_the_schema(step: tuple[PipelinedJob, StepRun]) -> None:
    for table, columns in timeline_tables(*step).items():
        assert {(table, column) for column in columns} <= set(schema())


def test_tasks_are_the_timeline(step: tuple[PipelinedJob, StepRun]) -> None:
    tasks = frame(step).query("kind == 'pipeline'")
    timeline = step[1].timeline
    assert len(tasks) == 8 * 2 * 64 * 3
    assert tasks.groupby("stage")["duration"].sum().tolist() == pytest.approx(timeline.busy.tolist())
    assert set(tasks.groupby("phase")["microbatch"].nunique()) == {64}


def test_the_step_ends_at_its_seconds(step: tuple[PipelinedJob, StepRun]) -> None:
    rows = frame(step).dropna(subset="start")
    ends = (rows["start"] + rows["duration"]).groupby(rows["stage"]).max()
    assert ends.tolist() == pytest.approx([step[1].seconds] * 8)


def test_flops_of_tasks_are_those_of_their_operations(step: tuple[PipelinedJob, StepRun]) -> None:
    """Both sets of rows describe the same work of the busiest stage."""
    rows, busiest = frame(step), step[1].busiest
    mine = rows[rows["stage"] == busiest]
    ops = mine[mine["start"].isna() & (mine["name"] != "optimizer")]
    tasks = mine[mine["kind"] == "pipeline"]
    assert (ops["count"] * ops["flops"].fillna(0)).sum() == pytest.approx(tasks["flops"].sum())


@pytest.mark.parametrize("most_rows", [2_000, 20_000])
def test_long_steps_are_bounded_and_count_what_they_leave_out(
    long_step: tuple[PipelinedJob, StepRun], most_rows: int
) -> None:
    rows = frame(long_step, most_rows=most_rows)
    assert len(rows) <= most_rows
    kept, left = rows.query("kind == 'pipeline'"), rows.query("kind == 'omitted'")
    assert len(kept) + left["count"].sum() == 64 * 2 * 512
    assert sorted(left["stage"]) == list(range(64))
    for stage, gap in left.set_index("stage").iterrows():
        mine = kept[kept["stage"] == stage]
        before, after = mine[mine["start"] < gap["start"]], mine[mine["start"] > gap["start"]]
        assert len(before) + len(after) == len(mine)
        assert not (before["start"] + before["duration"] > gap["start"] + 1e-9).any()
        assert not (after["start"] < gap["start"] + gap["duration"] - 1e-9).any()


def test_thinning_keeps_the_same_tasks_every_time(long_step: tuple[PipelinedJob, StepRun]) -> None:
    pd.testing.assert_frame_equal(frame(long_step, most_rows=3_000), frame(long_step, most_rows=3_000))


def test_split_backward_has_its_own_phases() -> None:
    changes = ("plan.schedule=zb-h1", "plan.virtual_stages=1", "plan.recompute=none", "batch.global_batch_size=16")
    tasks = frame(executed("gpt3-175b-selene", *changes)).query("kind == 'pipeline'")
    assert tasks["phase"].value_counts().to_dict() == dict.fromkeys(
        ("forward", "input_gradient", "weight_gradient"), 128
    )
    assert (tasks["flops"] > 0).all()


@pytest.mark.parametrize(
    "plan",
    [
        "tp=4 dp=1", "tp=1 sp=false dp=4 recompute=full", "tp=1 sp=false dp=4 zero_stage=2 recompute=full",
        "tp=1 sp=false dp=4 zero_stage=3 recompute=full", "tp=2 cp=2 recompute=full",
    ],
)  # fmt: skip
def test_traffic_by_axis_is_the_traffic_by_link(plan: str) -> None:
    """Counted here from the Ops, there from the times of blocks: the same bytes."""
    pipeline, _ = executed("quickstart", *(f"plan.{change}" for change in plan.split()))
    by_link = pipeline.traffic().by_link
    for link in ("scale_up", "scale_out"):
        sent = sum(moved for (*_, of), (moved, _) in communication_by_axis(pipeline).items() if of == link)
        assert sent == pytest.approx(by_link[link])


def test_ring_bytes_of_tensor_parallelism(step: tuple[PipelinedJob, StepRun]) -> None:
    """A ring moves (n − 1)/n of the buffer per rank for each all-gather and reduce-scatter (Thakur et al. 2005).

    Megatron's layer with sequence parallelism gathers twice and scatters twice in forward and in backward, and gathers
    twice more for the weight gradients (Korthikanti et al. 2022, section 4.2.2).
    """
    pipeline, _ = step
    moved = communication_by_axis(pipeline, rank=3)
    buffer = 1 * 2048 * 12288 * 2
    layers, microbatches = 96 // 8, 64
    each = layers * microbatches * buffer * 7 / 8
    assert moved["tp", "all_gather", "scale_up"][0] == pytest.approx(6 * each)
    assert moved["tp", "reduce_scatter", "scale_up"][0] == pytest.approx(4 * each)


def test_priced_operations_have_no_place_in_time(step: tuple[PipelinedJob, StepRun]) -> None:
    ops = frame(step).query("start.isna()")
    assert (ops["microbatch"] == -1).all()
    assert ops.duplicated(["name", "phase"]).sum() == 0
    assert set(ops["bound"]) <= {"compute", "memory", "network", "launch"}
    assert not any(math.isnan(x) for x in ops["duration"])
