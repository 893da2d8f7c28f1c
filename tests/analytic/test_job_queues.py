"""Job queues against queueing theory, hand-made schedules, and laws that every policy must keep."""

from __future__ import annotations

import heapq
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from simulator.cluster.queue import QueueRules
from simulator.cluster.queue_run import QueueResult, run_queue
from simulator.errors import ConfigError
from simulator.registry import lookup, strategies
from simulator.strategies.cluster_protocols import JobQueue, NodePlacement
from simulator.workload.goodput import Goodput
from simulator.workload.job_mixes import llm_mix
from simulator.workload.job_traces import JobTable, read_jobs

QUEUES = [r.name for r in strategies(family="job_queue")]
PLACEMENTS = [r.name for r in strategies(family="placement")]


def table(
    submit: ArrayLike, run: ArrayLike, gpus: ArrayLike, tenant: ArrayLike = 0, priority: ArrayLike = 0
) -> JobTable:
    submit = np.asarray(submit, np.float64)
    whole = [np.broadcast_to(np.asarray(x, np.int64), submit.shape) for x in (gpus, tenant, priority)]
    return JobTable(
        submit, np.asarray(run, np.float64), whole[0], whole[1], ("a", "b", "c"), whole[2], [""] * len(submit)
    )


def run(jobs: JobTable, sizes: list[int], queue: str, placement: str = "first-fit", **more: Any) -> QueueResult:
    return run_queue(jobs, sizes, lookup("job_queue", queue)(), lookup("placement", placement)(), **more)


def poisson(count: int, rate: float, mean: float, seed: int = 0) -> JobTable:
    """Exactly this load: a wait reacts to 1 % of load with 10 %, far more than the sampling error of the rest."""
    random = np.random.Generator(np.random.PCG64(seed))
    gaps, service = random.exponential(1 / rate, count), random.exponential(mean, count)
    return table(np.cumsum(gaps) / rate / gaps.mean(), service * mean / service.mean(), 1)


def free_first(jobs: JobTable, servers: int) -> NDArray[np.float64]:
    """Waits by Kiefer and Wolfowitz: each takes the server that is free first."""
    free, waits = [0.0] * servers, []
    for submit, service in zip(jobs.submit.tolist(), jobs.run.tolist(), strict=True):
        start = max(submit, heapq.heappop(free))
        waits.append(start - submit)
        heapq.heappush(free, start + service)
    return np.array(waits)


def shortest_first(jobs: JobTable) -> NDArray[np.float64]:
    """Waits for one server that takes the shortest of those that are there, by hand."""
    submit, service = jobs.submit.tolist(), jobs.run.tolist()
    waits, queue, now, come = [0.0] * len(submit), list[tuple[float, int]](), 0.0, 0
    while come < len(submit) or queue:
        now = max(now, submit[come]) if not queue else now
        while come < len(submit) and submit[come] <= now:
            heapq.heappush(queue, (service[come], come))
            come += 1
        seconds, job = heapq.heappop(queue)
        waits[job], now = now - submit[job], now + seconds
    return np.array(waits)


def first_of(jobs: JobTable, count: int) -> JobTable:
    return table(jobs.submit[:count], jobs.run[:count], jobs.gpus[:count])


# Theory needs many jobs, the comparison job by job few: a reference that is quick meets theory on all of them, and the
# queue meets the reference on the first ones, exactly.
EXACT = 8_000


def test_waits_of_single_accelerator_jobs_are_those_of_m_m_c() -> None:
    servers, load = 8, 0.6
    jobs = poisson(120_000, servers * load, 1.0)
    waits = free_first(jobs, servers)
    offered = servers * load
    tail = offered**servers / math.factorial(servers) / (1 - load)
    erlang_c = tail / (sum(offered**k / math.factorial(k) for k in range(servers)) + tail)
    assert waits.mean() == pytest.approx(erlang_c / (servers * (1 - load)), rel=0.08)
    few = first_of(jobs, EXACT)
    result = run(few, [servers], "fifo")
    assert result.wait == pytest.approx(waits[:EXACT], abs=1e-6)
    busy = few.run.sum() / (servers * result.finish.max())
    assert result.utilization == pytest.approx(busy, rel=1e-9)
    assert busy == pytest.approx(load, rel=0.04)


def test_whole_cluster_jobs_wait_as_in_m_g_1() -> None:
    random = np.random.Generator(np.random.PCG64(3))
    count, load = 100_000, 0.7
    service = random.gamma(0.5, 2.0, count)  # mean 1, squared coefficient of variation 2
    jobs = table(np.cumsum(random.exponential(1 / load, count)), service, 16)
    waits = free_first(jobs, 1)
    assert waits.mean() == pytest.approx(load * 3 / (2 * (1 - load)), rel=0.08)
    assert run(first_of(jobs, EXACT), [8, 8], "fifo").wait == pytest.approx(waits[:EXACT], abs=1e-6)


def test_shortest_job_first_waits_as_in_theory() -> None:
    # Two classes in M/G/1 with non-preemptive priority (Cobham): W_i = R / ((1 − σ_{i−1})(1 − σ_i)).
    random = np.random.Generator(np.random.PCG64(4))
    count = 150_000
    short = random.random(count) < 0.8
    service = np.where(short, 0.5, 3.0)
    jobs = table(np.cumsum(random.exponential(1.25, count)), service, 8)
    waits = shortest_first(jobs)
    residual = 0.8 * (0.8 * 0.25 + 0.2 * 9.0) / 2
    first, both = 0.8 * 0.8 * 0.5, 0.8 * (0.8 * 0.5 + 0.2 * 3.0)
    assert waits[short].mean() == pytest.approx(residual / (1 - first), rel=0.05)
    assert waits[~short].mean() == pytest.approx(residual / ((1 - first) * (1 - both)), rel=0.08)
    few = first_of(jobs, EXACT)
    assert run(few, [8], "sjf").wait == pytest.approx(shortest_first(few), abs=1e-6)


def test_informed_orders_wait_less_than_fifo() -> None:
    jobs = poisson(6_000, 7.6, 1.0, seed=5)
    mean = {q: run(jobs, [8], q).completion.mean() for q in ("fifo", "sjf", "srtf")}
    assert mean["srtf"] < mean["sjf"] < mean["fifo"]


@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_work_is_conserved_and_every_job_ends(queue: str, placement: str) -> None:
    jobs = llm_mix(1500, 1 / 20, seed=2, largest=64)
    result = run(jobs, [8] * 16, queue, placement, groups=[i // 4 for i in range(16)])
    assert isinstance(lookup("job_queue", queue)(), JobQueue)
    assert isinstance(lookup("placement", placement)(), NodePlacement)
    assert np.isfinite(result.finish).all()
    assert (result.wait >= 0).all()
    assert (result.completion >= jobs.run * (1 - 1e-9)).all()
    work = float((jobs.run * jobs.gpus).sum())
    assert result.utilization * 128 * result.makespan == pytest.approx(work, rel=1e-9)
    assert 0 <= result.fragmentation < 1
    again = run(jobs, [8] * 16, queue, placement, groups=[i // 4 for i in range(16)])
    assert np.array_equal(again.finish, result.finish)


@pytest.mark.parametrize("queue", QUEUES)
def test_no_policy_waits_on_an_empty_cluster(queue: str) -> None:
    result = run(table([0, 100, 200], [10, 10, 10], [8, 4, 1]), [8], queue)
    assert result.wait.tolist() == [0, 0, 0]


def test_small_schedules_by_hand() -> None:
    # 8 accelerators: 6 for 10 s, then a whole-cluster gang, then 2 for 5 s and 2 for 20 s.
    jobs = table([0, 1, 2, 3], [10, 10, 5, 20], [6, 8, 2, 2])
    assert run(jobs, [8], "fifo").start.tolist() == [0, 10, 20, 20]
    # Backfill: the 5-s job ends at 7, before the gang's reservation at 10; the 20-s job would delay it.
    assert run(jobs, [8], "backfill").start.tolist() == [0, 10, 2, 20]
    # Shortest first: at 10 the gang (10 s) and the 20-s job wait, and the 5-s job has gone first.
    assert run(jobs, [8], "sjf").start.tolist() == [0, 10, 2, 20]


def test_shortest_remaining_time_preempts_and_pays_for_it() -> None:
    jobs = table([0, 4], [10, 2], 8)
    result = run(jobs, [8], "srtf")
    assert (result.finish.tolist(), result.preemptions.tolist()) == ([12, 6], [1, 0])
    paid = run(jobs, [8], "srtf", preemption=3.0)
    assert paid.finish.tolist() == [15, 6]


def test_tiresias_lets_new_jobs_pass_those_with_much_service() -> None:
    # 8 accelerators reach 3,600 accelerator-seconds at 450 s; the second job takes over and ends at 550 s.
    result = run(table([0, 10], [1000, 100], 8), [8], "tiresias")
    assert result.start.tolist() == [0, 450]
    assert result.finish.tolist() == [1100, 550]


def test_priority_preempts_and_quota_holds() -> None:
    high = run(table([0, 5], [20, 5], 8, priority=[0, 1]), [8], "priority")
    assert high.finish.tolist() == [25, 10]
    jobs = table([0, 0, 0], [10, 10, 10], 4, tenant=[0, 0, 1])
    limited = run_queue(jobs, [8], lookup("job_queue", "quota")({0: 0.5, 1: 0.5}), lookup("placement", "first-fit")())
    assert limited.start.tolist() == [0, 10, 0]
    with pytest.raises(ValueError, match="add up to at most 1"):
        lookup("job_queue", "quota")({0: 0.7, 1: 0.5})


def test_fair_shares_between_tenants() -> None:
    # Tenant 0 floods first; the second tenant's jobs get every second place until its ten are done.
    jobs = table([0.0] * 40 + [0.5] * 10, [1.0] * 50, 4, tenant=[0] * 40 + [1] * 10)
    fair, fifo = run(jobs, [8], "drf"), run(jobs, [8], "fifo")
    assert fair.finish[40:].max() == pytest.approx(11)
    assert fifo.finish[40:].min() == pytest.approx(21)
    assert fair.makespan == fifo.makespan == 25


def test_packing_leaves_room_that_scattering_wastes() -> None:
    # Eight single jobs on four nodes of eight, then a gang of 24.
    jobs = table([0] * 8 + [1], [10] * 8 + [5], [1] * 8 + [24])
    packed = run(jobs, [8] * 4, "fifo", "best-fit")
    assert packed.start[-1] == 1
    assert packed.fragmentation == 0
    scattered = run(jobs, [8] * 4, "fifo", "random", spread=0.5)
    assert scattered.completion[-1] == 10  # the gang runs on more nodes than it needs, at half speed


def test_topology_aware_gangs_stay_below_one_leaf() -> None:
    place = lookup("placement", "topology-aware")().place
    size, group = np.full(8, 8), np.array([0, 0, 0, 0, 1, 1, 1, 1])
    free = np.array([8, 8, 8, 0, 8, 8, 8, 8])
    assert {group[n] for n, _ in place(32, free, size, group)} == {1}
    assert {group[n] for n, _ in place(24, free, size, group)} == {0}, "the leaf that it fills most"
    assert place(4, np.array([8, 6, 8, 0, 8, 8, 8, 8]), size, group) == ((1, 4),)
    assert place(64, free, size, group) is None


def test_impossible_jobs_are_named_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="job 1 asks for 9 accelerators, the cluster has 8"):
        run(table([0, 1], [1, 1], [4, 9]), [8], "fifo")
    with pytest.raises(ConfigError, match="spread"):
        run(table([0], [1], 1), [8], "fifo", spread=0.0)


def test_philly_replays_every_job(shared: Path) -> None:
    jobs = read_jobs(shared / "traces/philly_2017/philly.csv.gz")
    assert (len(jobs), jobs.read, jobs.dropped, len(jobs.tenants)) == (82247, 82247, (), 15)
    assert float(np.mean(jobs.run)) == pytest.approx(13135.9, rel=1e-4)
    some = jobs.head(5000)
    result = run(some, [8] * 20, "fifo", "best-fit")
    assert np.isfinite(result.finish).all()


def test_bad_traces_are_refused_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text(
        "timestamp,duration,num_gpus,gpu_time,cluster\n2017-10-09 07:01:55,-1,1,1,a\n2017-10-09 07:02:55,5,1,5,a\n"
    )
    with pytest.raises(ConfigError, match="line 2"):
        read_jobs(path)
    kept = read_jobs(path, skip_bad_rows=True)
    assert (len(kept), kept.read, kept.dropped) == (1, 2, (("bad row", 1),))


def test_the_generated_mix_has_the_published_shares() -> None:
    jobs = llm_mix(50_000, 1.0, seed=1)
    kinds = np.array(jobs.kind)
    for kind, share, median in (("eval", 64.9, 1), ("pretrain", 0.9, 128), ("sft", 14.9, 8), ("debug", 1.9, 8)):
        assert (kinds == kind).mean() == pytest.approx(share / 100.1, rel=0.1)
        assert np.median(jobs.gpus[kinds == kind]) == median
    assert 50_000 / jobs.submit[-1] == pytest.approx(1.0, rel=0.02)


def test_deadlines_that_can_be_met_are_met() -> None:
    # One job at a time: earliest deadline first meets every deadline that any order meets (Jackson; Liu and Layland).
    jobs = table([0, 1, 2], [10, 2, 3], 8)
    due = JobTable(jobs.submit, jobs.run, jobs.gpus, jobs.tenant, jobs.tenants, jobs.priority, jobs.kind,
                   deadline=np.array([100.0, 4.0, 8.0]))  # fmt: skip
    assert run(due, [8], "edf").finish.tolist() == [15, 3, 6]
    kept = run_queue(due, [8], lookup("job_queue", "edf")(preemptive=False), lookup("placement", "first-fit")())
    assert kept.finish.tolist() == [10, 12, 15]


def test_a_limit_holds_a_tenant_back_and_blocks_nobody() -> None:
    jobs = table([0, 0, 0, 0], [10, 10, 10, 10], 4, tenant=[0, 0, 1, 1])
    rules = QueueRules(limits={0: 4.0})
    result = run(jobs, [16], "fifo", rules=rules)
    assert result.start.tolist() == [0, 10, 0, 0]


def test_migration_makes_room_for_a_gang_and_costs_what_it_costs() -> None:
    # Two nodes, half full each after the short jobs have gone: a gang of a whole node fits after one move.
    jobs = table([0, 0, 0, 0, 5], [2, 100, 2, 100, 10], [4, 4, 4, 4, 8])
    apart = run(jobs, [8, 8], "fifo", "best-fit")
    assert apart.start[4] == 100
    moved = run(jobs, [8, 8], "fifo", "defragmenting", migration=7.0)
    assert moved.start[4] == 5
    assert sorted(moved.finish[[1, 3]].tolist()) == [100, 107]
    assert moved.migrations == 1


def test_elastic_jobs_share_a_cluster_that_fixed_gangs_queue_for() -> None:
    # Two equal jobs that scale without loss: each gets half and both end when one after the other would.
    scaling = Goodput(math.inf, 0.0, largest=8.0)
    jobs = table([0, 0], [100, 100], 4)
    fair = run(jobs, [8, 8], "sia", scaling=scaling)
    assert fair.finish.tolist() == [50, 50]
    assert fair.service.tolist() == [400, 400]
    # A sum of speed-ups is indifferent among jobs that scale without loss; with loss it shares alike as well.
    lossy = Goodput(math.inf, 0.1, inside_node=0.1, retrogression=0.1, largest=8.0, largest_batch=1.0)
    shared = run(jobs, [8, 8], "pollux", scaling=lossy)
    assert shared.finish[0] == shared.finish[1] < 100
    alone = run(table([0], [100], 4), [8, 8], "pollux", scaling=scaling)
    assert alone.finish.tolist() == [25]
    # Batches that lose all progress: more accelerators are worth nothing, and nobody gets them.
    none = Goodput(0.0, 2.0, inside_node=2.0, largest=8.0)
    assert run(table([0], [100], 1), [8, 8], "sia", scaling=none).service.tolist() == [100]


def test_goodput_follows_the_published_equations() -> None:
    # Twice the accelerators, φ = 3 M0, exchange of half the gradient's time, no overlap. Goodput of a batch of b M0 is
    # b · 4/(3 + b) / (b/2 + 1/2), largest at b = √3; the gang asked for takes 1 + 1/2 per M0.
    model, b = Goodput(3.0, 0.5, largest_batch=4.0), math.sqrt(3)
    assert model.efficiency(2.0) == pytest.approx(4 / 5)
    assert model.speed(32, 16, 8) == pytest.approx(1.5 * 8 * b / ((b + 3) * (b + 1)), rel=1e-3)
    perfect = Goodput(3.0, 0.5, overlap=10.0)
    assert perfect.step(16, 16, 1.0, 2) == pytest.approx(1.0, rel=1e-3), "the shorter of the two hides"


def easy(jobs: JobTable, total: int) -> list[float]:
    """EASY backfilling in plain Python (Lifka 1995), without the nodes the reservation leaves over: starts [s]."""
    submit, run_, gpus = jobs.submit.tolist(), jobs.run.tolist(), jobs.gpus.tolist()
    start, ends, waiting, now = [math.nan] * len(submit), list[tuple[float, int]](), list[int](), 0.0
    coming = sorted(range(len(submit)), key=lambda j: (submit[j], j), reverse=True)
    while coming or waiting:
        now = min([submit[j] for j in coming[-1:]] + [end for end, _ in ends])
        while coming and submit[coming[-1]] <= now:
            waiting.append(coming.pop())
        ends = [(end, g) for end, g in ends if end > now]
        free, shadow = total - sum(g for _, g in ends), math.inf
        for job in list(waiting):
            if gpus[job] <= free and (shadow == math.inf or now + run_[job] <= shadow):
                waiting.remove(job)
                start[job], free = now, free - gpus[job]
                ends.append((now + run_[job], gpus[job]))
            elif shadow == math.inf:
                room = free
                for end, g in sorted(ends):
                    room += g
                    if room >= gpus[job]:
                        shadow = end
                        break
    return start


@pytest.mark.parametrize("seed", range(5))
def test_backfill_is_easy_as_published(seed: int) -> None:
    """Against a second implementation, on random gangs; and no job that a reservation was made for starts later."""
    random = np.random.Generator(np.random.PCG64(seed))
    submit = np.cumsum(random.exponential(3.0, 120))
    jobs = table(submit, random.exponential(20.0, 120), random.choice([1, 2, 4, 8, 13, 16], 120))
    assert run(jobs, [16], "backfill").start.tolist() == pytest.approx(easy(jobs, 16))
    whole = table(submit, jobs.run, 16)
    assert run(whole, [16], "backfill").start.tolist() == run(whole, [16], "fifo").start.tolist()


def test_dominant_resource_fairness_with_one_resource_is_weighted_max_min() -> None:
    """Ghodsi et al. 2011, section 3: with one resource DRF is max-min; the shares are those of a link of 14."""
    from simulator.network.maxmin import max_min_rates

    demand, weights = [2, 60, 60], {0: 1.0, 1: 1.0, 2: 2.0}
    tenant = np.repeat([0, 1, 2], demand)
    jobs = table(np.zeros(len(tenant)), np.full(len(tenant), 10.0), 1, tenant)
    queue = lookup("job_queue", "drf")(weights)
    started = run_queue(jobs, [14], queue, lookup("placement", "first-fit")()).start == 0
    shares = max_min_rates(
        np.array([14.0]), np.arange(4), np.zeros(3, np.int64), np.array([1.0, 1.0, 2.0]), np.array([2.0, 60.0, 60.0])
    )
    assert np.bincount(tenant[started]).tolist() == shares.tolist() == [2, 4, 8]


def test_priorities_that_preempt_wait_as_in_theory() -> None:
    """M/M/1, two classes, preemptive resume (White and Christie, 1958): the first does not see the second."""
    jobs = poisson(15_000, 0.6, 1.0)
    first = np.random.Generator(np.random.PCG64(4)).random(15_000) < 0.5
    jobs = table(jobs.submit, jobs.run, 8, priority=first.astype(np.int64))
    result = run(jobs, [8], "priority")
    assert result.completion[first].mean() == pytest.approx(1 / (1 - 0.3), rel=0.08)
    assert result.completion[~first].mean() == pytest.approx(1 / ((1 - 0.3) * (1 - 0.6)), rel=0.08)


def test_quotas_that_fill_the_cluster_are_clusters_of_their_own() -> None:
    jobs = poisson(2_000, 12.0, 1.0)
    tenant = np.random.Generator(np.random.PCG64(3)).integers(2, size=2_000)
    both = table(jobs.submit, jobs.run, 1, tenant)
    shared = run_queue(both, [16], lookup("job_queue", "quota")({0: 0.25, 1: 0.75}), lookup("placement", "first-fit")())
    for who, size in ((0, 4), (1, 12)):
        mine = tenant == who
        alone = run(table(jobs.submit[mine], jobs.run[mine], 1), [size], "fifo")
        assert shared.start[mine].tolist() == pytest.approx(alone.start.tolist())


def test_least_attained_service_has_its_limits() -> None:
    """With one queue it is FIFO; with exponential times no order that knows none of them changes the mean response."""
    jobs = poisson(6_000, 0.5, 1.0)
    one = run_queue(jobs, [1], lookup("job_queue", "tiresias")(limits=()), lookup("placement", "first-fit")())
    assert one.start.tolist() == run(jobs, [1], "fifo").start.tolist()
    two = run_queue(jobs, [1], lookup("job_queue", "tiresias")(limits=(1.0,)), lookup("placement", "first-fit")())
    assert two.preemptions.sum() > 100
    assert two.completion.mean() == pytest.approx(one.completion.mean(), rel=0.1)


@pytest.mark.parametrize("placement", ["first-fit", "best-fit", "topology-aware"])
def test_sizes_that_divide_each_other_are_packed_without_waste(placement: str) -> None:
    """Coffman, Garey and Johnson 1987: fitting such sizes in decreasing order fills every bin but one."""
    random = np.random.Generator(np.random.PCG64(7))
    size, group = np.full(40, 8), np.repeat(np.arange(10), 4)
    for _ in range(20):
        gangs = np.sort(random.choice([1, 2, 4, 8], 60))[::-1]
        free, policy = size.copy(), lookup("placement", placement)()
        for gpus in gangs.tolist():
            for node, count in policy.place(gpus, free, size, group):
                free[node] -= count
        assert (free < 8).sum() == math.ceil(gangs.sum() / 8)


def test_placements_have_their_limits() -> None:
    """Below one leaf topology does not matter; without moves nothing is defragmented; one node is no choice."""
    random = np.random.Generator(np.random.PCG64(8))
    size, leaf = np.full(12, 8), np.zeros(12, np.int64)
    best, aware, none = (lookup("placement", n)() for n in ("best-fit", "topology-aware", "defragmenting"))
    for _ in range(200):
        free, gpus = random.integers(0, 9, 12), int(random.choice([1, 2, 4, 8, 16, 24]))
        assert best.place(gpus, free, size, leaf) == aware.place(gpus, free, size, leaf)
        assert best.place(gpus, free, size, leaf) == none.place(gpus, free, size, leaf)
    jobs = table([0, 0, 0, 0, 5], [2, 100, 2, 100, 10], [4, 4, 4, 4, 8])
    still = run_queue(jobs, [8, 8], lookup("job_queue", "fifo")(), lookup("placement", "defragmenting")(most=0))
    assert still.start.tolist() == run(jobs, [8, 8], "fifo", "best-fit").start.tolist()
    # Every node is drawn first equally often: 3,000 draws of 12, and the 99.9 % point of χ² with 11 degrees.
    drawn = lookup("placement", "random")(3)
    counts = np.bincount([drawn.place(1, size, size, leaf)[0][0] for _ in range(3000)], minlength=12)
    assert ((counts - 250) ** 2 / 250).sum() < 31.3
