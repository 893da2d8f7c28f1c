"""Laws every pipeline run obeys, whatever the schedule, the sizes and the times."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.registry import lookup, strategies
from simulator.strategies.pipeline.orders import BW, B, F, TaskOrder, W
from simulator.strategies.pipeline.partition import partition_layers
from simulator.training.pipeline import (
    PipelineCosts,
    narrow_pass,
    run_pipeline,
    run_schedule,
    task_pass,
    wavefront_pass,
)
from simulator.training.pipeline_program import build_program

NAMES = [record.name for record in strategies(family="pipeline")]
seconds = st.floats(0.01, 10, allow_nan=False)


@st.composite
def runs(draw: st.DrawFn, name: str | None = None) -> tuple[str, int, int, int, PipelineCosts]:
    """A schedule with sizes it accepts and uneven stages."""
    chosen = name or draw(st.sampled_from(NAMES))
    schedule = lookup("pipeline", chosen)()
    sizes = [
        (p, m, c)
        for p in range(1, 8) for m in range(1, 17) for c in (1, 2, 4)
        if not schedule.check(p, m, c)
    ]  # fmt: skip
    p, m, chunks = draw(st.sampled_from(sizes))
    stages = p * chunks

    def times() -> np.ndarray:
        return np.array(draw(st.lists(seconds, min_size=stages, max_size=stages)))

    f, b, w = times(), times(), times()
    share = draw(st.sampled_from([None, 1.0, 0.8]))

    def pair(forward: int, backward: int, split: bool) -> float:
        """A share of both halves one after the other, as DualPipe's pairs overlap."""
        return float(share or 1.0) * float(f[forward] + b[backward] + (0.0 if split else w[backward]))

    costs = PipelineCosts(
        forward=f, backward=b + w, input_gradient=b, weight_gradient=w,
        p2p=draw(st.sampled_from([0.0, 0.1, 3.0])), overlap_p2p=draw(st.booleans()),
        activation_bytes=times(), overlapped=pair if share else None,
        swap=draw(st.sampled_from([0.0, 0.5])),
    )  # fmt: skip
    return chosen, p, m, chunks, costs


@settings(max_examples=120, deadline=None)
@given(runs())
def test_every_schedule_runs_completely_and_in_order(case: tuple[str, int, int, int, PipelineCosts]) -> None:
    name, p, m, chunks, costs = case
    schedule = lookup("pipeline", name)()
    timeline = run_schedule(schedule, costs, p, m, chunks)
    timeline.validate()
    order = timeline.program.order
    items = m * schedule.traits().items_per_microbatch
    assert (order.kind == F).sum() == p * chunks * items
    assert (order.kind == BW).sum() + (order.kind == B).sum() == p * chunks * items
    assert (order.kind == B).sum() == (order.kind == W).sum()


@pytest.mark.parametrize("name", NAMES)
def test_every_schedule_ends_at_the_least_micro_batches(name: str) -> None:
    """Where warming up takes all forwards of a rank, an order deadlocks most easily."""
    schedule = lookup("pipeline", name)()
    tried = 0
    for p in range(1, 8):
        for chunks in (1, 2, 4):
            least = next((m for m in range(1, 17) if not schedule.check(p, m, chunks)), 0)
            if least:
                ones = np.ones(p * chunks)
                costs = PipelineCosts(
                    forward=ones, backward=2 * ones, input_gradient=ones, weight_gradient=ones, p2p=0.0,
                    overlap_p2p=True, activation_bytes=ones, overlapped=lambda f, b, split: 2.0 if split else 3.0,
                )  # fmt: skip
                run_schedule(schedule, costs, p, least, chunks).validate()
                tried += 1
    assert tried


@settings(max_examples=80, deadline=None)
@given(runs())
def test_all_passes_agree_to_the_bit(case: tuple[str, int, int, int, PipelineCosts]) -> None:
    name, p, m, chunks, costs = case
    schedule = lookup("pipeline", name)()
    traits = schedule.traits()
    program = build_program(schedule.order(p, m, chunks), traits, costs, m * traits.items_per_microbatch)
    if program.irregular:
        return
    reference = task_pass(program)
    for fast in (narrow_pass(program), wavefront_pass(program)):
        assert np.array_equal(reference[0], fast[0])
        assert np.array_equal(reference[1], fast[1])


@settings(max_examples=80, deadline=None)
@given(runs())
def test_step_is_bounded_by_work_and_by_the_serial_run(case: tuple[str, int, int, int, PipelineCosts]) -> None:
    name, p, m, chunks, costs = case
    timeline = run_schedule(lookup("pipeline", name)(), costs, p, m, chunks)
    assert timeline.makespan >= timeline.busy.max() * (1 - 1e-12)
    moves = timeline.program.transfer.sum() + timeline.program.send.sum() + timeline.program.receive.sum()
    assert timeline.makespan <= (timeline.busy.sum() + moves) * (1 + 1e-9)
    assert 0 <= timeline.bubble_over_total < 1
    assert (timeline.bubble_over_ideal_by_rank >= -1e-12).all()


@settings(max_examples=60, deadline=None)
@given(runs(), st.integers(0, 100), st.floats(1.1, 3))
def test_a_slower_stage_never_helps(case: tuple[str, int, int, int, PipelineCosts], pick: int, factor: float) -> None:
    name, p, m, chunks, costs = case
    schedule = lookup("pipeline", name)()
    forward = np.array(costs.forward)
    forward[pick % forward.size] *= factor
    before = run_schedule(schedule, costs, p, m, chunks)
    after = run_schedule(schedule, replace(costs, forward=forward), p, m, chunks)
    assert after.makespan >= before.makespan * (1 - 1e-12)


@settings(max_examples=60, deadline=None)
@given(runs(), st.floats(0.1, 100))
def test_time_scales(case: tuple[str, int, int, int, PipelineCosts], factor: float) -> None:
    name, p, m, chunks, costs = case
    schedule = lookup("pipeline", name)()
    parts = ("forward", "backward", "input_gradient", "weight_gradient", "p2p", "swap")
    pair = costs.overlapped
    scaled = replace(
        costs, **{part: np.asarray(getattr(costs, part)) * factor for part in parts},
        overlapped=None if pair is None else lambda f, b, split: factor * pair(f, b, split),
    )  # fmt: skip
    one, other = (run_schedule(schedule, c, p, m, chunks) for c in (costs, scaled))
    assert other.makespan == pytest.approx(one.makespan * factor)
    assert other.bubble_over_total == pytest.approx(one.bubble_over_total, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(runs())
def test_messages_are_what_the_boundaries_carry(case: tuple[str, int, int, int, PipelineCosts]) -> None:
    """Every micro-batch crosses every boundary between ranks once each way."""
    name, p, m, chunks, costs = case
    timeline = run_schedule(lookup("pipeline", name)(), replace(costs, message_bytes=7.0), p, m, chunks)
    program, order = timeline.program, timeline.program.order
    owner = {(int(s), int(mb)): int(r) for s, mb, r in zip(program.stage, order.microbatch, program.rank, strict=True)}
    crossings = sum(
        owner[s, mb] != owner[s + 1, mb] for s in range(program.stages - 1) for mb in range(program.microbatches)
    )
    assert timeline.p2p_messages.sum() == 2 * crossings
    assert timeline.p2p_bytes.sum() == pytest.approx(7 * 2 * crossings)


@settings(max_examples=40, deadline=None)
@given(runs())
def test_activation_peak_matches_a_direct_count(case: tuple[str, int, int, int, PipelineCosts]) -> None:
    """Independent count: sum over micro-batches of what is alive at the reported moment, and nowhere more."""
    name, p, m, chunks, costs = case
    timeline = run_schedule(lookup("pipeline", name)(), costs, p, m, chunks)
    program, order = timeline.program, timeline.program.order
    if program.detached.any():
        return
    bytes_of = np.broadcast_to(np.asarray(costs.activation_bytes), (program.stages,))
    for rank in range(p):
        mine = np.flatnonzero(program.rank == rank)
        spans: dict[tuple[int, int], list[float]] = {}
        for task in mine:
            key = (int(program.stage[task]), int(order.microbatch[task]))
            if order.kind[task] == F:
                spans[key] = [timeline.start[task], np.inf]
            elif order.kind[task] in (BW, W):
                spans[key][1] = timeline.end[task]

        def alive(now: float, spans: dict[tuple[int, int], list[float]] = spans) -> float:
            return sum(float(bytes_of[stage]) for (stage, _), (a, z) in spans.items() if a <= now < z)

        levels = [alive(start) for start, _ in spans.values()]
        assert timeline.activations.peak[rank] == pytest.approx(max(levels))
        assert alive(timeline.activations.moment[rank]) == pytest.approx(max(levels))


@settings(max_examples=40, deadline=None)
@given(runs())
def test_orders_survive_a_round_trip_through_actions(case: tuple[str, int, int, int, PipelineCosts]) -> None:
    name, p, m, chunks, costs = case
    schedule = lookup("pipeline", name)()
    traits, items = schedule.traits(), m * schedule.traits().items_per_microbatch
    packed = TaskOrder.of(schedule.order(p, m, chunks))
    listed = [list(rank) for rank in packed]
    assert TaskOrder.of(listed)[p - 1] == packed[p - 1]
    ends = [run_pipeline(o, traits, costs, items).end for o in (packed, listed)]
    assert np.array_equal(*ends)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=12), st.integers(1, 6), st.floats(0, 20))
def test_partition_by_share_ends_each_stage_with_the_layer_that_reaches_it(
    costs: list[float], stages: int, tail: float
) -> None:
    if len(costs) < stages:
        return
    counts = partition_layers(costs, stages, 1, "share", tail)
    assert sum(counts) == len(costs) and all(c >= 1 for c in counts[:-1]) and counts[-1] >= (tail == 0)
    total, taken = sum(costs) + tail, 0
    for stage, count in enumerate(counts[:-1], 1):
        taken += count
        before = sum(costs[: taken - 1])
        # The last layer of a stage was needed: without it the share was not reached, or the stage would be empty.
        assert count == 1 or before < total * stage / stages
        spare = len(costs) - taken - (stages - stage) + (tail > 0)
        assert spare == 0 or sum(costs[:taken]) >= total * stage / stages * (1 - 1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=9), st.integers(1, 5), st.sampled_from(["even", "balanced"]))
def test_partition_covers_all_layers_and_is_optimal(costs: list[float], stages: int, method: str) -> None:
    if len(costs) < stages:
        with pytest.raises(ValueError, match="use at most"):
            partition_layers(costs, stages, 1, method)
        return
    counts = partition_layers(costs, stages, 1, method)
    assert sum(counts) == len(costs)
    assert min(counts) >= 1

    def dearest(ends: tuple[int, ...]) -> float:
        cuts = (0, *ends, len(costs))
        return max(sum(costs[a:b]) for a, b in pairwise(cuts))

    if method == "balanced":
        best = min(dearest(ends) for ends in combinations(range(1, len(costs)), stages - 1))
        assert dearest(tuple(np.cumsum(counts)[:-1].tolist())) == pytest.approx(best)
    else:
        assert max(counts) - min(counts) <= 1


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(1, 12), seconds, seconds, st.floats(0.0, 1.0))
def test_varuna_hides_the_recomputation_of_a_lone_micro_batch(
    ranks: int, microbatches: int, forward: float, backward: float, share: float
) -> None:
    """One micro-batch: p(F + B), against p(F + B) + (p − 1)R of 1F1B, as R ≤ B hides behind the stage that follows."""
    again = np.full(ranks, share * min(forward, backward))
    again[-1] = 0.0
    costs = PipelineCosts(np.full(ranks, forward), backward + again, recompute=again)
    varuna, plain = (run_schedule(lookup("pipeline", name)(), costs, ranks, 1) for name in ("varuna", "1f1b"))
    assert varuna.makespan == pytest.approx(ranks * (forward + backward))
    assert plain.makespan == pytest.approx(ranks * (forward + backward) + again.sum())
    many = run_schedule(lookup("pipeline", "varuna")(), costs, ranks, microbatches)
    assert many.busy == pytest.approx(microbatches * (forward + backward + again))


@pytest.mark.parametrize("ranks", [2, 3, 5, 8])
@pytest.mark.parametrize("microbatches", [1, 3, 8, 24])
def test_varuna_is_never_slower_than_1f1b_at_its_own_units(ranks: int, microbatches: int) -> None:
    """F = R = 1, B = 2, none again on the last stage: the order is made for these."""
    again = np.ones(ranks)
    again[-1] = 0.0
    costs = PipelineCosts(np.ones(ranks), 2.0 + again, recompute=again)
    varuna, plain = (run_schedule(lookup("pipeline", n)(), costs, ranks, microbatches) for n in ("varuna", "1f1b"))
    assert varuna.makespan <= plain.makespan


@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("microbatches", [3, 4, 8, 24])
def test_shifted_critical_path_never_waits_on_the_last_stage_but_one(ranks: int, microbatches: int) -> None:
    """F = R = 1, B = 2: (p−2)(F+B) + m(F+R+B), which no order of stages that compute again can beat.

    1F1B takes (m+p−1)(F+R+B), and 2R less with the last stage kept. The order is the one that Merak runs
    (Merak/core/pipeline/schedule.py, FullCriticalPathTrainSchedule): the third forward before the first backward.
    """
    again = np.ones(ranks)
    costs = PipelineCosts(np.ones(ranks), 2.0 + again, recompute=again)
    again_but_last = np.where(np.arange(ranks) == ranks - 1, 0.0, again)
    kept = PipelineCosts(np.ones(ranks), 2.0 + again_but_last, recompute=again_but_last)
    shifted = run_schedule(lookup("pipeline", "shifted-critical-path")(), kept, ranks, microbatches)
    assert shifted.makespan == (ranks - 2) * 3 + microbatches * 4
    assert float(shifted.busy[ranks - 2]) == microbatches * 4
    full = run_schedule(lookup("pipeline", "1f1b")(), costs, ranks, microbatches)
    assert full.makespan == (microbatches + ranks - 1) * 4
    plain = run_schedule(lookup("pipeline", "1f1b")(), kept, ranks, microbatches)
    assert plain.makespan == full.makespan - 2
    assert shifted.makespan <= run_schedule(lookup("pipeline", "varuna")(), kept, ranks, microbatches).makespan
    held = run_schedule(
        lookup("pipeline", "shifted-critical-path")(), PipelineCosts.uniform(ranks), ranks, microbatches
    )
    expected = np.minimum(microbatches, ranks - np.arange(ranks) + (np.arange(ranks) == ranks - 2))
    assert held.activations.peak.tolist() == expected.tolist()
