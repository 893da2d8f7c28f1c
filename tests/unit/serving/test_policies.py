"""What each batching policy does with a handful of requests, followed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.engine.clock import Clock
from simulator.errors import ConfigError
from simulator.registry import strategies
from simulator.serving.deployment import DeploymentProcess
from simulator.serving.metrics import slo_met, summarize
from simulator.serving.replica import EngineLimits
from simulator.serving.run import ServingRun
from simulator.serving.simulate import simulate_deployment
from simulator.strategies.batching.request_level import Dynamic, Static
from simulator.strategies.protocols import BatchShape, Segment
from simulator.workload.jobs import ServiceLevel
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable
from tests.serving_deployments import random_requests


class Second:
    """One second per iteration, plus one per 100 prompt tokens."""

    def __init__(self) -> None:
        self.batches: list[BatchShape] = []

    def iteration(self, batch: BatchShape) -> float:
        self.batches.append(batch)
        return 1.0 + sum(chunk for chunk, _ in batch.prefill) / 100

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(1.0, 0.0, 1 << 40)


def serve(rows: list[tuple[float, int, int]], cost: Second | None = None, **options: object) -> ServingRun:
    arrival, inputs, outputs = (np.array(column) for column in zip(*rows, strict=True))
    table = RequestTable(arrival, inputs, outputs, "hand", TraceProvenance("test", "generated", len(rows), len(rows)))
    return simulate_deployment(table, cost or Second(), **({"kv_blocks": 1000} | options))  # type: ignore[arg-type]


def test_prefill_first_pauses_decodes_for_a_prompt() -> None:
    run = serve([(0.0, 100, 4), (2.5, 200, 2)], batching="prefill-first")
    # 0-2 prefill; 2-3 decode; 3-6 second prompt; 6-7 both decode; 7-8 the first alone.
    assert run.first_token.tolist() == [2.0, 6.0]
    assert run.finish.tolist() == [8.0, 7.0]
    # The first request waits 1, 4 and 1 s between tokens; the second 1 s.
    summary = summarize(run)
    assert summary["itl_mean"] == pytest.approx((1 + 4 + 1 + 1) / 4)
    assert summary["itl_p99"] == 4.0
    assert summary["tpot_mean"] == pytest.approx((6 / 3 + 1) / 2)


def test_prefill_first_counts_padding_or_tokens_against_its_budget() -> None:
    from simulator.strategies.batching.prefill_first import PrefillFirst

    rows = [(0.0, 100, 1), (0.0, 300, 1)]
    assert serve(rows, batching="prefill-first", max_num_batched_tokens=400).finish.tolist() == [5.0, 5.0]
    padded = serve(rows, batching=PrefillFirst(count_padding=True), max_num_batched_tokens=400)
    assert padded.finish.tolist() == [2.0, 6.0]


def test_chunked_prefill_runs_decodes_beside_chunks() -> None:
    cost = Second()
    run = serve([(0.0, 50, 5), (1.0, 120, 2)], cost, batching="chunked-prefill", max_num_batched_tokens=51)
    # 0-1.5 prompt; 1.5-3 decode + 50; 3-4.5 decode + 50; 4.5-5.7 decode + 20; 5.7-6.7 both decode.
    assert [b.prefill for b in cost.batches] == [((50, 0),), ((50, 0),), ((50, 50),), ((20, 100),)]
    assert [b.decodes for b in cost.batches] == [0, 1, 1, 1]
    np.testing.assert_allclose(run.first_token, [1.5, 5.7])
    np.testing.assert_allclose(run.finish, [6.7, 6.7])


def test_orca_reserves_to_the_end_and_never_preempts() -> None:
    # Reserved 64 tokens = 4 blocks each; 9 blocks hold two and the third waits for the first to end.
    rows = [(0.0, 32, 32), (0.0, 32, 20), (0.0, 32, 2)]
    run = serve(rows, batching="orca", kv_blocks=9, max_model_len=64, watermark=0.0)
    assert run.preemptions.sum() == 0
    assert run.scheduled[2] == run.finish[1]
    assert run.replicas[0].kv_blocks_peak == 8


def test_a_static_batch_ends_together_and_nobody_joins() -> None:
    cost = Second()
    run = serve([(0.0, 100, 3), (0.0, 200, 5), (2.0, 100, 1)], cost, batching="static")
    # 0-3 prompts padded to 200 each: 1 + 4 s = 5 s; then four decodes.
    assert cost.batches[0].prefill == ((200, 0), (200, 0))
    assert run.first_token.tolist() == [5.0, 5.0, 11.0]
    assert run.finish.tolist() == [9.0, 9.0, 11.0]
    assert run.gaps[:, 2] @ run.gaps[:, 3] == 2 + 4


def test_a_dynamic_batch_starts_when_full_or_due() -> None:
    rows = [(0.0, 100, 1), (0.5, 100, 1), (10.0, 100, 1), (10.1, 100, 1), (10.2, 100, 1)]
    run = serve(rows, batching=Dynamic(max_batch_size=3, max_delay=2.0))
    np.testing.assert_allclose(run.scheduled, [2.0, 2.0, 10.2, 10.2, 10.2])


def test_a_dynamic_batch_without_delay_is_a_static_one() -> None:
    rng = np.random.default_rng(0)
    rows = [(float(t), int(n), int(m)) for t, n, m in zip(
        np.cumsum(rng.exponential(3, 60)), rng.integers(1, 300, 60), rng.integers(1, 20, 60), strict=True
    )]  # fmt: skip
    runs = [serve(rows, batching=policy) for policy in (Static(4), Dynamic(4, 0.0))]
    np.testing.assert_array_equal(runs[0].finish, runs[1].finish)


def test_a_full_cache_preempts_the_latest_arrival_which_recomputes() -> None:
    # 8 blocks of 4 tokens, 2 of them below the watermark. Contexts 13 take all eight blocks; at 14 none is free, the
    # second gives its four back and cannot come back (4 needed, 4 free, 2 kept) before the first has ended.
    rows = [(0.0, 8, 9), (0.0, 8, 9)]
    run = serve(rows, batching="prefill-first", kv_blocks=8, block_size=4, watermark=0.25)
    assert run.preemptions.tolist() == [0, 1]
    assert run.replicas[0].recomputed_tokens == 13
    assert run.replicas[0].kv_blocks_peak == 8
    # Prompts until 1.16, eight decodes of the first until 9.16; then 14 tokens again and two more decodes.
    np.testing.assert_allclose(run.finish, [9.16, 9.16 + 1.14 + 2])


def test_what_cannot_be_served_is_rejected_by_reason() -> None:
    rows = [(0.0, 90, 20), (0.0, 300, 1), (0.0, 2, 2)]
    run = serve(rows, max_model_len=100)
    assert run.rejections() == {"longer than max_model_len": 2}
    assert serve(rows, kv_blocks=10).rejections() == {"longer than the KV cache": 1}
    assert serve(rows, batching="prefill-first", max_num_batched_tokens=200).rejections() == {
        "prompt longer than the token budget": 1
    }
    summary = summarize(run, slo=ServiceLevel(ttft=10.0))
    assert (summary["requests"], summary["rejected"], summary["slo_attainment"]) == (1, 2, pytest.approx(1 / 3))


def test_service_levels_count_every_limit() -> None:
    run = serve([(0.0, 100, 4), (2.5, 200, 2)], batching="prefill-first")
    # TTFT 2 and 3.5 s, TPOT 2 and 1 s, end to end 8 and 4.5 s.
    assert slo_met(run, ServiceLevel(ttft=3.0)).tolist() == [True, False]
    assert slo_met(run, ServiceLevel(tpot=1.5)).tolist() == [False, True]
    assert slo_met(run, ServiceLevel(ttft=3.6, tpot=2.0, e2e=7.0)).tolist() == [False, True]
    assert summarize(run, slo=ServiceLevel(ttft=3.0))["slo_goodput"] == pytest.approx(1 / 8.0)


def test_pipeline_stages_overlap_micro_batches() -> None:
    # Two stages of 1 s; two groups of one sequence each: the second enters stage 0 when the first leaves it.
    class Stages(Second):
        def iteration(self, batch: BatchShape) -> float:
            return 2.0

    run = serve([(0.0, 1, 3), (0.0, 1, 3)], Stages(), pipeline_stages=2, max_num_seqs=2)
    assert run.first_token.tolist() == [2.0, 3.0]
    assert run.finish.tolist() == [6.0, 7.0]


@pytest.mark.parametrize("router", [r.name for r in strategies(family="router")])
def test_no_replica_starves_under_a_symmetric_load(router: str) -> None:
    rows = [(i * 0.9, 10, 3) for i in range(400)]
    run = serve(rows, replicas=4, router=router)
    counts = np.bincount(run.replica, minlength=4)
    assert counts.min() > 60


def test_a_growing_cache_is_refused_for_batches_without_early_exit() -> None:
    with pytest.raises(ConfigError, match="reserve-exact"):
        serve([(0.0, 1, 1)], batching="static", kv_cache="paged")


def test_a_run_can_be_cut_off() -> None:
    run = serve([(0.0, 100, 50), (20.0, 100, 1), (90.0, 100, 1)], until=30.0)
    assert run.completed.tolist() == [False, True, False]
    assert np.isnan(run.arrival[2])
    assert run.replicas[0].until == 30.0
    assert summarize(run)["unfinished"] == 2


def test_a_shared_clock_changes_nothing() -> None:
    """Another process that looks at the replica every 0.7 s sees it in step and does not disturb it."""
    table = random_requests(2, 50, 2, (1, 300), (1, 60))
    alone = simulate_deployment(table, Second(), kv_blocks=500)
    clock = Clock()
    process = DeploymentProcess(clock, table, Second(), EngineLimits(500))
    seen = []

    def watch() -> object:
        while True:
            yield clock.timeout(0.7)
            seen.append((clock.now, process.replicas[0].outstanding))

    clock.process(watch())  # type: ignore[arg-type]
    run = clock.run(process.start())
    np.testing.assert_array_equal(run.finish, alone.finish)
    in_system = [int((table.arrival < t).sum() - (run.finish < t).sum()) for t, _ in seen]
    assert [n for _, n in seen] == in_system
    assert len(seen) > 100


def test_two_that_begin_late_together_do_the_same_later() -> None:
    """Times on the clock are rounded: an arrival must not lie behind the moment it was booked for."""
    table = random_requests(2, 100, 2, (1, 300), (1, 60))
    alone = simulate_deployment(table, Second(), kv_blocks=500)
    clock = Clock()
    clock.run(clock.timeout(1000.0))
    processes = [DeploymentProcess(clock, table, Second(), EngineLimits(500)) for _ in range(2)]
    ends = [process.start() for process in processes]
    for end in ends:
        run = end.value if end.processed else clock.run(end)
        np.testing.assert_allclose(run.finish, alone.finish, rtol=0, atol=1e-9)


def test_a_change_of_cost_takes_hold_at_the_next_iteration() -> None:
    class Switch(Second):
        time = 1.0

        def decode_segment(self, batch: BatchShape) -> Segment:
            return Segment(self.time, 0.0, 1 << 40)

    cost, clock = Switch(), Clock()
    table = RequestTable(np.zeros(1), np.array([100]), np.array([11]), "one", TraceProvenance("t", "generated", 1, 1))
    process = DeploymentProcess(clock, table, cost, EngineLimits(100))

    def slow_down() -> None:
        cost.time = 3.0
        process.truncate(0)

    done = process.start()
    clock.at(5.5, slow_down)
    # 2 s prompt, decodes of 1 s until 6, the other six of 3 s.
    assert clock.run(done).finish.tolist() == [24.0]
