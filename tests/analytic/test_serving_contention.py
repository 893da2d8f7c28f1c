"""Serving replicas that span nodes: what their links cost alone, and beside whoever shares them."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

import simulator
from simulator.cluster.serving_tenant import ServingTenant
from simulator.cluster.tenants import Commons
from simulator.cluster.training_tenant import TrainingTenant
from simulator.engine.clock import Clock
from simulator.hardware.profiles import load_link
from simulator.report.explain import explain
from simulator.scenario.types import Scenario
from simulator.serving.estimate import replica_cost
from simulator.serving.flight import Flight
from simulator.strategies.protocols import BatchShape

PORT = load_link("ndr400").achievable
JOB = {
    "training": "job", "model": "deepseek-v2-lite", "framework": "megatron-core-0.8", "nodes": 4, "steps": 100_000,
    "plan": {"tensor_parallel": 1, "data_parallel": 32, "expert_parallel": 32, "zero_stage": 1},
    "batch": {"global_batch_size": 64, "micro_batch_size": 1, "sequence_length": 2048},
}  # fmt: skip
CHAT = {
    "serving": "chat", "model": "deepseek-v2-lite", "framework": "sglang-0.4",
    "requests": {"rate": "1000000 /s", "count": 256, "input_tokens": 64, "output_tokens": 4096},
    "deployment": {"plan": {"tensor_parallel": 1, "data_parallel": 32, "expert_parallel": 32, "precision": "fp8"},
                   "max_num_seqs": 4096},
}  # fmt: skip
STEADY = BatchShape((), 256, 256 * 64, 64)


def scenario(ratio: float, *workloads: dict[str, Any], per_leaf: int = 3, **more: Any) -> Scenario:
    """8 nodes of 8 H200; leaves of three, so that the job and the deployment both cross the middle one's uplinks."""
    fabric = {
        "topology": "fat-tree", "link": "ndr400", "oversubscription": ratio, "options": {"nodes_per_leaf": per_leaf},
        **more,
    }  # fmt: skip
    cluster = {"nodes": {"profile": "hgx-h200", "count": 8}, "fabric": fabric}
    return simulator.load({"cluster": cluster, "workloads": list(workloads)})


def running(found: Scenario, until: float) -> tuple[TrainingTenant, ServingTenant, Commons]:
    """The two tenants at a time when the batch of the deployment has long been the same."""
    job, chat = TrainingTenant(found.training[0], found), ServingTenant(found.deployments[0], found, 0)
    commons = Commons(Clock(), found)
    job.start(commons)
    chat.start(commons)
    commons.clock.run(until)
    return job, chat, commons


def mean_slow_downs(link: float, parties: list[tuple[float, list[tuple[float, float, float]]]]) -> list[list[float]]:
    """Two parties on one link: each thinks, then sends its bursts (bytes, weight, peak), all times exponential.

    Balance equations of the joint chain; two bursts on the link at once get of it what their weights say.
    """
    sizes = [len(bursts) + 1 for _, bursts in parties]
    states = list(product(*map(range, sizes)))
    q = np.zeros((len(states), len(states)))
    rates = {}
    for i, state in enumerate(states):
        active = [p for p in (0, 1) if state[p] < sizes[p] - 1]
        weights = sum(parties[p][1][state[p]][1] for p in active)
        for p in (0, 1):
            size, weight, peak = parties[p][1][state[p]] if p in active else (parties[p][0], 0.0, 1.0)
            rate = rates[i, p] = min(peak, link * weight / weights) if p in active else 1.0
            to = list(state)
            to[p] = (state[p] + 1) % sizes[p]
            q[i, states.index(tuple(to))] += rate / size
    balance = np.vstack([(q - np.diag(q.sum(axis=1))).T, np.ones(len(states))])
    chance = np.linalg.lstsq(balance, np.r_[np.zeros(len(states)), 1.0], rcond=None)[0]
    found = []
    for p in (0, 1):
        slow = []
        for burst in range(sizes[p] - 1):
            mine = [i for i, state in enumerate(states) if state[p] == burst]
            mean = sum(chance[i] * rates[i, p] for i in mine) / sum(chance[i] for i in mine)
            slow.append(parties[p][1][burst][2] / mean)
        found.append(slow)
    return found


@pytest.fixture(scope="module")
def side_by_side() -> tuple[TrainingTenant, ServingTenant, Commons]:
    """Both on a narrow spine."""
    return running(scenario(32.0, JOB, CHAT), 20.0)


def test_training_and_serving_on_one_spine_slow_each_other_as_max_min_says(side_by_side) -> None:
    """Both fill the uplink of the middle leaf alone; the joint chain over its weighted halves gives both factors."""
    job, chat, commons = side_by_side
    assert job.shared is not None and job.process is not None
    load, fabric = chat.shared[0].replicas[0].load, commons.fabric
    link = next(i for i in load.phases[0].way.links if fabric.topology.links.name(int(i)) == "leaf1>spine0")
    for phase in (*load.phases, *job.shared.phases):  # alone each takes all of it
        share = phase.way.shares[phase.way.links == link]
        assert phase.peak * share == pytest.approx(fabric.capacity[link], rel=1e-6)
    told = [list(fabric._slow[p]) for p in (job.shared, load)]
    bursts = [
        (p.idle(slow), [(q.size, q.weight, q.peak) for q in p.phases])
        for p, slow in zip((job.shared, load), told, strict=True)
    ]
    expected = mean_slow_downs(float(fabric.capacity[link]), bursts)
    assert told[0] == pytest.approx(expected[0], rel=1e-6)
    assert told[1] == pytest.approx(expected[1], rel=1e-6)
    assert min(told[0]) > 1.3 and told[1][0] > 1.3


def test_iterations_take_as_much_longer_as_their_messages(side_by_side) -> None:
    """What the next iteration costs beside the job: alone, and (s - 1) times what its messages take."""
    _, chat, commons = side_by_side
    replica = chat.shared[0].replicas[0]
    alone = replica_cost(chat.deployment, chat.main.cluster)
    (sent,) = alone.away(STEADY)
    slow = replica.slow["ep"]
    assert slow > 1.3
    longer = replica.cost.iteration(STEADY) - alone.iteration(STEADY)
    assert longer == pytest.approx((slow - 1.0) * sent.seconds, rel=1e-9)
    assert slow == pytest.approx(commons.fabric._slow[replica.load][0], rel=1e-9)


@pytest.mark.parametrize(("ratio", "per_leaf"), [(1.0, 3), (32.0, 4)])
def test_without_a_narrow_link_in_common_nobody_is_slowed(ratio: float, per_leaf: int) -> None:
    """At 1:1, and where each has a leaf of its own, both are as they are alone."""
    few = {**CHAT, "requests": {**CHAT["requests"], "output_tokens": 64}}
    both = simulator.run(scenario(ratio, {**JOB, "steps": 50}, few, per_leaf=per_leaf))
    alone = simulator.run(scenario(ratio, few, per_leaf=per_leaf))
    assert both.of("job")["lost_network"] == 0.0
    assert both.of("chat")["e2e_p99"] == alone.of("chat")["e2e_p99"]
    assert "contention" not in both.tables


@pytest.mark.parametrize("rate", [1e6, 0.5, 20.0])
def test_bytes_on_the_links_are_those_of_the_iterations(rate: float) -> None:
    """In one long batch, in batches that come and go, and in a mixture: the mean is right to a few per cent."""
    requests = {"rate": f"{rate} /s", "count": 64, "input_tokens": 64, "output_tokens": 256}
    found = scenario(32.0, {**CHAT, "requests": requests}, {**CHAT, "serving": "else", "requests": requests})
    chat, commons = ServingTenant(found.deployments[0], found, 0), Commons(Clock(), found)
    done = chat.start(commons)
    replica, launched = chat.shared[0].replicas[0], list[tuple[BatchShape, Flight]]()
    told = replica.launched
    replica.launched = lambda shape, flight: (launched.append((shape, flight)), told(shape, flight))  # type: ignore
    commons.clock.run(done)
    commons.clock.run(commons.clock.now + 5.0)
    link = int(commons.fabric.topology.links.matching("leaf1>spine0")[0])
    kind = chat.shared[0].messages[0]
    sent = sum(flight.iterations * replica.cost.away(shape)[0].size for shape, flight in launched)
    expected = sent * replica.ways.loads(kind.axis, kind.collective)[link]
    assert commons.fabric.bytes_on(link) == pytest.approx(expected, rel=0.04)


def test_a_lone_replica_on_narrow_links_is_priced_with_them_and_not_billed_twice() -> None:
    """Of S bytes a rank sends (N - n)/N to nodes of other leaves, over 1/k of its port; the run is the step's."""
    narrow, free = (scenario(ratio, CHAT, per_leaf=2) for ratio in (32.0, 1.0))
    here, there = (replica_cost(s.deployments[0], s.cluster_of("chat")) for s in (narrow, free))
    batch = BatchShape((), 2048, 2048 * 64, 64)
    (sent,), (undisturbed,) = here.away(batch), there.away(batch)
    assert sent.size == undisturbed.size
    assert sent.seconds == pytest.approx(sent.size * 2 / 4 * 32 / PORT, rel=1e-6)
    longer = here.iteration(batch) - there.iteration(batch)
    assert longer == pytest.approx(sent.seconds - undisturbed.seconds, rel=1e-9)
    few = {**CHAT, "requests": {**CHAT["requests"], "output_tokens": 64}}
    unlike = {**few, "serving": "else"}
    alone, two = (simulator.run(scenario(32.0, *work, per_leaf=2)) for work in ((few,), (few, unlike)))
    assert two.of("chat")["e2e_p99"] == alone.of("chat")["e2e_p99"]
    assert two.of("chat")["lost_network"] == 0.0
    assert any("is the narrowest link" in warning for warning in alone.warnings)


def test_explain_names_the_link_and_the_tenant() -> None:
    few = {**CHAT, "requests": {**CHAT["requests"], "output_tokens": 128}}
    result = simulator.run(scenario(32.0, {**JOB, "steps": 20}, few))
    assert result.of("chat")["contention_slow_down"] > 1.1
    rows = [row for row in explain(result, "traffic", "chat") if "held up" in row.section]
    assert rows[0].item == "leaf1>spine0" and "shared with job" in rows[0].note


def test_a_replica_whose_links_are_lost_serves_nobody_until_they_are_back() -> None:
    """Its requests begin again once its ranks reach each other: no token in between, and all of them in the end."""
    few = {**CHAT, "requests": {"rate": "10 /s", "count": 100, "input_tokens": 64, "output_tokens": 32}}
    fault = {"of": "spine0>leaf1*", "start": "8 s", "until": "60 s"}
    run = simulator.run(scenario(32.0, few, faults=[fault]))
    requests = run.frame("requests")
    assert ((requests["finish"] < 8.0) | (requests["finish"] > 60.0)).all()
    assert (requests["finish"] < 8.0).any() and requests["finish"].notna().all()


def test_pools_share_links_with_what_they_move() -> None:
    """Experts of the decode pool over two leaves: a copy over the same uplinks slows its iterations, at 1:1 nothing."""
    plan = {"tensor_parallel": 1, "data_parallel": 16, "expert_parallel": 16, "precision": "fp8"}
    pools = {"prefill": {"replicas": 1, "plan": plan}, "decode": {"replicas": 1, "plan": plan}}
    requests = {"rate": "1000000 /s", "count": 2048, "input_tokens": 64, "output_tokens": 64}
    # An engine without a process in front of it: the whole burst reaches the pools at once.
    engine = {"framework": "vllm-0.5", "deployment": {"pools": pools, "max_num_seqs": 4096}}
    work = {**CHAT, **engine, "requests": requests}
    copy = {"background": "copy", "source": 2, "to": 4, "rate": "40 GB/s"}

    def run(ratio: float, **more: Any) -> Any:
        return simulator.run({**scenario(ratio, work, per_leaf=3).document, **more})

    alone, beside, wide = run(24.0), run(24.0, background=copy), run(1.0, background=copy)
    assert beside.of("chat")["lost_network"] > alone.of("chat")["lost_network"]
    assert beside.of("chat")["tpot_mean"] > alone.of("chat")["tpot_mean"]
    assert any("copy" in row["shared_with"] for row in beside.rows("contention") if row["workload"] == "chat")
    assert wide.of("chat")["contention_slow_down"] == pytest.approx(1.0, abs=0.02)
