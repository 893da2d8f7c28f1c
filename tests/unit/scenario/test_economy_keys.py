"""Keys of power, price, sites, functions and security: what they change, and what is told about wrong ones."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

import simulator
from simulator.cluster.economics import HORIZON, YEAR
from simulator.errors import ConfigError
from simulator.hardware.profiles import load_node
from simulator.scenario.load import load_scenario

TUNE: dict[str, Any] = {
    "name": "tune",
    "cluster": {
        "nodes": {"profile": "dgx-h100", "count": 1},
        "site": {"power_price": "0.1 USD/kWh", "carbon": "400 g/kWh", "pue": 1.25},
    },
    "workloads": [
        {
            "training": "tune", "model": "llama-3.1-8b", "framework": "megatron-core-0.8", "steps": 1000,
            "batch": {"global_batch_size": 32, "micro_batch_size": 1, "sequence_length": 4096},
            "plan": {"tensor_parallel": 4, "sequence_parallel": True},
        }
    ],
}  # fmt: skip
CALLS: dict[str, Any] = {
    "name": "calls",
    "cluster": {"nodes": {"profile": "dgx-h100", "count": 1}, "site": {"name": "here", "carbon": "400 g/kWh"}},
    "sites": [
        {
            "name": "north", "nodes": {"profile": "hgx-h200", "count": 1}, "carbon": "20 g/kWh",
            "wan": {"latency": "20 ms", "bandwidth": "10 Gb/s"},
        }
    ],
    "workloads": [
        {
            "functions": "assist", "calls": {"rate": "1 /s", "duration": "10 min", "functions": 2, "owners": 2},
            "model": "llama-3.1-8b", "framework": "vllm-0.10", "input_tokens": 300, "output_tokens": 100,
            "cold_start": {"start": "2 s", "load": "5 GB/s"}, "placement": "locality", "response": "3 s",
        }
    ],
}  # fmt: skip


def changed(base: dict[str, Any], **sections: Any) -> dict[str, Any]:
    made = deepcopy(base)
    for path, value in sections.items():
        node: Any = made
        *parts, last = path.split("__")
        for part in parts:
            node = node[int(part)] if part.isdigit() else node.setdefault(part, {})
        node[last] = value
    return made


def test_a_power_limit_slows_compute_saves_energy_and_is_said() -> None:
    plain = simulator.run(TUNE).of("tune")
    result = simulator.run(changed(TUNE, cluster__power={"device_cap": "500 W"}))
    capped = result.of("tune")
    assert capped["clock"] < 1 == plain["clock"]
    assert plain["seconds"] < capped["seconds"] < plain["seconds"] / capped["clock"]
    assert capped["energy_per_token"] < plain["energy_per_token"]
    assert capped["mfu"] < plain["mfu"], "utilisation is quoted against the rated peak"
    assert any("500 of 700 W" in w for w in result.warnings)


def test_decode_keeps_its_speed_under_a_limit_that_training_feels() -> None:
    chat = load_scenario("quickstart", ["cluster.power.device_cap=500 W"])
    result, plain = simulator.run(chat), simulator.run("quickstart")
    slower = {name: result.of(name)["seconds"] / plain.of(name)["seconds"] for name in ("finetune", "chat")}
    assert slower["finetune"] > 1.04
    assert 1.0 <= slower["chat"] < 1.0 + 0.3 * (slower["finetune"] - 1)


def test_hours_of_the_site_set_carbon_and_price() -> None:
    base = changed(TUNE, cluster__price={"mode": "purchase", "network": 0})
    flat = simulator.run(base)
    hours = simulator.run(changed(base, cluster__site__carbon=["100 g/kWh", "900 g/kWh"]))
    seconds = flat.of("tune")["training_seconds"]
    share = min(3600.0, seconds) / seconds
    mean = (100 * share + 900 * (1 - share)) / 400
    assert seconds < 7200
    assert hours.of("tune")["carbon"] == pytest.approx(mean * flat.of("tune")["carbon"])


def test_bought_machines_cost_their_depreciation_and_what_keeps_them_running() -> None:
    price = {
        "mode": "purchase", "node": "400 kUSD", "network": "40 kUSD", "residual": "10 %", "lifetime": "5 year",
        "maintenance": "4 %", "hosting": "150 USD/kW/month", "source": "quote",
    }  # fmt: skip
    result = simulator.run(changed(TUNE, cluster__price=price))
    row, items = result.of("tune"), {r["item"]: r["usd"] for r in result.rows("costs")}
    part = row["training_seconds"] / YEAR
    assert items["machines written off over 5 years"] == pytest.approx(400e3 * 0.9 * part / 5)
    assert items["network written off over 5 years"] == pytest.approx(8 * 40e3 * 0.9 * part / 5)
    assert items["maintenance"] == pytest.approx(0.04 * (400e3 + 320e3) * part)
    assert items["hosting"] == pytest.approx(150 * load_node("dgx-h100").power_peak / 1e3 * 12 * part)
    assert items["electricity"] == pytest.approx(row["energy"] / 3.6e6 * 0.1)
    assert row["usd"] == pytest.approx(sum(items.values()))
    assert row["capital"] == pytest.approx(720e3)
    assert row["tco_36_months"] == pytest.approx(row["usd"] * HORIZON / row["training_seconds"])


@pytest.mark.parametrize(("mode", "cheaper"), [("on-demand", False), ("reserved", True), ("spot", True)])
def test_modes_of_renting(mode: str, cheaper: bool) -> None:
    plain = simulator.run(TUNE)
    found = simulator.run(changed(TUNE, cluster__price={"mode": mode}))
    assert (found.of("tune")["usd"] < plain.of("tune")["usd"]) is cheaper
    assert ("assumed" in found.rows("costs")[0]["source"]) is cheaper
    quoted = simulator.run(
        changed(TUNE, cluster__price={"mode": mode, "rent": ["2 USD/h", "3 USD/h"], "source": "offer"})
    )
    hours = 8 * plain.of("tune")["training_seconds"] / 3600
    assert quoted.of("tune")["usd"] == pytest.approx(2.5 * hours)


def test_a_model_behind_functions_is_timed_on_every_site() -> None:
    row = simulator.run(CALLS).of("assist")
    work = load_scenario(CALLS).functions[0]
    here, north = work.sites
    assert here.slowness == 1.0
    assert 0.5 < north.slowness < 1.0, "H200 reads weights faster"
    weights = 16.06e9
    assert work.settings.size == pytest.approx(weights, rel=0.01)
    floor = work.calls.duration.min()
    assert row["seconds"] >= row["floor_seconds"] > 0.9 * floor * north.slowness


def test_carbon_goes_where_power_is_clean() -> None:
    near = simulator.run(CALLS)
    clean = simulator.run(changed(CALLS, workloads__0__placement="carbon"))
    assert clean.of("assist")["carbon"] < 0.2 * near.of("assist")["carbon"]
    calls = {r["site"]: r["calls"] for r in clean.rows("sites")}
    assert calls["north"] > calls["here"]
    for result in (near, clean):
        sites = result.rows("sites")
        assert sum(r["usd"] for r in sites) == pytest.approx(result.of("assist")["usd"])
        assert sum(r["energy"] for r in sites) == pytest.approx(result.of("assist")["energy"])
        assert sum(r["usd"] for r in result.rows("costs")) == pytest.approx(result.of("assist")["usd"])


def test_functions_take_what_other_workloads_leave() -> None:
    both = changed(CALLS)
    both["workloads"].append(changed(TUNE)["workloads"][0] | {"plan": {"tensor_parallel": 4, "data_parallel": 1}})
    assert load_scenario(both).functions[0].sites[0].capacity == 4


def test_confidential_mode_and_private_training_slow_what_they_slow() -> None:
    plain = simulator.estimate(TUNE).of("tune")
    slow = simulator.estimate(changed(TUNE, security={"confidential": {"slow_down": "6 %"}})).of("tune")
    assert 1.0 < slow["seconds"] / plain["seconds"] <= 1 / 0.94 + 1e-9
    private = simulator.estimate(changed(TUNE, security={"dp_sgd": {}})).of("tune")
    assert 1.0 < private["seconds"] / plain["seconds"] <= 5 / 3 + 1e-9
    none = simulator.estimate(changed(TUNE, security={"dp_sgd": {"backward_passes": 1}})).of("tune")
    assert none["seconds"] == plain["seconds"]


def test_encrypted_links_lose_the_bytes_of_the_frames() -> None:
    cluster = load_scenario(changed(TUNE, security={"encrypted_links": {"overhead": "32 B", "frame": "96 B"}})).cluster
    plain = load_scenario(TUNE).cluster
    assert cluster.fabric.link.achievable == pytest.approx(0.75 * plain.fabric.link.achievable)
    assert cluster.groups[0].node.nic.achievable == pytest.approx(0.75 * plain.groups[0].node.nic.achievable)


def test_security_reaches_the_other_sites_and_their_links() -> None:
    plain = load_scenario(CALLS).functions[0].sites
    links = {"encrypted_links": {"overhead": "32 B", "frame": "96 B"}, "confidential": {"slow_down": "10 %"}}
    safe = load_scenario(changed(CALLS, security=links)).functions[0]
    assert safe.sites[1].bandwidth == pytest.approx(0.75 * plain[1].bandwidth)
    assert safe.sites[1].slowness == pytest.approx(plain[1].slowness, rel=0.02), "all sites are slower alike"
    assert safe.calls.duration[0] > 1.05 * load_scenario(CALLS).functions[0].calls.duration[0]
    shared = changed(CALLS, workloads__0__isolation="none")
    assert load_scenario(shared).functions[0].settings.isolation == "none"
    assert load_scenario(changed(shared, security={"isolation": True})).functions[0].settings.isolation == "owner"


def test_a_power_limit_slows_functions_too() -> None:
    capped = load_scenario(changed(CALLS, cluster__power={"cap": "6 kW"}))
    assert capped.cluster.groups[0].node.accelerator.clock < 1
    assert capped.functions[0].calls.duration[0] >= load_scenario(CALLS).functions[0].calls.duration[0]


def test_nothing_is_recommended_for_functions() -> None:
    from simulator.scenario.recommend import recommend

    with pytest.raises(ConfigError, match="fmsim sweep"):
        recommend(CALLS, ["cluster.nodes.count=1,2"], objective="cost")


@pytest.mark.parametrize(
    ("base", "path", "value", "told"),
    [
        (TUNE, "cluster__power", {"device_cap": "50 W"}, "draws 70 W when idle"),
        (TUNE, "cluster__power", {"rack_cap": "20 kW"}, "cluster.rack: {nodes: 4}"),
        (TUNE, "cluster__power", {"device_cap": "0 W"}, "more than 0"),
        (TUNE, "cluster__power", {"oversubscription": 0.5}, "at least 1"),
        (TUNE, "cluster__price", {"rent": ["3 USD/h", "2 USD/h"]}, "[low, high]"),
        (TUNE, "cluster__site__carbon", [], "one per hour"),
        (CALLS, "workloads__0__calls", {"rate": "1 /s"}, "needs an end"),
        (CALLS, "workloads__0__calls", {}, "one source of calls"),
        (CALLS, "workloads__0__quotas", {"owner-1": 0.7, "owner-2": 0.7}, "more than all there is"),
        (CALLS, "workloads__0__quotas", {"nobody": 0.1}, "owners that call nothing"),
        (CALLS, "workloads__0__output_tokens", None, "output_tokens is missing"),
        (CALLS, "workloads__0__model", "llama-3.1-405b", "does not fit on 'here'"),
        (CALLS, "workloads__0__placement", "carbonn", "did you mean 'carbon'"),
        (CALLS, "sites__0__wan", {"bandwidth": "0 Gb/s"}, "more than 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(base: dict[str, Any], path: str, value: Any, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_scenario(changed(base, **{path: value}))
    assert told in str(caught.value)
    assert all(issue.line for issue in caught.value.issues)
