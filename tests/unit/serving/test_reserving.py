"""Prompts that wait until the answers under way fit, and answers that fit before they begin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.serving.run import ServingRun
from simulator.serving.separable import SeparableCost
from simulator.serving.simulate import simulate_deployment
from simulator.strategies.batching.prefill_first import ChunkedPrefillFirst
from simulator.strategies.batching.reserving import ReservingPrefillFirst
from simulator.strategies.protocols import BatchPolicy
from simulator.workload.framework_files import load_framework
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable

COST = SeparableCost(lambda n: 1e-4 * n, lambda n: 0.0, lambda n: (5e-3, 0.0))


def run(
    policy: BatchPolicy, blocks: int, answers: list[int], prompt: int = 10, stride: int | None = None
) -> ServingRun:
    count = len(answers)
    provenance = TraceProvenance("test", "generated", count, count)
    table = RequestTable(np.zeros(count), np.full(count, prompt), np.array(answers), "test", provenance)
    return simulate_deployment(
        table, COST, kv_blocks=blocks, block_size=1, max_num_seqs=1000, batching=policy, stride=stride
    )


def together(found: ServingRun) -> int:
    """Most requests between their first token and their end."""
    changes = sorted([(t, 1) for t in found.first_token] + [(t, -1) for t in found.finish])
    return int(np.cumsum([c for _, c in changes]).max())


def test_a_whole_reserve_retracts_nobody() -> None:
    """Ten of prompt and 40 of answer: of 300 blocks six requests at a time, and nobody is sent back."""
    whole = ReservingPrefillFirst(ratio=1.0, least=1.0)
    found = run(whole, 300, [40] * 30)
    assert together(found) == 6
    assert found.preemptions.sum() == 0


def test_without_a_reserve_the_cache_is_overfilled() -> None:
    found = run(ChunkedPrefillFirst(), 300, [40] * 30)
    assert together(found) > 6
    assert found.preemptions.sum() > 0


def test_a_share_of_the_reserve_lies_between() -> None:
    least, part, whole = (
        run(ReservingPrefillFirst(ratio=r, least=1.0), 300, [40] * 30) for r in (0.0, 0.5, 1.0)
    )  # fmt: skip
    assert together(least) >= together(part) > together(whole)
    assert least.preemptions.sum() >= part.preemptions.sum()


def test_the_ratio_falls_over_the_decodes_and_not_below_its_least() -> None:
    """One request decodes alone for 601 iterations: 0.7 at first, 0.7 * 0.14 at the end, a straight line between."""
    seen: list[tuple[int, float]] = []

    class Watched(ReservingPrefillFirst):
        def now_ratio(self, replica: object) -> float:  # type: ignore[override]
            ratio = super().now_ratio(replica)  # type: ignore[arg-type]
            seen.append((replica.iterations, ratio))  # type: ignore[attr-defined]
            return ratio

    answers = [*range(100, 1000, 100)]
    run(Watched(), 2000, [*answers, 900, 900], prompt=100, stride=1)
    ratios = [ratio for _, ratio in seen]
    assert max(ratios) <= 0.7
    assert min(ratios) >= 0.7 * 0.14 - 1e-12
    assert min(ratios) < 0.5


def test_a_request_too_long_for_the_reserve_runs_alone() -> None:
    found = run(ReservingPrefillFirst(), 61, [50, 50])
    assert together(found) == 1
    assert np.isfinite(found.finish).all()


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=40), st.integers(80, 400))
def test_a_jump_decides_as_single_steps_do(answers: list[int], blocks: int) -> None:
    jumped, stepped = (run(ReservingPrefillFirst(), blocks, answers, stride=s) for s in (None, 1))
    np.testing.assert_allclose(jumped.finish, stepped.finish, rtol=1e-9)
    np.testing.assert_array_equal(jumped.preemptions, stepped.preemptions)


@pytest.mark.parametrize("prompt", [1, 7])
def test_tensorrt_llm_admits_what_fits_to_its_end(prompt: int) -> None:
    """GUARANTEED_NO_EVICT: no request is ever sent back."""
    framework = load_framework("tensorrt-llm-1.0")
    count = 40
    provenance = TraceProvenance("test", "generated", count, count)
    table = RequestTable(np.zeros(count), np.full(count, prompt), np.arange(1, count + 1), "test", provenance)
    found = simulate_deployment(
        table, COST, kv_blocks=200, block_size=1, max_num_seqs=1000, batching=framework.batching,
        kv_cache=framework.kv_cache,
    )  # fmt: skip
    assert found.preemptions.sum() == 0
