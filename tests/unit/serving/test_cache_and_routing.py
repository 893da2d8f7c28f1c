"""Swapping, cache tiers, routers and admission: closed forms and conservation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simulator.errors import ConfigError
from simulator.registry import strategies
from simulator.serving.limits import EngineLimits
from simulator.serving.prefix_cache import PrefixPool
from simulator.serving.run import ServingRun
from simulator.serving.simulate import simulate_deployment
from simulator.strategies.admission.limits import FirstTokenDeadline, QueueLimit
from simulator.strategies.kv_cache.prefix import TieredPrefix
from simulator.strategies.protocols import BatchShape, CacheTier, RequestState, Segment
from simulator.strategies.router.informed import CostAware
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import PrefixBlocks, RequestTable


class PerToken:
    """One millisecond per token."""

    def iteration(self, batch: BatchShape) -> float:
        return 1e-3 * batch.tokens

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(1e-3 * batch.decodes, 0.0, 1 << 40)


def table(arrival: object, inputs: object, outputs: object, **columns: object) -> RequestTable:
    times = np.asarray(arrival, dtype=float)
    size = len(times)
    lengths = [np.broadcast_to(np.asarray(v), size).copy() for v in (inputs, outputs)]
    return RequestTable(times, *lengths, "unit", TraceProvenance("test", "generated", size, size), **columns)  # type: ignore[arg-type]


def serve(requests: RequestTable, **options: object) -> ServingRun:
    defaults = {"kv_blocks": 100_000, "max_num_batched_tokens": 100_000}
    return simulate_deployment(requests, PerToken(), **(defaults | options))  # type: ignore[arg-type]


def test_a_swap_costs_its_bytes_twice_over_the_link() -> None:
    """Two requests that outgrow the cache: the later one goes to the host and comes back when the first has ended."""
    requests = table([0.0, 0.0], 32, 33)
    memory = {"kv_blocks": 6, "block_size": 16, "watermark": 0.0}
    swap = {"preemption": "swap", "host_memory": 1e6, "host_bandwidth": 1e4, "kv_bytes_per_token": 10.0}
    plenty, recomputed, swapped = serve(requests), serve(requests, **memory), serve(requests, **memory, **swap)
    assert recomputed.preemptions.sum() >= swapped.preemptions.sum() == 1
    assert recomputed.replicas[0].recomputed_tokens > 0 == swapped.replicas[0].recomputed_tokens
    blocks = swapped.replicas[0].swapped_blocks
    copies = blocks * 16 * 10.0 / 1e4
    # One token takes 1 ms whoever gets it: the work is that of the run without a shortage, plus the copies.
    assert swapped.finish.max() == pytest.approx(plenty.finish.max() + copies)
    assert blocks % 2 == 0


def test_swapping_needs_a_link() -> None:
    with pytest.raises(ConfigError, match="host_memory"):
        EngineLimits(10, preemption="swap")
    with pytest.raises(ConfigError, match="host_bandwidth"):
        EngineLimits(10, preemption="swap", host_memory=1e9)


def shared_prompts(count: int, blocks: int) -> PrefixBlocks:
    return PrefixBlocks.from_lists([list(range(blocks)) for _ in range(count)])


def test_a_hit_in_a_tier_costs_its_transfer() -> None:
    """A prompt comes again when two others have driven it out of the accelerator: it is loaded, not computed."""
    ids = [[*range(4)], [*range(100, 104)], [*range(200, 204)], [*range(4)]]
    requests = table([0.0, 1.0, 2.0, 3.0], 64, 1, prefix_blocks=PrefixBlocks.from_lists(ids), prefix_block_tokens=16)
    small = {"kv_blocks": 6, "block_size": 16, "watermark": 0.0, "kv_bytes_per_token": 100.0}
    none = serve(requests, **small, kv_cache="prefix-lru")
    assert none.cached_tokens.tolist() == [0, 0, 0, 0]
    for layerwise, seconds in ((False, 64 * 100 / 1e6 + 2e-3 + 16e-3), (True, 16e-3)):
        tier = CacheTier("host", 1e9, bandwidth=1e6, latency=2e-3)
        run = serve(requests, **small, kv_cache=TieredPrefix([tier], layerwise=layerwise))
        assert run.cached_tokens.tolist() == [0, 0, 0, 48]  # the last block is computed: a token has to come out
        assert run.ttft[3] == pytest.approx(seconds)
    tiny = serve(requests, **small, kv_cache=TieredPrefix([CacheTier("host", 100.0 * 63, 1e6)]))
    assert tiny.cached_tokens.sum() == 0


def test_a_shared_tier_serves_all_replicas() -> None:
    requests = table([0.0, 1.0], 64, 1, prefix_blocks=shared_prompts(2, 4), prefix_block_tokens=16)
    for shared, hits in ((False, 0), (True, 48)):
        tier = CacheTier("remote", 1e9, 1e6, shared=shared)
        options = {"replicas": 2, "kv_cache": TieredPrefix([tier]), "kv_bytes_per_token": 1.0}
        assert serve(requests, **options).cached_tokens[1] == hits


def test_shared_blocks_are_counted_once() -> None:
    """Ten requests with one prompt of eight blocks at the same time hold eight blocks and their own tails."""
    requests = table([0.0] + [1.0] * 9, 128 + 8, 100, prefix_blocks=shared_prompts(10, 8), prefix_block_tokens=16)
    run = serve(requests, kv_cache="prefix-lru", block_size=16)
    tails = -(-(128 + 8 + 99) // 16) - 8
    assert run.replicas[0].kv_blocks_peak <= 8 + 10 * tails
    assert run.cached_tokens.tolist() == [0] + [128] * 9


def test_a_longer_prompt_uses_what_is_kept_of_a_shorter_one_and_the_leaf_goes_first() -> None:
    pool = PrefixPool(8, 16, 0.0)

    def request(ids: list[int]) -> RequestState:
        state = RequestState(ids[-1], 0.0, 16 * len(ids) + 1, 1)
        state.prefix = (ids, [16 * (i + 1) for i in range(len(ids))])
        return state

    first = request([1, 2, 3])
    pool.hold(first, [])
    pool.allocate(4)
    pool.register(first, 48)
    pool.give_back(first, 4)
    assert (pool.used, pool.idle_blocks) == (0, 4)
    assert [b.id for b in pool.match(request([1, 2, 9]))] == [1, 2]
    pool.allocate(6)  # 8 − 6 = 2 idle blocks stay: the generated one and the leaf go
    assert [b.id for b in pool.match(request([1, 2, 3]))] == [1, 2]


@pytest.mark.parametrize("name", [record.name for record in strategies(family="router")])
def test_no_replica_starves_under_a_symmetric_load(name: str) -> None:
    """Poisson arrivals of equal requests, each in a session and with a prefix of its own."""
    rng = np.random.default_rng(11)
    size, replicas = 1600, 4
    blocks = PrefixBlocks.from_lists([[row * 10 + i for i in range(4)] for row in range(size)])
    requests = table(
        np.cumsum(rng.exponential(0.05, size)), 64, 40, session=np.arange(size), prefix_blocks=blocks,
        prefix_block_tokens=16,
    )  # fmt: skip
    run = serve(requests, replicas=replicas, router=name, kv_cache="prefix-lru", seed=3)
    share = np.bincount(run.replica, minlength=replicas) / size
    # A uniform random router has a standard deviation of 0.011.
    assert share.min() > 0.25 - 5 * math.sqrt(0.25 * 0.75 / size)


def test_cost_aware_pays_for_the_dear_replica_only_when_needed() -> None:
    """A dear replica gets what the cheap one cannot start in time."""
    router = CostAware(ttft=0.25, prices=[1.0, 5.0])
    calm = serve(table(np.arange(50) * 1.0, 100, 2), replicas=2, router=router)
    assert (calm.replica == 0).all()
    rush = serve(table(np.zeros(6), 100, 2), replicas=2, router=CostAware(ttft=0.25, prices=[1.0, 5.0]))
    # 0.1 s per prompt: two in time on the cheap one, two on the dear one; the rest are late anywhere.
    assert rush.replica[:4].tolist() == [0, 0, 1, 1]


def test_loss_system_blocks_as_erlang_says() -> None:
    """c seats, no queue, offered load a: B = (a^c/c!) / Σ a^k/k!, whatever the service law (insensitivity)."""
    rng = np.random.default_rng(2)
    size, seats, service = 60_000, 4, 1.0

    class Unit:
        def iteration(self, batch: BatchShape) -> float:
            return 1e-9

        def decode_segment(self, batch: BatchShape) -> Segment:
            return Segment(0.01, 0.0, 1 << 40)

    load = 3.0
    requests = table(np.cumsum(rng.exponential(service / load, size)), 1, 101)
    run = simulate_deployment(
        requests, Unit(), kv_blocks=10_000, max_num_seqs=seats, admission=QueueLimit(0), batching="prefill-first"
    )
    terms = [load**k / math.factorial(k) for k in range(seats + 1)]
    # A request that starts inside an iteration of 0.01 s waits for its end: 1 % of the service.
    assert (run.rejected > 0).mean() == pytest.approx(terms[-1] / sum(terms), abs=0.01)
    assert set(run.rejections()) == {"queue full"}


def test_early_rejection_keeps_the_promise_to_the_others() -> None:
    """Prompts of 0.1 s at twice the rate one replica can take: who is admitted starts in time."""
    requests = table(np.arange(400) * 0.05, 100, 1)
    everybody = serve(requests)
    some = serve(requests, admission=FirstTokenDeadline(0.5))
    assert everybody.ttft.max() > 5.0
    assert np.nanmax(some.ttft) <= 0.5 + 0.1
    lost = some.rejections()["predicted time to first token above the limit"]
    assert lost / 400 == pytest.approx(0.5, abs=0.05)
