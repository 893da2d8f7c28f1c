"""Feeders on the clock: closed forms of who is slowed by how much, what comes back, and where the joules went."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import simulator
from simulator.cluster.power_loads import FULL, LOWEST, REST, Activity, Load, stretch_table
from simulator.cluster.power_model import NodePower, Slots
from simulator.errors import ConfigError
from simulator.hardware.power import dynamic_share
from simulator.hardware.profiles import load_link, load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup
from simulator.registry import lookup, strategies
from simulator.results.tables import Result
from simulator.strategies.power_protocols import FeederView, check_power_sharing

NODES = 4
CLUSTER = Cluster("c", (NodeGroup(load_node("dgx-h100"), NODES),), Fabric("fat-tree", load_link("ndr400")))
POWER = NodePower(CLUSTER)
COMPUTE = stretch_table(lambda level: FULL / level)
"""Work that is bound by compute alone."""
MEMORY = stretch_table(lambda level: 1.0)


def job(nodes: list[int], activity: Activity, table: Any = COMPUTE) -> Load:
    return Load("job", np.array(nodes), np.full(len(nodes), 8.0), lambda: table, lambda level: None, activity)


def queue(gangs: list[tuple[float, float]], limit: str, **more: Any) -> dict[str, Any]:
    """Jobs of a whole node as (run time, submission), in seconds, on two nodes behind one feeder."""
    return {
        "name": "feeder", "seed": 1,
        "cluster": {
            "nodes": {"profile": "dgx-h100", "count": 2},
            "power": {"feeders": [{"name": "row", "limit": limit, **more}]},
            "site": {"power_price": "0.1 USD/kWh", "pue": "1.3"},
        },
        "workloads": [
            {"training": f"job{number}", "model": "llama-3.1-8b", "framework": "megatron-core-0.8", "nodes": 1,
             "batch": {"global_batch_size": 16, "micro_batch_size": 1, "sequence_length": 2048},
             "steps": int(steps), "start": f"{start:g} s", "plan": {"tensor_parallel": 8}}
            for number, (steps, start) in enumerate(gangs)
        ],
    }  # fmt: skip


NETWORK = 8 * simulator.load(queue([(1, 0.0)], "100 GW")).cluster.port_power
"""Of a node's eight ports [W]."""


def draw_of(levels: list[int], loads: list[Load]) -> float:
    slots = Slots(loads, POWER)
    behind = slots.behind(range(NODES), np.full(len(slots.of), FULL))
    assert behind is not None
    return behind.draw(np.array(levels))


# -- watts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [100, 93, 92, 80, 50, 25])
def test_compute_bound_work_draws_its_dynamic_power_times_that_of_the_clock(level: int) -> None:
    """u stays 1, so P = idle + (peak − idle)·d(s), bounded by what the node is rated for."""
    node = load_node("dgx-h100")
    power = node.accelerator.power
    one = 8 * (power.peak - power.idle) * dynamic_share(level / 100)
    expected = POWER.idle.sum() + min(one, POWER.room[0])
    assert draw_of([level], [job([0], Activity(1.0, 1.0, 0.0))]) == pytest.approx(expected, rel=1e-12)


def test_work_that_waits_for_memory_keeps_its_use_and_loses_only_the_clocks_power() -> None:
    """Operations at a clock share s are 1/s as large a part of what it can do, and all of it is paid at d(s)."""
    power = load_node("dgx-h100").accelerator.power
    for level in (100, 60):
        used = power.active + power.compute * 0.1 / (level / 100) + power.memory
        found = draw_of([level], [job([1], Activity(1.0, 0.1, 1.0), MEMORY)]) - POWER.idle.sum()
        assert found == pytest.approx(8 * used * dynamic_share(level / 100), rel=1e-12)


def test_a_job_that_waits_for_its_slowest_device_draws_less_everywhere() -> None:
    """Node 1 at half the clock halves the pace of a job of compute: devices of node 0 are busy half the time's work."""
    both = [job([0, 1], Activity(1.0, 0.8, 0.0))]
    slots = Slots(both, POWER)
    watts = slots.watts(np.array([100, 50]), slots.lowest(np.array([100, 50])))
    power = load_node("dgx-h100").accelerator.power
    assert watts[0] == pytest.approx(8 * (power.active + 0.4 * power.compute), rel=1e-9)
    full = power.peak - power.idle  # 0.4 of the peak rate at half the clock is 0.8 of what that clock allows
    assert watts[1] == pytest.approx(8 * min(full, power.active + 0.8 * power.compute) * dynamic_share(0.5), rel=1e-9)


def test_rest_draws_nothing_beyond_idling() -> None:
    assert draw_of([100], [job([0, 1, 2, 3], REST)]) == pytest.approx(POWER.idle.sum(), rel=1e-12)


# -- policies --------------------------------------------------------------------------------------------------------


def view(limit: float, peaks: list[float], urgency: list[int]) -> FeederView:
    """Loads whose draw is a straight line in their level."""
    watts = np.array(peaks)

    def device(levels: Any) -> Any:
        return watts * levels / FULL

    return FeederView(
        limit, LOWEST, np.full(len(peaks), FULL), np.array(urgency), lambda levels: float(device(levels).sum()), device
    )


@pytest.mark.parametrize("name", [record.name for record in strategies(family="power_sharing")])
def test_every_policy_keeps_the_seam(name: str) -> None:
    check_power_sharing(lookup("power_sharing", name)())


def test_uniform_gives_one_clock_and_serving_last_keeps_the_urgent() -> None:
    seen = view(700.0, [400.0, 200.0, 300.0], [0, 1, 0])
    assert lookup("power_sharing", "uniform")().levels(seen).tolist() == [77, 77, 77]  # 700 of 900
    assert lookup("power_sharing", "serving-last")().levels(seen).tolist() == [71, 100, 71]  # 500 of 700
    deep = view(300.0, [400.0, 200.0, 300.0], [0, 1, 0])
    assert lookup("power_sharing", "serving-last")().levels(deep).tolist() == [20, 80, 20]  # 140 of theirs, 160 left


def test_equal_watts_spares_what_draws_less_than_its_share() -> None:
    levels = lookup("power_sharing", "equal-watts")().levels(view(700.0, [400.0, 200.0, 300.0], [0, 0, 0]))
    # Water filling: 200 as it is, 250 for each of the others.
    assert levels.tolist() == [62, 100, 83]


# -- on the clock ----------------------------------------------------------------------------------------------------


def test_two_jobs_behind_one_feeder_and_one_that_ends_gives_its_watts_back() -> None:
    free = simulator.run(queue([(400, 0.0), (100, 0.0)], "100 GW"))
    peak = max(free.tables["feeders"]["power_peak"])
    step = free.of("job0")["seconds"]
    limit = 0.9 * peak
    slow = simulator.run(queue([(400, 0.0), (100, 0.0)], f"{limit} W"))
    first, second = slow.of("job0"), slow.of("job1")
    assert slow.tables["feeders"]["power_peak"][0] <= limit
    assert slow.tables["feeders"]["over_time"] == [0.0]
    # Alike and behind the same feeder, so both at one pace while both are there.
    pace = second["training_seconds"] / (100 * step)
    assert pace > 1.0
    assert second["lost_power"] == pytest.approx(second["training_seconds"] - 100 * step, rel=1e-9)
    # Alone, the first is within the limit and has its clocks back: 100 slow steps, 300 at full speed.
    assert first["training_seconds"] == pytest.approx(100 * step * pace + 300 * step, rel=1e-9)
    assert first["capped_time"] == pytest.approx(second["training_seconds"], rel=1e-9)
    caps = {row["workload"]: row for row in slow.rows("power_caps")}
    assert caps["job0"]["feeder"] == "row"
    assert caps["job0"]["shared_with"] == "job1"


def test_energy_is_the_integral_of_power() -> None:
    free = simulator.run(queue([(400, 0.0), (100, 3.0)], "100 GW"))
    limit = 0.92 * max(free.tables["feeders"]["power_peak"])
    for result in (free, simulator.run(queue([(400, 0.0), (100, 3.0)], f"{limit} W"))):
        power = result.frame("power")
        whole = float((power["power"] * (power["until"] - power["time"])).sum())
        assert result.tables["feeders"]["energy"][0] == pytest.approx(whole, rel=1e-12)
        end = float(power["until"].max())
        # At the wall each job pays for its own node and network while it runs, of which feeders bring the node; a node
        # without work idles; the site loses 30 %.
        rows = result.rows("summary")
        paid = sum(float(row["energy"]) / 1.3 - NETWORK * float(row["training_seconds"]) for row in rows)
        idle = sum(float(POWER.idle[0]) * (end - float(row["training_seconds"])) for row in rows)
        assert whole == pytest.approx(paid + idle, rel=1e-9)


def test_feeders_with_power_for_everything_change_nothing() -> None:
    plain = copy.deepcopy(SERVED)
    del plain["cluster"]["power"]
    without, within = simulator.run(plain), simulator.run(SERVED)
    for name, columns in without.tables.items():
        for column, values in columns.items():
            assert _same(values, within.tables[name][column]), (name, column)


def _same(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(x == y or (x != x and y != y) for x, y in zip(a, b, strict=True))


SERVED: dict[str, Any] = {
    "name": "served", "seed": 2,
    "cluster": {
        "nodes": {"profile": "dgx-h100", "count": 2},
        "power": {"feeders": [{"name": "row", "limit": "100 GW"}], "interval": "5 s"},
    },
    "workloads": [
        {"serving": "chat", "model": "llama-3.1-8b", "framework": "vllm-0.10",
         "requests": {"rate": "30 /s", "duration": "40 s", "input_tokens": 500, "output_tokens": 100},
         "deployment": {"replicas": 4, "plan": {"tensor_parallel": 2}}},
        {"jobs": "tunes", "nodes": 1, "duration": "60 s", "rate": "0.2 /s",
         "mix": {"classes": {"a": {"share": 1, "sizes": {4: 1}, "run": "20 s"}}}},
    ],
}  # fmt: skip


def capped(limit: str, sharing: str) -> Result:
    document = copy.deepcopy(SERVED)
    document["cluster"]["power"] |= {"feeders": [{"name": "row", "limit": limit}], "sharing": sharing}
    return simulator.run(document)


def test_jobs_yield_before_the_chat_does() -> None:
    both, last = capped("11 kW", "uniform"), capped("11 kW", "serving-last")
    assert both.of("chat")["clock_mean"] < 1.0
    assert last.of("chat")["clock_mean"] == 1.0
    assert last.of("chat")["tpot_median"] < both.of("chat")["tpot_median"]
    assert last.of("tunes")["clock_mean"] < both.of("tunes")["clock_mean"]


@pytest.mark.parametrize(("rate", "least"), [("30 /s", 0.96), ("2 /s", 0.99)])
def test_a_limit_that_is_hardly_felt_hardly_changes_the_bill(rate: str, least: float) -> None:
    """What the feeders meter by reading the engines now and then is what is billed from their counters without.

    Engines at work all the time lose 3 % of their clock; those at work a third of it only until the first reading,
    before which they are taken to be full.
    """
    document = copy.deepcopy(SERVED)
    document["workloads"] = document["workloads"][:1]
    document["workloads"][0]["requests"]["rate"] = rate
    free = simulator.run(document).of("chat")
    document["cluster"]["power"]["feeders"] = [{"name": "row", "limit": "8.2 kW"}]
    felt = simulator.run(document).of("chat")
    assert 0.96 < felt["clock_mean"] < 1.0 and felt["capped_time"] > 0.0
    assert least < felt["energy"] / free["energy"] < 1.0
    two = {"count": 2, "plan": {"tensor_parallel": 2}}
    document["workloads"][0]["deployment"] = {"groups": [two, two]}
    parts = simulator.run(document).of("chat")
    assert parts["energy"] == pytest.approx(felt["energy"], rel=1e-9)  # each part has its share, and no watt is lost


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feeders", "said"),
    [
        ([{"name": "row", "limit": "1 kW"}], "without any work"),
        ([{"name": "row"}], "either 'limit'"),
        ([{"name": "row", "limit": "30 kW", "oversubscription": 1.2}], "either 'limit'"),
        ([{"name": "row", "nodes": 9, "limit": "30 kW"}], "the cluster has 2"),
        ([{"name": "row", "limit": "30 kW"}, {"name": "row", "limit": "31 kW"}], "a name of its own"),
    ],
)
def test_bad_feeders_are_told_before_anything_runs(feeders: list[dict[str, Any]], said: str) -> None:
    document = copy.deepcopy(SERVED)
    document["cluster"]["power"]["feeders"] = feeders
    with pytest.raises(ConfigError, match=said):
        simulator.load(document)


def test_a_workload_nobody_knows_cannot_be_urgent() -> None:
    document = copy.deepcopy(SERVED)
    document["cluster"]["power"]["urgency"] = {"chatt": 3}
    with pytest.raises(ConfigError, match="did you mean 'chat'"):
        simulator.load(document)


# -- published -------------------------------------------------------------------------------------------------------


def test_inference_leaves_room_that_training_does_not() -> None:
    """POLCA, abstract (arXiv 2308.12908): 30 % more servers behind a row of inference, with minimal loss.

    A row of as many watts as 1/1.3 of the nodes' ratings: a deployment under load never meets the limit, jobs that
    compute all the time do nearly always.
    """
    ratio = {"oversubscription": 1.3}
    document = copy.deepcopy(SERVED)
    document["cluster"]["power"]["feeders"] = [{"name": "row", **ratio}]
    serving = copy.deepcopy(document)
    serving["workloads"] = [serving["workloads"][0]]
    serving["workloads"][0]["deployment"]["replicas"] = 8
    jobs = copy.deepcopy(document)
    jobs["workloads"] = [jobs["workloads"][1] | {"nodes": 2, "rate": "2 /s"}]
    chat, tunes = simulator.run(serving).of("chat"), simulator.run(jobs).of("tunes")
    assert chat["capped_time"] == 0.0
    assert tunes["capped_time"] > 0.8 * tunes["makespan"]
    assert tunes["clock_mean"] < 1.0


# -- every kind of tenant --------------------------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "pools": {"pools": {"policy": "distserve", "prefill": {"replicas": 2}, "decode": {"replicas": 2}}},
    "cascade": {"cascade": {"method": "tabi", "small": {"model": "llama-3.2-1b"}, "reroute": 0.5, "delay": "0.1 s"}},
    "fleet": {"autoscaling": {"policy": "hpa", "min_replicas": 1, "max_replicas": 4, "interval": "10 s",
                              "options": {"target": 4}}},
    "pipeline": {"plan": {"pipeline_parallel": 2, "tensor_parallel": 4}},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_deployment_is_slowed_and_serves_everything(kind: str) -> None:
    found = []
    for limit in ("100 GW", "6.9 kW"):
        document = copy.deepcopy(SERVED)
        document["cluster"]["power"] |= {"feeders": [{"name": "row", "limit": limit}], "interval": "2 s"}
        document["workloads"] = [document["workloads"][0] | {"deployment": KINDS[kind]}]
        document["workloads"][0]["requests"] = {"rate": "20 /s", "count": 300, "input_tokens": 800, "output_tokens": 60}
        found.append(simulator.run(document).of("chat"))
    free, slow = found
    assert free["requests"] == slow["requests"] == 300
    assert (free["capped_time"], free["clock_mean"]) == (0.0, 1.0)
    assert slow["capped_time"] > 0.0
    assert slow["clock_mean"] < 1.0
    assert slow["e2e_median"] > free["e2e_median"]
