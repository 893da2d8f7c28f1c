"""Training jobs and deployments side by side on one clock."""

from __future__ import annotations

import math

import pytest

import simulator
from simulator.cluster.economics import LIFETIME, bill, mean_draw
from simulator.hardware.profiles import load_link, load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup, Site, Storage
from simulator.workload.counting import parameters
from simulator.workload.model_files import load_model

SCENARIO = {
    "name": "both",
    "seed": 3,
    "cluster": {
        "nodes": {"profile": "dgx-h100", "count": 2},
        "storage": {"name": "store", "read": "50 GB/s", "write": "10 GB/s"},
        "site": {"power_price": "0.1 USD/kWh", "carbon": "400 g/kWh", "pue": "1.2"},
    },
    "workloads": [
        {
            "training": "tune",
            "model": "llama-3.1-8b",
            "framework": "megatron-core-0.8",
            "batch": {"global_batch_size": 32, "micro_batch_size": 1, "sequence_length": 4096},
            "steps": 50,
            "nodes": 1,
            "plan": {"tensor_parallel": 4, "sequence_parallel": True, "data_parallel": 2, "zero_stage": 1},
            "checkpoint": {"every": "20 s", "to": "store", "mode": "sync"},
        },
        {
            "serving": "chat",
            "model": "llama-3.1-8b",
            "framework": "vllm-0.10",
            "requests": {"rate": "5 /s", "count": 200, "input_tokens": 500, "output_tokens": 100},
            "deployment": {"replicas": 2, "plan": {"tensor_parallel": 2}},
            "slo": {"ttft": "1 s", "tpot": "100 ms"},
        },
    ],
}  # fmt: skip


def scenario(**changes: object) -> dict[str, object]:
    return {**SCENARIO, **changes}


def test_a_synchronous_checkpoint_takes_its_bytes_over_the_slowest_link() -> None:
    result = simulator.run(SCENARIO)
    job = result.of("tune")
    writes = [float(r["detail"].split()[0]) for r in result.rows("events") if r["event"] == "checkpoint written"]
    # 14 bytes per parameter (bf16 weights, fp32 master copy and two moments) through the storage's 10 GB/s.
    expected = 14 * parameters(load_model("llama-3.1-8b")) / 10e9
    assert writes
    assert all(seconds == pytest.approx(expected, rel=0.02) for seconds in writes)
    stalled = sum(writes)
    assert job["training_seconds"] == pytest.approx(50 * job["seconds"] + stalled, rel=1e-5)
    assert job["effective_time_ratio"] == pytest.approx(1 - stalled / job["training_seconds"], rel=1e-5)


def test_an_asynchronous_checkpoint_stops_the_job_for_its_copy_to_the_host() -> None:
    work = [dict(w) for w in SCENARIO["workloads"]]  # type: ignore[attr-defined]
    work[0]["checkpoint"] = {"every": "60 s", "to": "store", "mode": "async"}
    result = simulator.run(scenario(workloads=work))
    job = result.of("tune")
    writes = [r for r in result.rows("events") if r["event"] == "checkpoint written"]
    # Eight devices over PCIe 5.0 x16 each; the write of 11 s is hidden.
    link = simulator.load(SCENARIO).cluster.groups[0].node.accelerator.host_link.bandwidth
    copy = 14 * parameters(load_model("llama-3.1-8b")) / 8 / link
    assert writes
    assert job["training_seconds"] == pytest.approx(50 * job["seconds"] + len(writes) * copy, rel=1e-4)


def test_neighbours_do_not_change_a_job_that_shares_nothing_with_them() -> None:
    together = simulator.run(SCENARIO)
    alone = simulator.run(scenario(workloads=SCENARIO["workloads"][1:]))  # type: ignore[index]
    for key in ("ttft_mean", "tpot_mean", "duration", "requests"):
        assert together.of("chat")[key] == alone.of("chat")[key]


def test_the_run_stops_at_until_and_counts_whole_steps() -> None:
    result = simulator.run(scenario(until="30 s", workloads=SCENARIO["workloads"][:1]))  # type: ignore[index]
    job = result.of("tune")
    assert 0 < job["steps"] < 50
    assert job["training_seconds"] <= 30.0


def test_an_infeasible_workload_is_a_result_and_the_others_run() -> None:
    work = [dict(w) for w in SCENARIO["workloads"]]  # type: ignore[attr-defined]
    work[1] = {**work[1], "model": "llama-3.1-405b"}
    result = simulator.run(scenario(workloads=work))
    assert not result.feasible
    assert not result.of("chat")["feasible"]
    assert "out of memory" in result.of("chat")["reason"]
    assert math.isfinite(result.of("tune")["seconds"])


def test_equal_seeds_give_equal_tables() -> None:
    first, second = simulator.run(SCENARIO), simulator.run(SCENARIO)
    assert first.to_json(("summary", "requests", "events")) == second.to_json(("summary", "requests", "events"))


def cluster(site: Site) -> Cluster:
    node = load_node("dgx-h100")
    return Cluster(
        "c",
        (NodeGroup(node, 2),),
        Fabric("single-switch", load_link("ndr400")),
        (Storage("s", "parallel-fs", 1, 1),),
        site,
    )


def test_energy_is_power_times_time_and_pue() -> None:
    idle, busy = mean_draw(cluster(Site()), 16, 0.0, 0.0), mean_draw(cluster(Site(pue=1.5)), 16, 1.0, 1.0)
    node = load_node("dgx-h100")
    assert idle.idle == pytest.approx(2 * (node.power_overhead + 8 * node.accelerator.power.idle))
    assert busy.busy == pytest.approx(
        1.5 * 2 * min(node.power_peak, node.power_overhead + 8 * node.accelerator.power.peak)
    )
    assert busy.energy(10, 0) == pytest.approx(10 * busy.busy)
    half = mean_draw(cluster(Site()), 8, 0.5, 0.5)
    whole = mean_draw(cluster(Site()), 16, 0.5, 0.5)
    assert half.busy == pytest.approx(whole.busy / 2)


def test_rent_is_price_times_accelerators_times_time() -> None:
    low, high = load_node("dgx-h100").accelerator.price.rental  # type: ignore[misc]
    charge = bill("w", cluster(Site(power_price=1.0)), 16, 3600.0, 1e6)
    assert charge.low == pytest.approx(16 * 3600 * low)
    assert charge.high == pytest.approx(16 * 3600 * high)
    assert charge.usd == pytest.approx((charge.low + charge.high) / 2), "rents include electricity"
    assert pytest.approx(4 * 365.25 * 86400) == LIFETIME
