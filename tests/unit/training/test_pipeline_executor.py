"""The executor on small orders one can draw by hand, and on orders that are wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.registry import StrategyRecord, lookup, strategies
from simulator.strategies.pipeline.asynchronous import PipeDream
from simulator.strategies.pipeline.gpipe import BreadthFirst, GPipe
from simulator.strategies.pipeline.one_f_one_b import Interleaved1F1B, OneFOneB
from simulator.strategies.pipeline.orders import loop_placement
from simulator.strategies.pipeline.partition import partition_layers
from simulator.strategies.pipeline.terapipe import TeraPipe, balanced_slices
from simulator.strategies.pipeline.v_shape import ZBV
from simulator.strategies.protocols import Action, ActionKind, PipelineSchedule, ScheduleTraits
from simulator.training.pipeline import PipelineCosts, run_pipeline, run_schedule
from simulator.training.pipeline_fill import FillJob, fill_bubbles

PLAIN = ScheduleTraits(virtual_stage=loop_placement)


def tasks(text: str) -> list[Action]:
    """``"F0 BW0"`` → actions."""
    kinds = sorted(ActionKind, key=lambda kind: -len(kind.value))
    out = []
    for word in text.split():
        kind = next(k for k in kinds if word.startswith(k.value))
        out.append(Action(kind, int(word[len(kind.value) :])))
    return out


def test_two_ranks_by_hand() -> None:
    timeline = run_pipeline([tasks("F0 F1 BW0 BW1"), tasks("F0 BW0 F1 BW1")], PLAIN, PipelineCosts.uniform(2), 2)
    assert timeline.rank_tasks(0)["start"].tolist() == [0, 1, 4, 7]
    assert timeline.rank_tasks(1)["start"].tolist() == [1, 2, 4, 5]
    assert timeline.rank_tasks(0)["kind"].tolist() == ["F", "F", "BW", "BW"]
    assert timeline.makespan == 9
    assert timeline.busy.tolist() == [6, 6]
    assert timeline.span.tolist() == [9, 6]
    assert timeline.bubble_over_total == pytest.approx(1 / 3)
    assert timeline.bubble_over_ideal == pytest.approx(1 / 2)
    assert timeline.activations.peak.tolist() == [2, 1]
    assert timeline.activations.moment.tolist() == [1, 1]
    first, last = timeline.backward_window
    assert first.tolist() == [[6], [4]]
    assert last.tolist() == [[9], [7]]


def test_overlapped_transfers_queue_on_their_link() -> None:
    """Two results sent one second apart over a link that takes three seconds each."""
    costs = PipelineCosts.uniform(2, p2p=3.0)
    timeline = run_pipeline([tasks("F0 F1 BW0 BW1"), tasks("F0 F1 BW1 BW0")], PLAIN, costs, 2)
    assert timeline.rank_tasks(1)["start"].tolist()[:2] == [4, 7]


def test_blocking_transfers_occupy_sender_and_receiver() -> None:
    costs = replace(PipelineCosts.uniform(2, p2p=3.0), overlap_p2p=False)
    timeline = run_pipeline([tasks("F0 F1 BW0 BW1"), tasks("F0 F1 BW1 BW0")], PLAIN, costs, 2)
    assert timeline.rank_tasks(0)["start"].tolist()[:2] == [0, 4]  # sends from 1 to 4
    assert timeline.rank_tasks(1)["start"].tolist()[:2] == [4, 8]  # receives 1 to 4 and 5 to 8


def test_turning_points_of_a_v_need_no_transfer() -> None:
    p, m = 3, 5
    timeline = run_schedule(ZBV(), PipelineCosts.uniform(2 * p), p, m, 2)
    assert timeline.p2p_messages.sum() == 2 * m * (2 * p - 2)


def test_heavy_last_stage_sets_the_pace() -> None:
    p, m, heavy = 4, 40, 1.5
    forward = np.array([1.0, 1.0, 1.0, heavy])
    timeline = run_schedule(OneFOneB(), PipelineCosts(forward=forward, backward=2 * forward), p, m)
    assert timeline.makespan == pytest.approx(3 * heavy * m + 3 * (p - 1))


def test_unequal_slices_take_the_sum_of_their_times() -> None:
    slices = np.array([1.0, 2.0, 3.0])
    costs = PipelineCosts(forward=np.tile(slices, (2, 1)), backward=np.tile(slices, (2, 1)))
    timeline = run_schedule(TeraPipe(3), costs, 2, 4)
    assert timeline.busy.tolist() == [4 * 2 * 6.0] * 2
    kinds, items = timeline.rank_tasks(1)["kind"], timeline.rank_tasks(1)["microbatch"]
    assert items[kinds == "BW"].tolist() == list(range(11, -1, -1))


def test_balanced_slices_take_equal_time() -> None:
    linear, quadratic = 1.0, 0.01
    lengths = balanced_slices(4096, 8, linear, quadratic)
    ends = np.cumsum([0, *lengths])
    times = np.diff(linear * ends + quadratic * ends**2 / 2)
    assert sum(lengths) == 4096
    assert times == pytest.approx(np.full(8, times.mean()), rel=0.02)
    assert balanced_slices(8, 4, 1.0, 0.0) == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("orders", "message"),
    [
        (["F0 BW0", "F0"], "incomplete: no BW of micro-batch 0 on virtual stage 1"),
        (["F0 F0 BW0", "F0 BW0"], "rank 0: F of micro-batch 0 on chunk 0 is ordered twice"),
        (["F0 BW0", "BW0 F0"], "rank 1: BW of micro-batch 0 on chunk 0 comes before its F"),
        (["F0 BW0 F1 BW1", "F1 F0 BW0 BW1"], "deadlocks: rank 0: BW of micro-batch 0 on chunk 0 waits for rank 1"),
        (["F0 BW0 F2 BW2", "F0 BW0"], "rank 0: F of micro-batch 2 on chunk 0 is out of range"),
    ],
)
def test_wrong_orders_name_rank_and_action(orders: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_pipeline([tasks(text) for text in orders], PLAIN, PipelineCosts.uniform(2), 2 if "F1" in orders[0] else 1)


def test_deadlock_is_found_by_the_wide_pass_too() -> None:
    p = 24
    orders = [tasks("F0 BW0 F1 BW1")] * (p - 1) + [tasks("F1 F0 BW0 BW1")]
    with pytest.raises(ValueError, match="deadlocks: rank 0: BW of micro-batch 0"):
        run_pipeline(orders, PLAIN, PipelineCosts.uniform(p), 2)


def test_wrong_costs_say_which() -> None:
    with pytest.raises(ValueError, match=r"forward has shape \(3,\), needs one value for each of 4 stages"):
        run_schedule(OneFOneB(), PipelineCosts(forward=np.ones(3), backward=np.ones(4)), 4, 4)
    with pytest.raises(ValueError, match=r"give PipelineCosts.input_gradient"):
        run_schedule(ZBV(), PipelineCosts(forward=np.ones(4), backward=np.ones(4)), 2, 4, 2)


@pytest.mark.parametrize(
    ("schedule", "sizes", "reason"),
    [
        (Interleaved1F1B(), (8, 12, 2), "multiple of pipeline_parallel = 8, have 12: use 8 or 16"),
        (Interleaved1F1B(), (8, 16, 1), "needs virtual_stages >= 2"),
        (OneFOneB(), (8, 16, 2), "use schedule interleaved-1f1b"),
        (GPipe(), (0, 16, 1), "pipeline_parallel = 0 must be at least 1"),
        (BreadthFirst(), (8, 4, 2), "use 8"),
    ],
)
def test_sizes_that_do_not_fit_name_near_ones(
    schedule: PipelineSchedule, sizes: tuple[int, int, int], reason: str
) -> None:
    assert reason in schedule.check(*sizes)


@pytest.mark.parametrize("record", strategies(family="pipeline"), ids=lambda record: record.name)
def test_the_near_size_a_reason_names_works(record: StrategyRecord) -> None:
    schedule = lookup("pipeline", record.name)()
    for chunks in (1, 2):
        for p, m in ((4, 7), (4, 2)):
            reason = schedule.check(p, m, chunks)
            if "micro-batches" in reason and "use " in reason:
                near = int(reason.rsplit("use ", 1)[1].split()[-1])
                assert schedule.check(p, near, chunks) == ""


def test_a_flushed_schedule_runs_one_step_only() -> None:
    with pytest.raises(ValueError, match="flushes at every step"):
        run_schedule(OneFOneB(), PipelineCosts.uniform(2), 2, 4, steps=2)


def test_asynchronous_pace_is_that_of_the_slowest_stage() -> None:
    forward = np.array([1.0, 2.0, 1.0])
    timeline = run_schedule(PipeDream(), PipelineCosts(forward=forward, backward=2 * forward), 3, 1, steps=60)
    assert timeline.steady_period() == pytest.approx(6.0)


def test_bubbles_take_work_that_fits() -> None:
    timeline = run_schedule(OneFOneB(), PipelineCosts.uniform(4), 4, 4)
    idle = timeline.makespan * 4 - timeline.busy.sum()
    jobs = [FillJob(rank, 1.0) for rank in range(4) for _ in range(20)]
    result = fill_bubbles(timeline, jobs)
    assert result.filled.sum() == pytest.approx(idle)  # unit jobs fill unit gaps completely
    assert result.utilisation == pytest.approx(1.0)
    assert np.isnan(result.start).sum() == 80 - round(idle)
    late = fill_bubbles(timeline, [FillJob(0, 1.0, ready=0.0, deadline=0.5), FillJob(0, 100.0)])
    assert np.isnan(late.start).all()


def test_partition_rules() -> None:
    assert partition_layers(22, 8) == [3, 3, 3, 3, 3, 3, 2, 2]
    assert partition_layers([1] * 96, 8, 4) == [3] * 32
    assert partition_layers([4, 1, 1, 1, 1], 2, method="balanced") == [1, 4]
    # nanotron: a stage ends with the layer that reaches its share; the head here costs as much as 4 layers
    assert partition_layers([1] * 16, 2, method="share", tail=4) == [10, 6]
    assert partition_layers([1] * 16, 4, method="share", tail=4) == [5, 5, 5, 1]
    assert partition_layers([3.0] * 4, 4, method="share", tail=6.0) == [2, 1, 1, 0]  # the head alone ends the pipeline
    with pytest.raises(ValueError, match="3 layers cannot fill 4 virtual stages"):
        partition_layers(3, 4)
