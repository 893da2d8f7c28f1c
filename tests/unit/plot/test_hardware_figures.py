"""Roofline, links and failures: what is drawn agrees with the tables and with closed forms."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

import simulator as sim
from simulator.errors import ConfigError
from simulator.hardware.profiles import load_accelerator, load_link
from simulator.network.links import KINDS
from simulator.network.topology import build
from simulator.plot import cost_bars, failures_and_goodput, link_heat_map, roofline, tco_bars
from simulator.plot.topology import tiers_of
from simulator.results.tables import Result
from simulator.training.link_phases import link_loads


@pytest.fixture(autouse=True)
def _close() -> Any:
    yield
    plt.close("all")


def test_no_operation_is_above_the_roof(interleaved: Result) -> None:
    chip = load_accelerator("a100-sxm-80gb")
    ax = roofline(interleaved)
    drawn = np.concatenate([np.asarray(c.get_offsets()) for c in ax.collections])
    assert len(drawn) > 20
    roof = np.minimum(chip.peak_flops["fp16"], chip.memory_bandwidth * drawn[:, 0]) / 1e12
    assert (drawn[:, 1] <= roof * (1 + 1e-9)).all()
    assert any("312 TFLOP/s" in t.get_text() for t in ax.texts)


def test_a_frame_needs_its_device(interleaved: Result) -> None:
    with pytest.raises(ConfigError, match="give device"):
        roofline(interleaved.ops)
    assert roofline(interleaved.ops, device=load_accelerator("h100-sxm"), dtype="bf16").get_xscale() == "log"


@pytest.mark.parametrize("plan", ["tp=8 pp=1 sp=true zero_stage=1", "tp=1 pp=1 sp=false zero_stage=3 recompute=full"])
def test_link_loads_carry_what_the_ranks_send(plan: str) -> None:
    """In a job of one stage every rank sends the same: bytes on the ports are those of the traffic table, all told."""
    changes = ["cluster.nodes.count=2", *(f"workloads.pretrain.plan.{c}" for c in plan.split())]
    scenario = sim.load("how-to-split-a-70b", [*changes, "workloads.pretrain.model=llama-3.1-8b"])
    answer = sim.estimate(scenario)
    topology = build(scenario.cluster)
    loads = link_loads(answer.details["pretrain"].details["pipeline"], topology)
    kinds = np.array(KINDS)[topology.links.kind]
    sent = {row["link"]: row["bytes"] for row in answer.rows("traffic")}
    ranks = scenario.cluster.accelerator_count
    names = [topology.links.name(i) for i in range(len(loads))]
    out = sum(load for load, kind, name in zip(loads, kinds, names, strict=True) if kind == "nic" and ":out" in name)
    assert out == pytest.approx(ranks * sent["scale_out"], rel=1e-6)
    assert loads[kinds == "scale_up"].sum() == pytest.approx(2 * ranks * sent["scale_up"], rel=1e-6)  # in, and out


def test_tiers_show_their_busiest_link() -> None:
    topology = build(sim.load("how-to-split-a-70b").cluster)
    use = np.zeros(len(topology.links))
    use[topology.links.number("node3/nic5:out")] = 0.7
    ports = next(t for t in tiers_of(topology, use) if t.kind == "nic")
    assert ports.busiest.tolist() == [0, 0, 0, 0.7, 0, 0, 0, 0]
    assert ports.mean == pytest.approx(0.7 / (8 * 8 * 2))


def test_the_heat_map_says_how_busy_the_ports_are(interleaved: Result) -> None:
    ax = link_heat_map(interleaved)
    sent = 2 * 3 * 64 * 2048 * 12288 * 2 / 8  # both ways, 3 chunks, 64 micro-batches, bf16, sharded over 8 ranks
    share = 100 * sent / load_link("hdr200").achievable / interleaved.of("gpt3-175b")["seconds"]
    text = [t.get_text() for t in ax.texts if t.get_text().startswith("busiest")][1]  # leaf to spine comes before
    assert float(text.split()[1]) == pytest.approx(share, rel=0.01)
    with pytest.raises(ConfigError, match="no training job that works"):
        link_heat_map(sim.estimate("llama3-70b-chat"))


@pytest.fixture(scope="module")
def failing() -> Result:
    changes = ["workloads.0.steps=3000", "failures={mtbf: 100 h, law: exponential}", "until=5 d"]
    return sim.run("how-to-split-a-70b", [*changes, "workloads.0.checkpoint={every: 30 min}", "seed=4"])


def test_steps_kept_fall_back_at_failures_and_end_at_the_summary(failing: Result) -> None:
    summary = failing.of("pretrain")
    assert summary["interruptions"] >= 2
    ax = failures_and_goodput(failing)
    time, steps = ax.lines[0].get_data()
    assert steps[-1] == summary["steps"]
    assert (np.diff(time) >= 0).all()
    falls = -np.diff(steps)[np.diff(steps) < 0].sum()
    assert falls * summary["seconds"] == pytest.approx(summary["lost_rework"], rel=1e-6)
    stopped = next(line for line in ax.lines if line.get_label() == "interruption")
    assert len(stopped.get_xdata()) == summary["interruptions"]


def test_lost_time_is_drawn_as_its_share(failing: Result) -> None:
    summary = failing.of("pretrain")
    lower = failures_and_goodput(failing).figure.axes[1]
    drawn = sum(p.get_width() for p in lower.patches)
    assert drawn == pytest.approx(100 * (1 - summary["effective_time_ratio"]), abs=0.1)


def test_costs_of_a_result_are_those_of_its_items(served: Result) -> None:
    ax = cost_bars(served, "chat")
    assert sum(p.get_width() for p in ax.patches) == pytest.approx(served.of("chat")["usd_per_million_tokens"])


def test_costs_of_two_engines_add_up() -> None:
    """Both pools of a deployment rent machines: the bar is as long as its figure."""
    result = sim.run(
        {
            "cluster": {"nodes": {"profile": "dgx-h100", "count": 1},
                        "fabric": {"topology": "single-switch", "link": "ndr400"}},
            "workloads": [
                {
                    "serving": "chat", "model": "llama-3.1-8b", "framework": "vllm-0.10",
                    "requests": {"rate": "5 /s", "count": 5, "input_tokens": 200, "output_tokens": 10},
                    "deployment": {"pools": {"prefill": {}, "decode": {}}},
                }
            ],
        }
    )  # fmt: skip
    ax = cost_bars(result, "chat")
    assert sum(p.get_width() for p in ax.patches) == pytest.approx(result.of("chat")["usd_per_million_tokens"])


def test_cost_of_ownership_is_that_of_the_items(served: Result) -> None:
    ax = tco_bars(served, "chat")
    of_items = sum(r["usd_36_months"] for r in served.rows("costs") if r["workload"] == "chat")
    assert sum(p.get_width() for p in ax.patches) * 1e6 == pytest.approx(of_items)
    row = served.of("chat")
    whisker = ax.collections[0].get_segments()[0][:, 0] * 1e6
    assert whisker.tolist() == pytest.approx([row["tco_36_months_low"], row["tco_36_months_high"]])
    assert row["tco_36_months_low"] < row["tco_36_months"] < row["tco_36_months_high"]


def test_steps_are_those_of_training_jobs_only() -> None:
    rows = {"workload": ["queue"], "kind": ["jobs"], "interruptions": [1.0], "training_seconds": [float("nan")]}
    events = {"time": [5.0], "workload": ["queue"], "event": ["interrupted"], "detail": [""], "steps": [float("nan")]}
    with pytest.raises(ConfigError, match="not a training job"):
        failures_and_goodput(Result({"summary": rows, "events": events}, {}, {}), "queue")
