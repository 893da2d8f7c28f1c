"""Bubbles, residency and weight versions of every schedule against the closed forms of their papers.

F = B = W = 1 per stage unless a schedule's formula counts a whole backward as one forward; no communication.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import numpy as np
import pytest

from simulator.registry import lookup
from simulator.strategies.pipeline.bpipe import balanced_residency
from simulator.strategies.pipeline.terapipe import TeraPipe
from simulator.strategies.protocols import PipelineSchedule
from simulator.training.pipeline import PipelineCosts, run_schedule
from simulator.training.pipeline_timeline import PipelineTimeline

SIZES = [(2, 4), (4, 8), (8, 16), (6, 24)]


def run(
    name: str, p: int, m: int, chunks: int = 1, f: float = 1.0, b: float = 1.0, w: float = 1.0, steps: int = 1
) -> PipelineTimeline:
    """Run a schedule on stages whose times are those of a whole rank divided by its chunks."""
    schedule: PipelineSchedule = lookup("pipeline", name)()
    stages = p * chunks
    timeline = run_schedule(
        schedule, PipelineCosts.uniform(stages, f / chunks, b / chunks, w / chunks), p, m, chunks, steps
    )
    timeline.validate()
    return timeline


@pytest.mark.parametrize(("p", "m"), SIZES)
@pytest.mark.parametrize("name", ["gpipe", "1f1b", "pipefisher", "bpipe"])
def test_gpipe_and_1f1b_bubble(name: str, p: int, m: int) -> None:
    timeline = run(name, p, m)
    assert timeline.bubble_over_total == pytest.approx((p - 1) / (m + p - 1))
    assert timeline.bubble_over_ideal == pytest.approx((p - 1) / m)
    assert timeline.makespan == pytest.approx((m + p - 1) * 3)


@pytest.mark.parametrize(
    ("name", "chunks", "f_equals_whole_backward", "golden"),
    [("gpipe", 1, False, 0.3043), ("1f1b", 1, False, 0.3043), ("interleaved-1f1b", 4, False, 0.0986),
     ("chimera", 1, True, 0.1579), ("zb-h1", 1, False, 0.1273)],
)  # fmt: skip
def test_golden_bubble_shares_at_8_ranks_16_microbatches(
    name: str, chunks: int, f_equals_whole_backward: bool, golden: float
) -> None:
    half = 0.5 if f_equals_whole_backward else 1.0
    assert run(name, 8, 16, chunks, 1.0, half, half).bubble_over_total == pytest.approx(golden, abs=5e-5)


@pytest.mark.parametrize("name", ["interleaved-1f1b", "breadth-first"])
@pytest.mark.parametrize("chunks", [2, 4])
@pytest.mark.parametrize(("p", "m"), SIZES)
def test_looped_bubble(name: str, chunks: int, p: int, m: int) -> None:
    assert run(name, p, m, chunks).bubble_over_total == pytest.approx((p - 1) / (chunks * m + p - 1))


@pytest.mark.parametrize(("p", "m"), SIZES)
def test_residency_of_1f1b_and_gpipe(p: int, m: int) -> None:
    assert run("1f1b", p, m).activations.peak.tolist() == [min(m, p - i) for i in range(p)]
    assert run("gpipe", p, m).activations.peak.tolist() == [m] * p


@pytest.mark.parametrize(("chunks", "golden"), [(2, 1.4375), (4, 1.21875)])
def test_interleaved_memory_factor(chunks: int, golden: float) -> None:
    p = 8
    peak = run("interleaved-1f1b", p, 2 * p, chunks).activations.peak[0] / chunks / p
    assert peak == pytest.approx(golden)
    assert peak == pytest.approx(1 + (p - 1) / (p * chunks))


def test_interleaving_multiplies_messages_by_chunks() -> None:
    p, m = 4, 8
    assert run("1f1b", p, m).p2p_messages.tolist() == [m, 2 * m, 2 * m, m]
    looped = run("interleaved-1f1b", p, m, 3).p2p_messages
    assert looped.sum() == 2 * m * (3 * p - 1)


@pytest.mark.parametrize(("p", "m"), [(4, 4), (4, 8), (8, 16), (6, 30)])
def test_chimera(p: int, m: int) -> None:
    timeline = run("chimera", p, m, b=0.5, w=0.5)
    assert timeline.bubble_over_total == pytest.approx((p - 2) / (2 * m + p - 2))
    assert (timeline.in_flight.peak.min(), timeline.in_flight.peak.max()) == (p / 2 + 1, p)


def test_chimera_unit_with_twice_as_long_backward() -> None:
    p = m = 8
    assert run("chimera", p, m).bubble_over_total == pytest.approx((p - 2) / (1.5 * m + p - 2))


@pytest.mark.parametrize("waves", [1, 2, 3])
@pytest.mark.parametrize(("p", "m"), [(4, 4), (5, 10), (8, 16)])
def test_hanayo_is_half_of_a_chimera_of_twice_the_ranks(waves: int, p: int, m: int) -> None:
    timeline = run("hanayo", p, m, 2 * waves, b=0.5, w=0.5)
    assert timeline.bubble_over_total == pytest.approx((p - 1) / (2 * waves * m + p - 1))
    assert timeline.in_flight.peak.max() / (2 * waves) <= p
    if waves == 1:
        assert timeline.bubble_over_total == pytest.approx(run("chimera", 2 * p, 2 * m, b=0.5, w=0.5).bubble_over_total)


@pytest.mark.parametrize(("p", "m"), SIZES)
def test_gems_pairs_and_its_limit(p: int, m: int) -> None:
    timeline = run("gems", p, m)  # backward = 2 forward
    assert timeline.makespan == pytest.approx(p + 2 * p * m + (m - 1))
    assert timeline.in_flight.peak.max() == 1
    long = run("gems", p, 400)
    assert long.bubble_over_total == pytest.approx((p - 1) / (p + 0.5), rel=0.01)


@pytest.mark.parametrize(("p", "m"), SIZES)
@pytest.mark.parametrize(("f", "b", "w"), [(1.0, 1.0, 1.0), (1.0, 1.2, 0.7), (1.0, 1.1, 0.9)])
def test_zb_h1_and_h2_bubbles(p: int, m: int, f: float, b: float, w: float) -> None:
    """Table 2 of arXiv 2401.10241: bubble = longest rank − m(F+B+W)."""
    work = m * (f + b + w)
    assert run("zb-h1", p, m, 1, f, b, w).span.max() - work == pytest.approx((p - 1) * (f + b - w))
    if m >= 2 * p:
        assert run("zb-h2", p, m, 1, f, b, w).span.max() - work == pytest.approx((p - 1) * (f + b - 2 * w))


def test_zero_bubble_memory_by_rank() -> None:
    """Same table: (p−i)·M_B + i·M_W for H1, (2p−2i−1)·M_B + 2i·M_W for H2, i from 0."""
    p, m, held, kept = 6, 24, 1.0, 0.25
    costs = PipelineCosts(
        forward=np.ones(p), backward=2 * np.ones(p), input_gradient=np.ones(p), weight_gradient=np.ones(p),
        activation_bytes=held, weight_gradient_bytes=kept,
    )  # fmt: skip
    rank = np.arange(p)
    for name, expected in (
        ("zb-h1", (p - rank) * held + rank * kept),
        ("zb-h2", (2 * p - 2 * rank - 1) * held + 2 * rank * kept),
    ):
        peak = run_schedule(lookup("pipeline", name)(), costs, p, m).activations.peak
        assert peak == pytest.approx(expected)


@pytest.mark.parametrize(("p", "m"), [(4, 12), (8, 32), (5, 20)])
@pytest.mark.parametrize(("name", "chunks", "memory"), [("zb-h2", 1, 2.0), ("zb-2p", 1, 2.0), ("zb-v", 2, 1.0)])
def test_zero_bubble_schedules_have_none_without_a_barrier(
    name: str, chunks: int, memory: float, p: int, m: int
) -> None:
    timeline = run(name, p, m, chunks)
    assert timeline.bubble_over_span == pytest.approx(0, abs=1e-12)
    assert timeline.activations.peak.max() / chunks <= memory * p


@pytest.mark.parametrize(("p", "m"), SIZES)
def test_zb_1p_within_the_memory_of_1f1b(p: int, m: int) -> None:
    timeline = run("zb-1p", p, m)
    assert timeline.span.max() - 3 * m == pytest.approx(p - 1)
    assert timeline.activations.peak.max() <= p


@pytest.mark.parametrize("p", [4, 5, 6, 8, 16])
def test_v_half_and_v_min_memory(p: int) -> None:
    """Lifetimes of the building blocks (arXiv 2405.15362): p/2 + 1 and (p + 4)/3 of 1F1B's p micro-batches."""
    assert run("v-half", p, 4 * p, 2).activations.peak.max() / 2 <= p / 2 + 1
    assert run("v-min", p, 4 * p, 2).activations.peak.max() / 2 <= (p + 4) / 3


@pytest.mark.parametrize("name", ["v-half", "v-min"])
def test_v_schedules_have_no_bubble_in_the_steady_state(name: str) -> None:
    p = 4
    short, long = (run(name, p, m, 2).makespan for m in (40, 80))
    assert long - short == pytest.approx(40 * 3)


@pytest.mark.parametrize(("p", "m"), [(4, 8), (8, 20), (8, 32), (16, 40)])
def test_dualpipe(p: int, m: int) -> None:
    """Bubble (p/2−1)(F&B + B − 3W) with B the whole backward and F&B = F + B (no gain); activations p + 1."""
    f, b, w = 1.0, 1.0, 1.0
    expected = (p / 2 - 1) * (f + (b + w) + (b + w) - 3 * w)
    both = run("dualpipe", p, m)
    assert both.makespan - m * (f + b + w) == pytest.approx(expected)
    assert both.in_flight.peak.tolist() == [p + 1] * p
    # Folded: p stages as long as above on p/2 ranks, which see every micro-batch twice.
    folded = run("dualpipev", p // 2, m, 2, 2 * f, 2 * b, 2 * w)
    assert folded.makespan - 2 * m * (f + b + w) == pytest.approx(expected)
    assert folded.makespan == pytest.approx(run("dualpipe", p, 2 * m).makespan)
    assert folded.in_flight.peak.tolist() == [p + 1] * (p // 2)


def test_dualpipe_overlap_shortens_the_step() -> None:
    p, m = 4, 16
    costs = PipelineCosts.uniform(p)
    gain = replace(costs, overlapped=lambda forward, backward, split: 0.8 * 3)
    schedule = lookup("pipeline", "dualpipe")()
    plain, fast = (run_schedule(schedule, c, p, m) for c in (costs, gain))
    pairs = np.bincount(plain.program.rank[plain.program.paired], minlength=p)
    assert (plain.busy - fast.busy) == pytest.approx(pairs * 3 * 0.2)
    assert fast.makespan < plain.makespan


@pytest.mark.parametrize(("p", "m", "v"), [(2, 8, 2), (4, 8, 3), (4, 16, 2)])
def test_interleaved_pairs(p: int, m: int, v: int) -> None:
    """One forward more before the first backward, then all m·v − warm-up forwards beside a backward; where a pair hides
    nothing it takes as long as both, and where it hides everything the rank saves the forwards' time."""
    plain, pairs = run("interleaved-1f1b", p, m, v), run("interleaved-1f1b-overlapped", p, m, v)
    assert pairs.busy == pytest.approx(plain.busy)
    assert (pairs.in_flight.peak - plain.in_flight.peak).tolist() == [1] * p
    ranks = np.arange(p)
    expected = np.maximum(m * v - (2 * (p - 1 - ranks) + (v - 1) * p + 1), 0)
    paired = np.bincount(pairs.program.rank[pairs.program.paired], minlength=p)
    assert paired.tolist() == expected.tolist()
    hidden = replace(PipelineCosts.uniform(p * v), overlapped=lambda forward, backward, split: 2.0)
    fast = run_schedule(lookup("pipeline", "interleaved-1f1b-overlapped")(), hidden, p, m, v)
    slow = run_schedule(lookup("pipeline", "interleaved-1f1b-overlapped")(), PipelineCosts.uniform(p * v), p, m, v)
    assert (slow.busy - fast.busy).tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize("p", [4, 5, 8, 16])
def test_bpipe_balances_residency(p: int) -> None:
    timeline = run("bpipe", p, 3 * p)
    limit = ceil((p + 2) / 2)
    assert balanced_residency(p) == limit
    assert timeline.activations.peak.max() <= limit
    assert timeline.activations.peak.max() < run("1f1b", p, 3 * p).activations.peak.max()
    evicts = timeline.swap_bytes / 2  # one byte each way per micro-batch
    assert evicts.tolist() == [max(0, 3 * p - limit) if p - i > limit else 0 for i in range(p)]


@pytest.mark.parametrize("slices", [1, 4])
def test_terapipe_counts_slices_as_microbatches(slices: int) -> None:
    p, m = 8, 4
    timeline = run_schedule(TeraPipe(slices), PipelineCosts.uniform(p), p, m)
    assert timeline.bubble_over_total == pytest.approx((p - 1) / (m * slices + p - 1))


@pytest.mark.parametrize("name", ["pipedream", "pipemare", "spectrain", "xpipe", "pipedream-2bw"])
def test_asynchronous_steady_state_has_no_bubble(name: str) -> None:
    p, m = 4, 8
    assert run(name, p, m, steps=10).steady_period(m) == pytest.approx(3 * m)


def test_pipedream_keeps_one_version_per_microbatch_in_flight() -> None:
    p = 6
    timeline = run("pipedream", p, 1, steps=60)
    claimed = [timeline.program.traits.weight_versions(i, p) for i in range(p)]
    assert timeline.weight_versions(1)[:, 0].tolist() == claimed == [p - i for i in range(p)]
    assert timeline.staleness(1)[:, 0].tolist() == [p - 1 - i for i in range(p)]


@pytest.mark.parametrize(("p", "m"), [(4, 4), (4, 8), (8, 8)])
def test_2bw_needs_exactly_two_versions(p: int, m: int) -> None:
    timeline = run("pipedream-2bw", p, m, steps=10)
    versions, late = timeline.weight_versions(m)[:, 0], timeline.staleness(m)[:, 0]
    assert versions.max() == 2
    assert late.max() == 1
    assert versions[-1] == 1  # the last rank turns every micro-batch round at once


def test_wpipe_halves_redundancy_and_staleness_of_2bw() -> None:
    p, m = 4, 8
    timeline = run("wpipe", p, m, 2, steps=10)
    assert timeline.weight_versions(m).tolist() == [[2, 1]] * p
    assert timeline.staleness(m).tolist() == [[1, 0]] * p
    assert timeline.steady_period(m) == pytest.approx(3 * m)
