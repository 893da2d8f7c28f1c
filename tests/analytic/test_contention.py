"""Bursts that share links: queueing theory, a burst-by-burst simulation, max-min fairness, and whole jobs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from test_network import PORT, cluster

import simulator
from simulator.engine.clock import Clock
from simulator.network.fabric import Fabric
from simulator.network.flows import Way
from simulator.network.periodic import Phase
from simulator.network.topology import build
from simulator.results.tables import Result
from simulator.training.ledger import CAUSES
from simulator.training.moves import Moves


class Bursts:
    """Computes for a while, then sends; over and over."""

    def __init__(self, tag: str, way: Way, compute: float, *sends: float) -> None:
        self.tag, self.compute = tag, compute
        self.phases = [Phase(f"send{i}", way, seconds * PORT, seconds) for i, seconds in enumerate(sends)]
        self.slow, self.key = [math.nan] * len(sends), 1.0

    def idle(self, slow: list[float]) -> float:
        return self.compute

    def settled(self, slow: list[float]) -> None:
        self.slow = list(slow)

    @property
    def period(self) -> float:
        return self.compute + sum(p.seconds * s for p, s in zip(self.phases, self.slow, strict=True))


def one_link() -> tuple[Fabric, Way]:
    t = build(cluster(2, "single-switch"))
    return Fabric(Clock(), t), Way.of(t.path(0, 4))


def periods(jobs: list[tuple[float, float]]) -> list[float]:
    fabric, way = one_link()
    loads = [Bursts(str(i), way, compute, send) for i, (compute, send) in enumerate(jobs)]
    for load in loads:
        fabric.enter(load)
    fabric.clock.run(1.0)
    return [load.period for load in loads]


def burst_by_burst(jobs: list[tuple[float, float]], until: float) -> list[float]:
    """Mean periods when every burst is a transfer of its own."""
    fabric, way = one_link()
    done = [0] * len(jobs)

    def job(number: int, compute: float, send: float):
        yield fabric.clock.timeout(0.37 * number * compute)
        while True:
            yield fabric.clock.timeout(compute)
            yield fabric.transfer(way, send * PORT)
            done[number] += 1

    for number, (compute, send) in enumerate(jobs):
        fabric.clock.process(job(number, compute, send))
    fabric.clock.run(until)
    return [until / count for count in done]


@pytest.mark.parametrize(
    "jobs", [[(1.0, 1.0), (0.618, 0.9)], [(3.0, 1.0), (2.1, 0.7)], [(1.0, 0.5), (1.37, 1.1), (0.8, 0.4)]]
)
def test_the_mean_of_bursts_is_that_of_bursts_one_by_one(jobs) -> None:
    """Periods without a common divisor meet at every offset: the chain agrees with the simulation to 1 %."""
    assert periods(jobs) == pytest.approx(burst_by_burst(jobs, 500.0), rel=0.01)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_equal_jobs_on_one_link_are_a_closed_queueing_network(count) -> None:
    """Mean value analysis of a processor-sharing server with think time: R(n) = S (1 + Q(n − 1))."""
    think, service, queue, response = 2.0, 1.0, 0.0, 0.0
    for n in range(1, count + 1):
        response = service * (1 + queue)
        queue = n * response / (response + think)
    assert periods([(think, service)] * count) == pytest.approx([think + response] * count, rel=1e-9)


def test_jobs_that_only_communicate_divide_their_links_max_min_fairly() -> None:
    """A crosses the full port with B and a wide one with C: (1/2, 1/2, 1) of the port, exactly."""
    t = build(cluster(4, "single-switch"))
    fabric = Fabric(Clock(), t)
    ways = [Way.of(t.path(0, 4)), Way.of(t.path(0, 8)), Way.of(t.path(1, 12))]
    loads = [Bursts(str(i), way, 0.0, 1.0) for i, way in enumerate(ways)]
    for load in loads:
        fabric.enter(load)
    fabric.clock.run(1.0)
    assert [load.slow for load in loads] == [[2.0], [2.0], [1.0]]
    assert fabric.held_up("0") == [(t.path(0, 4)[1], pytest.approx(1.0), {"1": pytest.approx(1.0)})]
    fabric.leave(loads[1])
    fabric.clock.run(2.0)
    assert loads[0].slow == [1.0]
    assert fabric.bytes_by_link()[ways[0].links[-1]] == pytest.approx(1.5 * PORT)


def test_a_transfer_and_bursts_slow_each_other() -> None:
    """Beside an endless transfer bursts take twice as long; it has the link alone for 1/(1 + 2) of the time."""
    fabric, way = one_link()
    load = Bursts("job", way, 1.0, 1.0)
    fabric.enter(load)
    transfer = fabric.transfer(way, 1e15, tag="copy")
    fabric.clock.run(1.0)
    assert load.slow == [2.0]
    assert fabric.rate(transfer) == pytest.approx(PORT * (1 / 3 + 2 / 3 / 2))
    assert fabric.cancel(transfer)
    fabric.clock.run(2.0)
    assert load.slow == [1.0]


def test_a_dead_link_stops_the_job_until_it_is_back() -> None:
    fabric, way = one_link()
    load = Bursts("job", way, 1.0, 0.5, 0.5)
    fabric.enter(load)
    fabric.set_capacity(int(way.links[0]), 0.0)
    fabric.clock.run(1.0)
    assert load.period == math.inf
    fabric.set_capacity(int(way.links[0]), PORT / 2)
    fabric.clock.run(2.0)
    assert load.slow == pytest.approx([2.0, 2.0])


def test_many_jobs_are_sampled_near_the_chain() -> None:
    """Ten equal jobs have 1,024 joint states, which are drawn: R = 1 + 9 R/(R + 9), 4 % above the exact period."""
    response = queue = 0.0
    for n in range(1, 11):
        response = 1.0 * (1 + queue)
        queue = n * response / (response + 9.0)
    assert periods([(9.0, 1.0)] * 10)[0] == pytest.approx(9.0 + response, rel=0.07)
    assert periods([(9.0, 1.0)] * 10)[0] == pytest.approx(9.0 + (1 + math.sqrt(37)) / 2, rel=0.03)


# -- whole jobs --------------------------------------------------------------------------------------------------------


def run(ratio: float, jobs: int = 2, nodes: int = 4, per_leaf: int = 3) -> Result:
    """Equal fine-tunes on nodes of 8 H100 each; with 3 nodes per leaf each of two jobs crosses leaves."""
    work = [
        {"training": f"job{j}", "model": "llama-3.1-8b", "framework": "megatron-core-0.8", "steps": 50,
         "batch": {"global_batch_size": 8 * nodes, "micro_batch_size": 1, "sequence_length": 2048}, "nodes": nodes,
         "plan": {"tensor_parallel": 4, "sequence_parallel": True, "data_parallel": 2 * nodes, "zero_stage": 1}}
        for j in range(jobs)
    ]  # fmt: skip
    fabric = {
        "topology": "fat-tree", "link": "ndr400", "oversubscription": ratio, "options": {"nodes_per_leaf": per_leaf}
    }  # fmt: skip
    nodes_of_all = {"profile": "dgx-h100", "count": nodes * jobs}
    return simulator.run({"cluster": {"nodes": nodes_of_all, "fabric": fabric}, "workloads": work})


def slow_down(result: Result, job: str = "job0") -> float:
    return float(result.of(job)["contention_slow_down"])


def test_without_oversubscription_two_jobs_do_not_slow_each_other() -> None:
    result = run(1.0)
    for name in ("job0", "job1"):
        row = result.of(name)
        assert row["contention_slow_down"] == 1.0
        assert row["training_seconds"] == pytest.approx(50 * row["seconds"], rel=1e-12)
    assert "contention" not in result.tables


def test_jobs_below_different_leaves_do_not_touch() -> None:
    assert slow_down(run(8.0, nodes=2, per_leaf=2)) == 1.0


def test_two_jobs_on_an_oversubscribed_spine_slow_each_other_and_the_link_is_named(tmp_path: Path) -> None:
    alone, both = run(4.0, jobs=1), run(4.0)
    assert slow_down(alone) == 1.0
    assert slow_down(both) == pytest.approx(slow_down(both, "job1"), rel=1e-9)
    assert slow_down(both) > 1.05
    first = both.rows("contention")[0]
    assert "spine" in first["link"]
    assert first["shared_with"] == "job1"
    from simulator.report.explain import explain
    from simulator.results.storage import load_result, save_result

    for result in (both, load_result(save_result(both, tmp_path / "run"))):
        notes = [row.note for row in explain(result, "traffic", "job0") if row.item == first["link"]]
        assert notes
        assert "job1" in notes[0]


def test_slower_links_never_make_a_job_faster_and_its_time_is_accounted_for() -> None:
    before = 1.0
    for ratio in (2.0, 4.0, 8.0, 16.0):
        result = run(ratio)
        row = result.of("job0")
        assert row["contention_slow_down"] >= before
        before = row["contention_slow_down"]
        kept = row["effective_time_ratio"] * row["training_seconds"]
        assert kept + sum(row[f"lost_{cause}"] for cause in CAUSES) == pytest.approx(row["training_seconds"])
    # Only data parallelism crosses nodes, and at 16:1 nothing of it is hidden: what is left of the slow-down is the
    # rate of the spine. Halving the ratio then halves the time that is lost, up to what hides behind the backward.
    lost = {ratio: run(ratio).of("job0")["lost_network"] for ratio in (32.0, 64.0)}
    busy = run(1.0).of("job0")["seconds"] * 50
    assert (lost[64.0] + busy) / (lost[32.0] + busy) == pytest.approx(2.0, rel=0.25)


def faulty(jobs: int = 1, **keys: object) -> Result:
    """As :func:`run` without oversubscription, with other keys of the fabric or of the scenario."""
    work = [
        {"training": f"job{j}", "model": "llama-3.1-8b", "framework": "megatron-core-0.8", "steps": 50, "nodes": 4,
         "batch": {"global_batch_size": 32, "micro_batch_size": 1, "sequence_length": 2048},
         "plan": {"tensor_parallel": 4, "sequence_parallel": True, "data_parallel": 8, "zero_stage": 1}}
        for j in range(jobs)
    ]  # fmt: skip
    fabric: dict[str, object] = {"topology": "fat-tree", "link": "ndr400", "options": {"nodes_per_leaf": 2}}
    fabric |= {key: keys.pop(key) for key in ("routing", "faults") if key in keys}
    storage = {"name": "store", "read": "100 GB/s", "write": "100 GB/s"}
    cluster = {"nodes": {"profile": "dgx-h100", "count": 4 * jobs}, "fabric": fabric, "storage": storage}
    return simulator.run({"cluster": cluster, "workloads": work, **keys})


def test_a_lost_port_stops_the_job_until_it_is_repaired() -> None:
    row = faulty(faults={"of": "node0/nic3:*", "start": "2 s", "until": "7 s"}).of("job0")
    assert row["lost_network"] == pytest.approx(5.0)
    assert row["training_seconds"] == pytest.approx(50 * row["seconds"] + 5.0)


def test_a_job_whose_port_is_lost_from_the_start_is_refused_with_the_reason() -> None:
    row = faulty(faults={"of": "node0/nic3:*"}).of("job0")
    assert not row["feasible"]
    assert "node0/nic3:out is lost" in row["reason"]


def test_a_job_that_is_cut_off_for_good_says_so() -> None:
    result = faulty(faults={"of": "node0/nic3:*", "start": "2 s"})
    assert any("stands still since 2 s: node0/nic3:out is lost" in warning for warning in result.warnings)
    assert result.of("job0")["steps"] == math.floor(2.0 / result.of("job0")["seconds"])


def test_spraying_over_a_degraded_uplink_is_slower_than_adapting_to_it() -> None:
    lame = {"of": "leaf0>spine0", "capacity": 0.1}
    assert slow_down(faulty(faults=lame)) > 1.1
    assert slow_down(faulty(faults=lame, routing="adaptive")) == 1.0
    assert slow_down(faulty(faults={"of": "spine0"})) == 1.0  # a lost one is gone round, the others have room


def test_hashed_connections_collide_and_more_of_them_less() -> None:
    """Its own connections collide, so it is in the price of the step: nobody else is needed."""
    hashed = [{"policy": "ecmp", "connections": n} for n in (1, 4)]
    one, four, sprayed = (faulty(routing=routing).of("job0")["seconds"] for routing in (*hashed, "spray"))
    assert one > four > sprayed


def test_background_traffic_slows_a_job_and_is_told_what_it_does_not_get() -> None:
    backup = {"background": "backup", "source": 0, "to": 3, "rate": "45 GB/s"}
    result = faulty(background=backup)
    assert slow_down(result) > 1.0
    assert {row["shared_with"] for row in result.rows("contention")} == {"job0", "backup"}
    assert any(warning.startswith("backup: at times") for warning in result.warnings)
    idle = faulty(background={**backup, "start": "1 h"})
    assert slow_down(idle) == 1.0


def test_wrong_keys_of_the_network_are_named_before_anything_runs() -> None:
    from simulator.errors import ConfigError

    with pytest.raises(ConfigError) as wrong:
        faulty(
            faults=[{"of": "spin0"}, {"of": "spine0", "start": "2 s", "until": "1 s"}],
            routing="magic",
            background={"background": "b", "source": "stor", "to": 99, "rate": "1 GB/s"},
        )
    text = str(wrong.value)
    assert "routing" in text
    assert "until 1 s is not after start 2 s" in text
    with pytest.raises(ConfigError) as wrong:
        faulty(faults={"of": "spin0"}, background={"background": "b", "source": "stor", "to": 99, "rate": "1 GB/s"})
    text = str(wrong.value)
    assert "faults" in text
    assert "did you mean 'spine0'" in text
    assert "there is no node 99" in text
    assert "did you mean 'store'" in text


def moved(per_leaf: int, ratio: float) -> Result:
    """A job on nodes 0 and 1, whose node is replaced by 2 or 3 after a while; with 2 nodes per leaf, under another."""
    job = {
        "training": "job", "model": "llama-3.1-8b", "framework": "megatron-core-0.8", "steps": 400, "nodes": 2,
        "batch": {"global_batch_size": 16, "micro_batch_size": 1, "sequence_length": 2048}, "recovery": "oobleck",
        "plan": {"tensor_parallel": 4, "sequence_parallel": True, "data_parallel": 4, "zero_stage": 0},
    }  # fmt: skip
    fabric = {"topology": "fat-tree", "oversubscription": ratio, "options": {"nodes_per_leaf": per_leaf}}
    failures = {"mtbf": {"board": "80 min"}, "detection": "1 s", "restart": "1 s", "repair": "1000 h"}
    nodes = {"profile": "dgx-h100", "count": 4}
    return simulator.run({"cluster": {"nodes": nodes, "fabric": fabric}, "workloads": [job], "failures": failures})


def test_rings_go_over_the_links_of_the_node_that_steps_in() -> None:
    """Below one leaf a job never meets the spine; once a node under another leaf has stepped in, it does."""
    near, far = (moved(per_leaf, 32.0) for per_leaf in (4, 2))
    assert far.of("job")["interruptions"] >= near.of("job")["interruptions"] >= 1  # who takes longer meets more
    assert near.of("job")["lost_network"] == 0
    assert far.of("job")["lost_network"] > 0
    links = far.frame("contention")["link"].tolist()
    assert any(">spine" in link for link in links)
    assert moved(2, 1.0).of("job")["lost_network"] == 0


def test_a_large_job_finds_its_ways_again_when_a_thirty_second_of_it_has_moved() -> None:
    small, large = Moves(32), Moves(2048)
    assert [small.due() for _ in range(3)] == [True] * 3
    assert sum(large.due() for _ in range(640)) == 10
