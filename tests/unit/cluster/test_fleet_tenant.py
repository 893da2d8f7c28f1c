"""Autoscaling and spot machines from a scenario: loading times, bills, events, and what cannot be."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

import simulator
from simulator.errors import ConfigError
from simulator.hardware.profiles import load_node
from simulator.workload.counting import parameters
from simulator.workload.model_files import load_model

SCENARIO: dict[str, Any] = {
    "name": "fleet",
    "cluster": {
        "nodes": {"profile": "dgx-h100", "count": 1},
        "storage": {"name": "store", "read": "4 GB/s", "write": "1 GB/s"},
    },
    "workloads": [
        {
            "serving": "chat",
            "model": "llama-3.1-8b",
            "framework": "vllm-0.10",
            "requests": {"rate": "10 /s", "count": 600, "input_tokens": 300, "output_tokens": 100},
            "deployment": {
                "router": "least-outstanding",
                "autoscaling": {
                    "policy": "hpa", "min_replicas": 1, "max_replicas": 2, "startup": "5 s", "interval": "5 s",
                    "load_from": "store", "options": {"target": 2},
                },
            },
        }
    ],
}  # fmt: skip


def with_deployment(**changes: Any) -> dict[str, Any]:
    scenario = deepcopy(SCENARIO)
    scenario["workloads"][0]["deployment"] |= changes
    return scenario


def test_weights_come_over_the_network_and_only_what_is_there_is_paid() -> None:
    result = simulator.run(SCENARIO)
    row = result.of("chat")
    # 2 bytes per parameter at the store's 4 GB/s, after 5 s.
    lead = 5.0 + 2 * parameters(load_model("llama-3.1-8b")) / 4e9
    assert row["startup_time"] == pytest.approx(lead, rel=0.01)
    assert 1.0 < row["replicas_mean"] < 2.0
    ready = [r for r in result.rows("events") if r["event"] == "replica ready"]
    ordered = [r for r in result.rows("events") if r["event"] == "replica ordered"]
    assert ready[0]["time"] - ordered[0]["time"] == pytest.approx(lead, rel=0.01)
    node = load_node("dgx-h100")
    price = sum(node.accelerator.price.rental) / 2  # type: ignore[arg-type]
    rent = next(r for r in result.rows("costs") if r["item"].startswith("machines"))
    span = row["duration"] + min(r["arrival"] for r in result.rows("requests"))
    assert rent["usd"] == pytest.approx(price * row["replicas_mean"] * span, rel=1e-3)


def test_equal_seeds_give_equal_fleets_and_both_records_agree() -> None:
    spot = with_deployment(spot={"mean_life": "20 s", "grace": "0 s", "price": 0.5})
    first, again, short = (simulator.run(s) for s in (spot, spot, {**spot, "record": "summary"}))
    assert [r["finish"] for r in first.rows("requests")] == [r["finish"] for r in again.rows("requests")]
    row, brief = first.of("chat"), short.of("chat")
    assert row["revocations"] > 0 and row["restarts"] > 0
    for key in ("requests", "replicas_mean", "usd", "restarts", "utilization", "kv_occupancy_mean", "unstable"):
        assert brief[key] == pytest.approx(row[key]), key
    for key in ("ttft_p90", "e2e_median", "tpot_mean", "itl_p99"):
        assert brief[key] == pytest.approx(row[key], rel=0.05), key
    assert brief["quantile_error"] == 0.005
    assert "requests" not in short.tables and set(short.sketches) >= {"chat.ttft", "chat.itl"}
    rents = [
        next(r for r in x.rows("costs") if r["item"].startswith("machines")) for x in (first, simulator.run(SCENARIO))
    ]
    assert rents[0]["source"].startswith("50 % of")


def scaled(**changes: Any) -> dict[str, Any]:
    return {"autoscaling": {"policy": "hpa", "max_replicas": 2, **changes}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (scaled(policy="hpaa"), "did you mean 'hpa'"),
        (scaled(policy="spotserve"), "unknown autoscaling 'spotserve'"),
        (scaled(min_replicas=3), "3 is more than max_replicas 2"),
        (scaled(initial_replicas=5), "5 is not between"),
        (scaled(options={"goal": 1}), "does not take these parameters"),
        (scaled(load_from="tape"), "no 'tape' to load weights from"),
        (scaled(max_replicas=9), "replica 8 of 'chat' needs 1 accelerators but 0 are left"),
        ({"replicas": 2}, "autoscaling says how many replicas there are"),
        ({"spot": {"mean_life": "1 h", "price": 2}}, "at most 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_where_it_is_written(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulator.load(with_deployment(**changes))
