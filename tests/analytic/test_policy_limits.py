"""Serving policies where their knobs make them something known: queueing formulas, and the baselines they become."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from simulator.registry import lookup
from simulator.serving.run import ServingRun
from simulator.serving.simulate import simulate_deployment
from simulator.strategies.protocols import BatchShape, CacheTier, RequestState, Segment
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import PrefixBlocks, RequestTable


class TokenTime:
    """Every prompt token and every decoding request of an iteration takes a millisecond."""

    def iteration(self, batch: BatchShape) -> float:
        return batch.tokens / 1000.0

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(batch.decodes / 1000.0, 0.0, 1 << 40)


class Steps:
    """An iteration takes a second, whatever is in it."""

    def iteration(self, batch: BatchShape) -> float:
        return 1.0

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(1.0, 0.0, 1 << 40)


class Mixed:
    """A fixed part, the prompts' tokens, and the decodes."""

    def iteration(self, batch: BatchShape) -> float:
        return 0.01 + sum(chunk for chunk, _ in batch.prefill) * 1e-4 + batch.decodes * 1e-3

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(0.01 + batch.decodes * 1e-3, 0.0, 1 << 40)


def table(arrival: object, inputs: object, outputs: object, **columns: object) -> RequestTable:
    arrival = np.asarray(arrival, dtype=float)
    size = len(arrival)
    lengths = (np.broadcast_to(np.asarray(c), size) for c in (inputs, outputs))
    return RequestTable(arrival, *lengths, "limits", TraceProvenance("test", "generated", size, size), **columns)  # type: ignore[arg-type]


def serve(requests: RequestTable, cost: object, batching: object, **options: object) -> ServingRun:
    given = {"kv_blocks": 10**6, "max_num_batched_tokens": 10**6, **options}
    return simulate_deployment(requests, cost, batching=batching, **given)  # type: ignore[arg-type]


def named(family: str, name: str, **parameters: object) -> object:
    return lookup(family, name)(**parameters)


def traffic(size: int = 150, rate: float = 6.0, seed: int = 1) -> RequestTable:
    """Poisson arrivals of uneven requests."""
    rng = np.random.default_rng(seed)
    return table(
        np.cumsum(rng.exponential(1 / rate, size)), rng.integers(5, 300, size), rng.integers(1, 60, size)
    )  # fmt: skip


def same(one: ServingRun, other: ServingRun) -> None:
    np.testing.assert_allclose(one.first_token, other.first_token, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one.finish, other.finish, rtol=1e-9, atol=1e-9)


# -- queueing formulas ------------------------------------------------------------------------------------------------


def classes(seed: int, size: int = 20_000) -> tuple[RequestTable, np.ndarray, list[float], list[float]]:
    """Two Poisson classes of constant service on one server: arrivals, class of each, rates [1/s], services [s]."""
    rng = np.random.default_rng(seed)
    rates, services = [0.9, 1.5], [0.2, 0.4]
    kind = (rng.random(size) < rates[1] / sum(rates)).astype(int)
    arrival = np.cumsum(rng.exponential(1 / sum(rates), size))
    return table(arrival, 1, 1), kind, rates, services


def test_priorities_that_do_not_interrupt_wait_as_cobham_says() -> None:
    """W_k = Σ λ_i·s_i²/2 / ((1 − σ_{k−1})(1 − σ_k)) (Cobham, Operations Research 2, 1954), one iteration each."""
    base, kind, rates, services = classes(3)
    tokens = np.where(kind == 0, 1000 * services[0], 1000 * services[1]).astype(int)
    requests = table(base.arrival, tokens, 1, priority=np.where(kind == 0, 1, 0).astype(np.int16))
    run = serve(requests, TokenTime(), "priority", max_num_seqs=1)
    residual = sum(r * s * s for r, s in zip(rates, services, strict=True)) / 2
    first = rates[0] * services[0]
    both = first + rates[1] * services[1]
    expected = residual / (1 - first), residual / ((1 - first) * (1 - both))
    for k in (0, 1):
        assert run.queueing[kind == k].mean() == pytest.approx(expected[k], rel=0.06)


class Ten(Steps):
    """An iteration takes ten milliseconds."""

    def iteration(self, batch: BatchShape) -> float:
        return 0.01

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(0.01, 0.0, 1 << 40)


def single_server(arrival: np.ndarray, steps: np.ndarray, rank: np.ndarray, preempts: bool) -> np.ndarray:
    """An independent simulation, step by step: ends in steps of the clock; the least rank first, then by arrival."""
    left, ends, now, running = steps.copy(), np.full(len(steps), -1.0), 0.0, -1
    done = 0
    while done < len(steps):
        here = np.flatnonzero((arrival <= now + 1e-12) & (left > 0))
        if not len(here):
            now = float(arrival[left > 0].min())
            continue
        if running < 0 or left[running] == 0 or preempts:
            running = int(here[np.lexsort((here, rank[here]))[0]])
        now += 1.0
        left[running] -= 1
        if left[running] == 0:
            ends[running] = now
            done += 1
    return ends


def uneven(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Arrivals [s] and lengths [steps] of 150 requests at a load of 0.8 in steps of ten milliseconds."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(2, 40, 150)
    return np.cumsum(rng.exponential(0.01 * steps.mean() / 0.8, 150)), steps


def test_priorities_that_interrupt_resume_where_they_were() -> None:
    """Every request ends when it does in the independent simulation of preemptive resume; an urgent one has to wait
    for the end of a step at most."""
    arrival, steps = uneven(4)
    priority = np.random.default_rng(1).integers(0, 3, 150)
    run = serve(table(arrival, 1, steps, priority=priority.astype(np.int16)), Ten(), "priority", max_num_seqs=1)
    np.testing.assert_allclose(run.finish, single_server(arrival * 100, steps, -priority, True) / 100, rtol=1e-9)


def test_longest_first_is_the_reversed_priority() -> None:
    """S³ with a perfect predictor and one seat: the longest that waits is next, nobody is interrupted."""
    arrival, steps = uneven(5)
    run = serve(table(arrival, 1, steps), Ten(), named("batching", "s3", bucket=1), max_num_seqs=1)
    np.testing.assert_allclose(run.finish, single_server(arrival * 100, steps, -steps, False) / 100, rtol=1e-9)


def test_power_of_two_choices_in_the_mean_field() -> None:
    """Sojourn Σ ρ^(2^i − 2) service times (Mitzenmacher 2001) for exponential service on many replicas."""
    rng = np.random.default_rng(7)
    replicas, load, size = 100, 0.8, 40_000
    arrival = np.cumsum(rng.exponential(1 / (load * replicas), size))
    tokens = np.maximum(1, np.rint(rng.exponential(1000.0, size))).astype(int)
    run = serve(table(arrival, tokens, 1), TokenTime(), "prefill-first", max_num_seqs=1, replicas=replicas,
                router="power-of-two")  # fmt: skip
    expected = sum(load ** (2**i - 2) for i in range(1, 12))
    assert run.e2e[size // 10 :].mean() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("room", [1, 2])
def test_early_rejection_is_a_loss_system(room: int) -> None:
    """Equal prompts and a limit of K service times: M/D/1/K. K = 1: ρ/(1 + ρ); K = 2: 1 − 1/(e^−ρ + ρ)."""
    rng = np.random.default_rng(8)
    load, size, service = 0.8, 30_000, 0.5
    arrival = np.cumsum(rng.exponential(service / load, size))
    admission = named("admission", "ttft-deadline", ttft=room * service + 0.01)
    run = serve(table(arrival, 500, 1), TokenTime(), "prefill-first", max_num_seqs=1, admission=admission)
    expected = load / (1 + load) if room == 1 else 1 - 1 / (math.exp(-load) + load)
    assert np.isnan(run.finish).mean() == pytest.approx(expected, rel=0.03)


def test_a_batch_that_waits_to_be_full_waits_half_its_gaps() -> None:
    """DVABatch with no limit of delay: requests of a batch of B wait (B − 1)/(2λ) on average, if serving takes no time;
    with a limit of zero nobody waits."""
    rng = np.random.default_rng(9)
    size, rate, full = 20_000, 0.01, 8
    arrival = np.cumsum(rng.exponential(1 / rate, size))
    requests = table(arrival, 1, 1)
    policy = named("batching", "dvabatch", max_batch_size=full, max_delay=1e12)
    run = serve(requests, TokenTime(), policy)
    assert run.queueing.mean() == pytest.approx((full - 1) / (2 * rate), rel=0.03)
    at_once = serve(requests, TokenTime(), named("batching", "dvabatch", max_batch_size=full, max_delay=0.0))
    assert at_once.queueing.mean() < 0.01


@pytest.mark.parametrize("rate", [0.0, 0.5, 4.0, 30.0])
def test_serverless_batches_for_linear_service(rate: float) -> None:
    """Service a + c·b: the largest b with (b − 1)/λ + a + c·b within the objective is ⌊(slo + 1/λ − a)/(1/λ + c)⌋."""
    fixed, each, objective = 0.2, 0.05, 2.0

    class Linear:
        max_num_seqs = 64
        waiting = (RequestState(0, 0.0, 1, 1),)

        def predict(self, batch: BatchShape) -> float:
            return fixed + each * len(batch.prefill)

    size, timeout = lookup("batching", "batch")(slo=objective).choose(Linear(), rate)
    if rate == 0.0:
        assert (size, timeout) == (1, 0.0)
        return
    expected = min(64, max(1, math.floor((objective + 1 / rate - fixed) / (1 / rate + each) + 1e-9)))
    assert size == expected
    assert timeout == pytest.approx(objective - fixed - each * size if size > 1 else 0.0)


@pytest.mark.parametrize("seats", [2, 5])
def test_longest_first_keeps_grahams_bound(seats: int) -> None:
    """Makespan at most (4/3 − 1/(3m)) times the optimum (Graham 1969), which no schedule can beat: the longest request,
    or the work shared out evenly."""
    for seed in range(8):
        outputs = np.random.default_rng(seed).integers(1, 60, 40)
        run = serve(table(np.zeros(40), 1, outputs), Steps(), "offline-max-throughput", max_num_seqs=seats)
        optimum = max(outputs.max(), math.ceil(outputs.sum() / seats))
        assert optimum <= run.finish.max() <= (4 / 3 - 1 / (3 * seats)) * optimum + 1


# -- knobs at their ends ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "parameters", "baseline", "options"),
    [
        ("cache-aware", {}, "chunked-prefill", {"max_num_batched_tokens": 256, "kv_cache": "paged"}),  # all apart
        ("cellular", {}, "prefill-first", {}),  # never a full batch of decode steps
        ("dvabatch", {"max_delay": 0.0}, "cellular", {}),  # nobody waits for others
        ("lazybatching", {"slo": math.inf}, "cellular", {}),  # slack for everybody
        ("splitfuse", {}, "orca", {"kv_cache": "paged"}),  # a budget for all prompts: nothing is cut
        ("splitfuse", {}, "chunked-prefill", {"max_num_batched_tokens": 10**5}),
        ("orca", {}, "chunked-prefill", {"kv_cache": "paged"}),
        ("priority", {}, "chunked-prefill", {}),  # all alike
        ("fastserve", {"levels": 1}, "chunked-prefill", {}),  # one level is first come first served
    ],
)  # fmt: skip
def test_a_policy_becomes_its_baseline(
    policy: str, parameters: dict[str, object], baseline: str, options: dict[str, object]
) -> None:
    for cost in (TokenTime(), Mixed()):
        one = serve(traffic(), cost, named("batching", policy, **parameters), **options)
        same(one, serve(traffic(), cost, baseline, **options))


@pytest.mark.parametrize(
    ("router", "parameters"),
    [
        ("least-prefill", {}),  # equal prompts
        ("kv-aware", {}),  # equal prompts
        ("prefix-aware", {}),  # nothing is cached anywhere
        ("slo-aware", {}),  # equal prompts, nothing cached
        ("cost-aware", {"ttft": 1e9}),  # equal prices, always in time
        ("cost-aware", {"ttft": 0.0}),  # never in time: the earliest
    ],
)
def test_informed_routers_see_what_the_shortest_queue_sees(router: str, parameters: dict[str, object]) -> None:
    """With equal prompts of one token of output all of them join the shortest queue."""
    rng = np.random.default_rng(4)
    requests = table(np.cumsum(rng.exponential(0.5 / 4 / 0.9, 2000)), 500, 1)
    common: dict[str, object] = {"max_num_seqs": 1, "replicas": 4}
    one = serve(requests, TokenTime(), "prefill-first", router=named("router", router, **parameters), **common)
    same(one, serve(requests, TokenTime(), "prefill-first", router="least-outstanding", **common))


def test_the_shortest_queue_never_lets_a_request_wait_beside_an_idle_replica() -> None:
    """An independent simulation of join-the-shortest-queue with constant service: equal queueing times in order."""
    rng = np.random.default_rng(6)
    size, replicas, service = 3000, 4, 0.5
    arrival = np.cumsum(rng.exponential(service / replicas / 0.9, size))
    run = serve(table(arrival, 500, 1), TokenTime(), "prefill-first", max_num_seqs=1, replicas=replicas,
                router="least-outstanding")  # fmt: skip
    ends: list[list[float]] = [[] for _ in range(replicas)]
    waits, last = [], -1
    for now in arrival:
        ends = [[e for e in queue if e > now] for queue in ends]
        last = min(range(replicas), key=lambda i: (len(ends[i]), (i - last - 1) % replicas))
        waits.append(ends[last][-1] - now if ends[last] else 0.0)
        ends[last].append(now + waits[-1] + service)
    np.testing.assert_allclose(run.queueing, waits, atol=1e-9)


# -- KV caches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cache", "tokens"),
    [
        ("reserve-max", 1024),
        ("reserve-pow2", 100 + 256),
        ("reserve-exact", 100 + 150),
        ("reserve-predicted", 100 + 150),
    ],
)
def test_reserved_room_bounds_who_runs(cache: str, tokens: int) -> None:
    """⌊usable blocks / ⌈reserved tokens / 16⌉⌋ requests run together: the longest sequence, the output rounded up to a
    power of two, or the true one (Orca Max, Pow2 and Oracle of arXiv 2309.06180 section 6.1)."""
    blocks = 400
    run = serve(table(np.zeros(60), 100, 150), Steps(), "orca", kv_blocks=blocks, kv_cache=cache, max_model_len=1024,
                watermark=0.0)  # fmt: skip
    together = blocks // -(-tokens // 16)
    waves = math.ceil(60 / together)
    assert run.finish.max() == pytest.approx(waves * 150)
    assert np.sum(run.scheduled == 0.0) == together


def shared_prompts(size: int = 120, seed: int = 3) -> RequestTable:
    """Prompts of four blocks of 16 tokens that begin with one of five documents."""
    rng = np.random.default_rng(seed)
    document = rng.integers(0, 5, size)
    ids = [[int(d) * 10, int(d) * 10 + 1, 1000 + 2 * i, 1001 + 2 * i] for i, d in enumerate(document)]
    blocks = PrefixBlocks.from_lists(ids)
    arrival = np.cumsum(rng.exponential(0.3, size))
    return replace(table(arrival, 64, 8), prefix_blocks=blocks, prefix_block_tokens=16)


def tiers(*given: CacheTier) -> object:
    return named("kv_cache", "prefix-tiered", tiers=given)


def test_tiers_of_no_size_are_none_and_endless_ones_are_an_endless_cache() -> None:
    requests, cost = shared_prompts(), Mixed()
    few = {"kv_blocks": 24, "max_num_seqs": 4, "watermark": 0.0, "kv_bytes_per_token": 1.0}
    plain = serve(requests, cost, "chunked-prefill", kv_cache="prefix-lru", **few)
    empty = serve(requests, cost, "chunked-prefill", kv_cache=tiers(CacheTier("host", 0.0, 1e9)), **few)
    same(plain, empty)
    endless = serve(requests, cost, "chunked-prefill", kv_cache=tiers(CacheTier("host", 1e15, 1e15)), **few)
    ample = serve(requests, cost, "chunked-prefill", kv_cache="prefix-lru", max_num_seqs=4)
    assert endless.cached_tokens.sum() + 0 >= plain.cached_tokens.sum()
    assert endless.cached_tokens.sum() == pytest.approx(ample.cached_tokens.sum(), rel=0.02)


def test_modules_in_chained_order_are_prefixes() -> None:
    """Where ids stand for a block and all before it, prompt-cache finds what prefix-lru finds."""
    requests = shared_prompts()
    one = serve(requests, Mixed(), "chunked-prefill", kv_cache="prompt-cache", max_num_seqs=4)
    other = serve(requests, Mixed(), "chunked-prefill", kv_cache="prefix-lru", max_num_seqs=4)
    same(one, other)
    assert one.cached_tokens.sum() == other.cached_tokens.sum() > 0


def test_cache_aware_order_serves_a_document_while_it_is_there() -> None:
    """All requests at once and room for one document: sorted by prefix every document is computed once, in order of
    arrival every request computes its own (section 3 of arXiv 2312.07104: the order is then that of a depth-first
    walk of the tree, which is optimal)."""
    size = 20
    ids = [[(i % 4) * 10 + 1, (i % 4) * 10 + 2, (i % 4) * 10 + 3] for i in range(size)]
    requests = replace(
        table(np.zeros(size), 50, 1), prefix_blocks=PrefixBlocks.from_lists(ids), prefix_block_tokens=16
    )  # fmt: skip
    few = {"kv_blocks": 5, "max_num_seqs": 1, "watermark": 0.0, "kv_cache": "prefix-lru"}
    aware = serve(requests, TokenTime(), "cache-aware", **few)
    in_turn = serve(requests, TokenTime(), "chunked-prefill", **few)
    assert aware.cached_tokens.sum() == (size - 4) * 48
    assert in_turn.cached_tokens.sum() == 0
