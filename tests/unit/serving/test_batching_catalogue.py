"""Batching policies of the catalogue: closed forms, known optima and limiting cases."""

from __future__ import annotations

import heapq
import itertools

import numpy as np
import pytest

from simulator.serving.run import ServingRun
from simulator.serving.simulate import simulate_deployment
from simulator.strategies.batching.adaptive import ClipperAIMD, ServerlessBatch
from simulator.strategies.batching.cellular import DVABatch, LazyBatching
from simulator.strategies.batching.fair import VirtualTokenCounter
from simulator.strategies.batching.fastserve import FastServe
from simulator.strategies.batching.ordered import ShortestJobFirst
from simulator.strategies.batching.padding import padding_waste, split_sorted
from simulator.strategies.batching.preemptive import ShortestRemainingTime
from simulator.strategies.batching.request_level import Dynamic
from simulator.strategies.batching.s3 import S3
from simulator.strategies.protocols import BatchShape, Segment
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable


class Steps:
    """Every iteration takes one second, whatever is in it."""

    def iteration(self, batch: BatchShape) -> float:
        return 1.0

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(1.0, 0.0, 1 << 40)


class Linear:
    """fixed + per token, a prompt padded or not."""

    def __init__(self, fixed: float, token: float) -> None:
        self.fixed, self.token = fixed, token

    def iteration(self, batch: BatchShape) -> float:
        return self.fixed + self.token * batch.tokens

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(self.iteration(batch), 0.0, 1 << 40)


def table(arrival: object, inputs: object, outputs: object, **columns: object) -> RequestTable:
    times = np.asarray(arrival, dtype=float)
    size = len(times)
    lengths = [np.broadcast_to(np.asarray(v), size).copy() for v in (inputs, outputs)]
    return RequestTable(times, *lengths, "unit", TraceProvenance("test", "generated", size, size), **columns)  # type: ignore[arg-type]


def serve(requests: RequestTable, cost: object, batching: object, **options: object) -> ServingRun:
    defaults = {"kv_blocks": 100_000, "max_num_batched_tokens": 100_000}
    return simulate_deployment(requests, cost, batching=batching, **(defaults | options))  # type: ignore[arg-type]


def srpt(arrival: list[float], work: list[int]) -> list[float]:
    """Completion times of a preemptive shortest-remaining server that decides every second."""
    ends, heap, pending, now = [0.0] * len(work), [], sorted(zip(arrival, range(len(work)), strict=True)), 0.0
    while heap or pending:
        if not heap:
            now = max(now, pending[0][0])
        while pending and pending[0][0] <= now:
            time, job = pending.pop(0)
            heapq.heappush(heap, (work[job], time, job))
        left, time, job = heapq.heappop(heap)
        now += 1.0
        if left > 1:
            heapq.heappush(heap, (left - 1, time, job))
        else:
            ends[job] = now
    return ends


def test_srtf_is_shortest_remaining_processing_time() -> None:
    """One seat, one second per token: the schedule of an independent simulation, job by job."""
    rng = np.random.default_rng(5)
    arrival = np.sort(rng.uniform(0, 400, 40)).round(3)
    outputs = rng.integers(1, 30, 40)
    run = serve(table(arrival, 1, outputs), Steps(), "srtf", max_num_seqs=1)
    np.testing.assert_allclose(run.finish, srpt(arrival.tolist(), outputs.tolist()))


def test_mean_times_are_ordered_and_errors_cost() -> None:
    """SRPT is optimal (Schrage 1968), shortest job first beats arrival order; a useless predictor beats neither."""
    rng = np.random.default_rng(6)
    requests = table(np.sort(rng.uniform(0, 4000, 300)), 1, rng.geometric(1 / 12, 300))
    policies = ("srtf", "sjf", ShortestJobFirst(error=1.0), "chunked-prefill")
    means = [serve(requests, Steps(), p, max_num_seqs=1).e2e.mean() for p in policies]
    assert means == sorted(means)
    noisy = serve(requests, Steps(), ShortestRemainingTime(error=2.0), max_num_seqs=1).e2e.mean()
    assert means[0] < noisy


def test_an_urgent_request_does_not_notice_the_others() -> None:
    outputs = np.full(9, 50)
    priority = np.array([0] * 8 + [5], dtype=np.int16)
    crowd = table([0.0] * 8 + [10.5], 1, outputs, priority=priority)
    run = serve(crowd, Steps(), "priority", max_num_seqs=2)
    # Arrives in mid-iteration, starts at the next boundary and has one token per second from then on.
    assert run.finish[8] == pytest.approx(11 + 50)
    assert run.finish[:8].max() == pytest.approx(9 * 50 / 2, abs=50)


def test_virtual_token_counter_keeps_its_bound() -> None:
    """Backlogged clients differ by at most 2·max(w_p·L_input, w_q·M) (Sheng et al.), M tokens in the batch."""
    rng = np.random.default_rng(7)
    size = 400
    client = (np.arange(size) % 4 == 0).astype(np.int32)  # client 0 sends three times as much
    requests = table(np.zeros(size), rng.integers(5, 40, size), rng.integers(5, 40, size), client=client)
    policy = VirtualTokenCounter()
    run = serve(requests, Steps(), policy, max_num_seqs=8, max_num_batched_tokens=200)
    middle = float(np.sort(run.finish[client == 1])[60])
    service = [
        (requests.input_tokens + 2 * requests.output_tokens)[(client == c) & (run.finish <= middle)].sum()
        for c in (0, 1)
    ]
    in_flight = 8 * (40 + 2 * 40)
    assert abs(service[0] - service[1]) <= 2 * max(40, 2 * 8 * 80) + in_flight
    fcfs = serve(requests, Steps(), "chunked-prefill", max_num_seqs=8, max_num_batched_tokens=200)
    assert np.median(run.finish[client == 1]) < 0.75 * np.median(fcfs.finish[client == 1])


def test_fastserve_takes_short_requests_past_long_ones() -> None:
    """First come first served makes the short wait for the whole of the long; the feedback queue for its quanta."""
    requests = table([0.0, 100.2], 1, [1000, 4])
    fcfs, mlfq = (serve(requests, Steps(), p, max_num_seqs=1) for p in ("prefill-first", FastServe(promote_after=1e6)))
    assert fcfs.e2e[1] == pytest.approx(1000 - 100.2 + 4)
    assert mlfq.e2e[1] == pytest.approx(0.8 + 4)
    assert mlfq.finish[0] == pytest.approx(1004)
    # Work is conserved, and nobody starves: with promotion the long one comes back although short ones keep coming.
    stream = table(np.concatenate([[0.0], np.arange(10.3, 2000, 4.0)]), 1, [300] + [4] * 498)
    starving, promoted = (serve(stream, Steps(), FastServe(promote_after=a), max_num_seqs=1) for a in (1e9, 3.0))
    assert promoted.finish[0] < starving.finish[0]


def test_skip_join_spares_a_long_prompt_the_upper_queues() -> None:
    """A prompt worth 40 decode iterations joins the queue of 64, so it is not demoted by its own prefill."""
    cost = Linear(1e-3, 1e-3)
    policy = FastServe()
    run = serve(table([0.0], [79], [2]), cost, policy, max_num_seqs=1)
    assert run.completed.all()
    service = policy._join  # the level is decided on arrival
    from simulator.serving.limits import EngineLimits
    from simulator.serving.replica import Replica
    from simulator.strategies.kv_cache.paged import Paged
    from simulator.strategies.protocols import RequestState

    replica = Replica(0, EngineLimits(100), cost, policy, Paged(), lambda request, now: None)
    levels = [service(RequestState(0, 0.0, tokens, 2), replica).level for tokens in (1, 3, 79, 100_000)]
    assert levels == [0, 1, 6, 7]  # quanta 1, 2, 64, 128 against 1, 2, 40 and 50,000 iterations


def test_s3_packs_as_many_as_fit_and_misses_start_over() -> None:
    requests = table(np.zeros(40), 16, 48)
    memory = {"kv_blocks": 41, "block_size": 16, "max_model_len": 640, "watermark": 0.0}
    longest = serve(requests, Steps(), "orca", **memory)
    exact = serve(requests, Steps(), S3(), **memory)
    # Orca reserves 640 tokens each: one at a time; an exact prediction reserves 64: ten at a time.
    assert longest.finish.max() == pytest.approx(40 * 48)
    assert exact.finish.max() == pytest.approx(4 * 48)
    assert exact.preemptions.sum() == 0
    wrong = serve(requests, Steps(), S3(error=0.7), **memory)
    assert wrong.completed.all() and wrong.preemptions.sum() > 0


def test_clipper_settles_where_batches_just_meet_the_objective() -> None:
    """Service α·b + β, objective T: the limit climbs to b* = (T − β)/α and swings between 0.9 b* and b* + 1."""
    fixed, token, slo = 0.01, 0.002, 0.1
    requests = table(np.zeros(4000), 1, 1)
    policy = ClipperAIMD(slo=slo)
    run = serve(requests, Linear(fixed, token), policy, max_num_seqs=1000)
    sizes = np.unique(run.scheduled, return_counts=True)[1]
    best = (slo - fixed) / token
    late = sizes[60:-1]
    assert 0.9 * best - 1 <= late.min() and late.max() <= best + 1


def test_serverless_batch_is_the_largest_that_meets_the_objective() -> None:
    """Constant arrivals of 100/s, service 50 ms whatever the batch: (b − 1)/λ + s <= 0.2 s gives (b − 1) = 15."""
    requests = table(np.arange(1000) / 100.0, 1, 1)
    run = serve(requests, Linear(0.05, 0.0), ServerlessBatch(slo=0.2), max_num_seqs=100)
    sizes = np.unique(run.scheduled, return_counts=True)[1]
    assert np.median(sizes) == 16
    assert run.e2e[100:].max() <= 0.2 + 1e-9


def test_the_cut_of_sorted_lengths_is_the_best_of_all() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        lengths = sorted(rng.integers(1, 100, 9).tolist())

        def seconds(size: int, length: int) -> float:
            return 20 + size * length

        best = min(
            sum(seconds(b - a, lengths[b - 1]) for a, b in itertools.pairwise((0, *cut, 9)))
            for k in range(9)
            for cut in itertools.combinations(range(1, 9), k)
        )
        found, parts = split_sorted(lengths, seconds, 9)
        assert found == best == sum(seconds(b - a, lengths[b - 1]) for a, b in parts)


def test_packing_saves_the_padding() -> None:
    """A batch of one padded iteration costs as if all were the longest: packed over padded is 1 − waste."""
    lengths = [10, 40, 70, 200]
    requests = table(np.zeros(4), lengths, 1)
    padded, packed = (serve(requests, Linear(0.0, 1.0), p) for p in ("static", "bytetransformer"))
    assert packed.finish.max() / padded.finish.max() == pytest.approx(1 - padding_waste(lengths))
    turbo = serve(table(np.zeros(4), lengths, 1), Linear(0.0, 1.0), "turbotransformers")
    assert turbo.finish.max() == pytest.approx(sum(lengths))  # without a fixed cost every prompt is alone


def test_lazybatching_admits_as_far_as_slack_allows() -> None:
    """A long prompt would delay the running request beyond its objective, a short one would not."""
    cost = Linear(0.0, 1.0)
    for prompt, waits in ((10, False), (60, True)):
        requests = table([0.0, 5.5], [1, prompt], [50, 1])
        run = serve(requests, cost, LazyBatching(slo=100.0))
        # Slack at second 6: 100 − 6 − (50 − 6) = 50.
        assert (run.scheduled[1] > 40) == waits
        assert run.finish[0] <= 100.0


def test_multi_exit_lets_short_members_leave_and_others_enter() -> None:
    requests = table([0.0, 0.0, 1.0], 1, [5, 100, 5])
    closed = serve(requests, Steps(), Dynamic(max_batch_size=2, max_delay=0.0))
    open_ = serve(requests, Steps(), DVABatch(max_batch_size=2, max_delay=0.0))
    assert closed.finish[2] == pytest.approx(105.0)
    # It enters as soon as the first one leaves: prompt (others stand aside), then four tokens.
    assert open_.finish[2] == pytest.approx(10.0)


def test_splitfuse_passes_have_equal_size_while_prompts_last() -> None:
    sizes = []

    class Counting(Linear):
        def iteration(self, batch: BatchShape) -> float:
            sizes.append(batch.tokens)
            return super().iteration(batch)

    serve(
        table(np.zeros(7), [100, 900, 30, 410, 7, 255, 600], 1),
        Counting(1.0, 0.0),
        "splitfuse",
        max_num_batched_tokens=256,
    )
    assert sizes == [256] * 8 + [2302 - 8 * 256]


def test_offline_order_ends_earlier_than_arrival_order() -> None:
    """Graham: longest first is within 4/3 of the best makespan; with the longest last it is nearly twice as long."""
    requests = table(np.zeros(9), 1, [10] * 8 + [40])
    longest, arrival = (
        serve(requests, Steps(), p, max_num_seqs=3).finish.max() for p in ("offline-max-throughput", "chunked-prefill")
    )
    assert longest == 40 and arrival == pytest.approx(60)


def test_cells_of_one_kind_run_together() -> None:
    shapes = []

    class Watching(Steps):
        def iteration(self, batch: BatchShape) -> float:
            shapes.append(batch)
            return 1.0

    serve(table([0.0, 0.5, 1.5], 3, 4), Watching(), "cellular", stride=1)
    assert all(not (shape.prefill and shape.decodes) for shape in shapes)
    assert max(shape.decodes for shape in shapes) == 3
