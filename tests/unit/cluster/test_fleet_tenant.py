"""Autoscaling and spot machines from a scenario: loading times, bills, events, and what cannot be."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

import simulator
from simulator.errors import ConfigError
from simulator.hardware.profiles import load_node
from simulator.serving.front_end import front_end_of
from simulator.workload.counting import parameters
from simulator.workload.framework_files import load_framework
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


def test_functions_take_who_would_wait_too_long_at_their_price() -> None:
    """No replica is ready for the 9 s that the weights take: everybody goes to a function at first."""
    functions = {"startup": "200 ms", "speed": 0.5, "price": "0.01 USD"}
    keys = {"policy": "mark", "max_replicas": 2, "initial_replicas": 0, "min_replicas": 0, "startup": "5 s",
            "load_from": "store", "functions": functions, "options": {"slo": 2.0}}  # fmt: skip
    result = simulator.run(with_deployment(autoscaling=keys))
    row = result.of("chat")
    rows = result.rows("requests")
    count = sum(r["replica"] == -1 for r in rows)
    assert row["requests"] == 600 and 0 < count < 600
    assert row["function_requests"] == count and row["function_usd"] == pytest.approx(0.01 * count)
    item = next(r for r in result.rows("costs") if "functions" in r["item"])
    assert item["usd"] == pytest.approx(0.01 * count)
    assert sum(r["usd"] for r in result.rows("costs")) == pytest.approx(row["usd"])
    # All are alike there: start-up, prompt and 99 tokens with nobody else, at half the speed.
    front_end = front_end_of(load_framework("vllm-0.10"), 2)
    assert front_end is not None
    left = front_end.take_all([r["arrival"] for r in rows], [r["input_tokens"] for r in rows])
    spans = {round(r["finish"] - start, 9) for r, start in zip(rows, left, strict=True) if r["replica"] == -1}
    assert len(spans) == 1 and spans.pop() > 0.2
    brief = simulator.run({**with_deployment(autoscaling=keys), "record": "summary"}).of("chat")
    assert brief["function_requests"] == count and brief["e2e_mean"] == pytest.approx(row["e2e_mean"], rel=0.01)


def test_requests_of_spot_machines_are_saved_over_the_network() -> None:
    """Grace enough for all keys and values: nothing is computed again, and the fabric carries what moved."""
    asked = {"mean_life": "15 s", "grace": "5 s"}
    requests = {"rate": "10 /s", "count": 600, "input_tokens": 300, "output_tokens": 1000}
    rows = []
    for spot in (asked, {**asked, "recovery": "spotserve"}):
        scenario = with_deployment(spot=spot, replicas=3)
        del scenario["workloads"][0]["deployment"]["autoscaling"]
        scenario["workloads"][0]["requests"] = requests
        rows.append(simulator.run(scenario).of("chat"))
    lost, saved = rows
    assert saved["requests"] == 600 and saved["requests_moved"] > 0
    assert saved["restarts"] < 0.2 * lost["restarts"]
    assert saved["recomputed_tokens"] < 0.2 * lost["recomputed_tokens"]
    # Keys and values of llama-3.1-8b: 2 · 32 layers · 8 heads · 128 · 2 B a token, 300 to 1300 tokens a request.
    each = saved["moved_bytes"] / saved["requests_moved"]
    assert 300 * 131072 < each < 1300 * 131072
    assert 0.0 < saved["move_pause_mean"] < 0.1


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
        ({"spot": {"mean_life": "1 h", "recovery": "mark"}}, "unknown"),
        ({"migration": {"policy": "lumnix"}}, "did you mean 'llumnix'"),
        ({"migration": {"options": {"limit": 1}}}, "does not take these parameters"),
        ({"migration": {}, "batching": "static"}, "requests move at every iteration"),
        ({"migration": {}, "plan": {"pipeline_parallel": 2}}, "choose tensor_parallel"),
        ({"migration": {}, "preemption": "swap"}, "choose 'recompute'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_where_it_is_written(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulator.load(with_deployment(**changes))
