"""Kinds of deployments from a scenario: unlike replicas, pools, cascades, shared models, encoders, images."""

from __future__ import annotations

from typing import Any

import pytest

import simulator
from simulator.errors import ConfigError
from simulator.serving.front_end import front_end_of
from simulator.serving.pools_transfer import kv_wire_bytes
from simulator.serving.wrapped_cost import TowerCost
from simulator.strategies.protocols import BatchShape
from simulator.workload.framework_files import load_framework
from simulator.workload.model_files import load_model
from tests.serving_deployments import replica

LONE = {"rate": "0.01 /s", "count": 1, "input_tokens": 200, "output_tokens": 20}


def scenario(deployment: dict[str, Any], requests: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    work = {
        "serving": "test", "model": "llama-3.1-8b", "framework": "vllm-0.10",
        "requests": requests or {"rate": "6 /s", "count": 60, "input_tokens": 300, "output_tokens": 40},
        "deployment": deployment, **changes,
    }  # fmt: skip
    return {"cluster": {"nodes": {"profile": "dgx-h100", "count": 1}}, "workloads": [work]}


def rows(given: dict[str, Any]) -> list[dict[str, Any]]:
    return simulator.run(given).rows("requests")


def test_groups_of_equal_replicas_are_replicas() -> None:
    alike, plain = rows(scenario({"groups": [{"count": 1}, {"count": 1}]})), rows(scenario({"replicas": 2}))
    assert [r["finish"] for r in alike] == [r["finish"] for r in plain]


def test_a_group_with_more_ranks_is_faster_and_the_bill_counts_its_accelerators() -> None:
    result = simulator.run(scenario({"groups": [{"count": 1}, {"count": 1, "plan": {"tensor_parallel": 4}}]}))
    done = result.rows("requests")
    tpot = [sum(r["tpot"] for r in done if r["replica"] == i) / 30 for i in (0, 1)]
    assert tpot[1] < 0.7 * tpot[0]
    assert result.of("test")["accelerators"] == 5
    rents = [r["usd"] for r in result.rows("costs") if r["item"].startswith("machines")]
    assert rents[1] == pytest.approx(4 * rents[0])


def test_pools_send_every_cache_once_over_the_fabric() -> None:
    """Both pools are in one node: 900 GB/s of NVLink carry a cache of 300 tokens in well under a millisecond."""
    row = simulator.run(scenario({"pools": {"policy": "distserve", "prefill": {}, "decode": {}}})).of("test")
    assert row["kv_transfer_bytes"] == pytest.approx(60 * kv_wire_bytes(load_model("llama-3.1-8b"), 300))
    assert 0.0 < row["kv_transfer_wait_mean"] < 1e-3
    assert (row["requests"], row["accelerators"]) == (60, 2)


def cascade(reroute: float) -> dict[str, Any]:
    small = {"model": "llama-3.2-1b"}
    return {"cascade": {"method": "tabi", "small": small, "reroute": reroute, "delay": "0.5 s"}}


def test_a_cascade_is_one_model_or_both_one_after_the_other() -> None:
    small = rows(scenario({}, LONE, model="llama-3.2-1b"))[0]
    large = rows(scenario({}, LONE))[0]
    none, both = (rows(scenario(cascade(share), LONE))[0] for share in (0, 1))
    assert none["e2e"] == pytest.approx(small["e2e"])
    assert both["e2e"] == pytest.approx(small["e2e"] + 0.5 + large["e2e"])
    assert both["ttft"] == pytest.approx(small["e2e"] + 0.5 + large["ttft"])


def test_as_many_ask_the_large_model_as_are_said_to() -> None:
    result = simulator.run(scenario(cascade(0.3), {**LONE, "rate": "5 /s", "count": 400}))
    assert result.of("test")["rerouted"] == pytest.approx(120, abs=4 * (400 * 0.3 * 0.7) ** 0.5)
    assert any("quality: meets LLM-grade accuracy" in note for note in result.warnings)


def test_shared_models_answer_alone_in_the_time_of_one_pass() -> None:
    """Far apart, every query runs alone: its latency is that of its model's batch of one."""
    other = {"model": "bert-base", "requests": {"rate": "0.5 /s", "count": 3, "input_tokens": 64}}
    sharing = {"sharing": {"policy": "clockwork", "models": [other]}}
    requests = {"rate": "0.4 /s", "count": 3, "input_tokens": 64}
    result = simulator.run(scenario(sharing, requests, model="bert-large"))
    for model, row in (("bert-large", "test bert-large"), ("bert-base", "test bert-base")):
        alone = replica(model).iteration(BatchShape(((64, 0),), 0, 0))
        assert result.of(row)["e2e_median"] == pytest.approx(alone, rel=1e-6)
        assert result.of(row)["requests"] == 3


def test_a_plan_that_needs_more_devices_is_no_answer_but_a_reason() -> None:
    sharing = {"sharing": {"policy": "nexus"}}
    busy = {"rate": "4000 /s", "count": 4000, "input_tokens": 128}
    row = simulator.run(scenario(sharing, busy, model="bert-large", slo={"e2e": "50 ms"})).of("test")
    assert not row["feasible"] and "devices for these rates" in row["reason"]


def before(row: dict[str, Any]) -> float:
    """Time of a lone request in front of the engine."""
    front_end = front_end_of(load_framework("vllm-0.10"))
    assert front_end is not None
    return front_end.take_all([0.0], [row["input_tokens"]])[0]


def test_an_embedding_takes_one_pass_over_its_text() -> None:
    row = rows(scenario({}, {"rate": "1 /s", "count": 1, "input_tokens": 128}, model="bert-base"))[0]
    assert row["e2e"] == pytest.approx(before(row) + replica("bert-base").iteration(BatchShape(((128, 0),), 0, 0)))


@pytest.mark.parametrize(("guidance", "passes"), [(False, 1), (True, 2)])
def test_an_image_takes_its_steps(guidance: bool, passes: int) -> None:
    requests = {"rate": "1 /s", "count": 1, "steps": 20}
    row = rows(scenario({"diffusion": {"guidance": guidance}}, requests, model="dit-xl-2"))[0]
    step = replica("dit-xl-2").iteration(BatchShape(((256, 0),) * passes, 0, 0))
    assert row["e2e"] == pytest.approx(before(row) + 20 * step)


def test_an_image_in_a_prompt_costs_its_tokens_and_its_encoder() -> None:
    text = {**LONE, "input_tokens": 60}
    seen = rows(scenario({}, {**text, "images": 1}, model="llava-1.5-7b"))[0]
    read = rows(scenario({}, {**text, "input_tokens": 60 + 576}, model="llava-1.5-7b"))[0]
    tower = load_model("llava-1.5-7b").towers[0]
    base = replica("llava-1.5-7b")
    cost = TowerCost(base, [(type(base)(tower, base.plan, base.framework, base.node, base.fabric), 577)], 1)
    assert seen["input_tokens"] == 636
    assert seen["ttft"] - read["ttft"] == pytest.approx(cost.added(BatchShape(((636, 0),), 0, 0)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "bert-base"}, "does not generate tokens, leave it out"),
        ({"deployment": {"options": {"speculation": "ngram"}}}, "write it as deployment.speculation"),
        ({"deployment": {"plan": {"options": {"sparsity": "pit"}}}}, "write it below deployment.sparsity"),
        ({"deployment": {"pools": {}, "groups": [{}]}}, "cannot be combined with 'pools'"),
        ({"deployment": {"pools": {}, "replicas": 2}}, "'pools' says how many replicas there are"),
        ({"deployment": {"pools": {"policy": "mixed-pool", "options": {"queue": 1}}}}, "does not take these"),
        ({"deployment": {"sharing": {"policy": "clockwerk"}}}, "did you mean 'clockwork'"),
        ({"deployment": {"early_exit": [0.7, 0.7]}}, "add up to at most 1"),
        ({"deployment": {"kv_tiers": {"name": "h", "capacity": "1 GiB", "bandwidth": "1 GB/s"}, "kv_cache": "paged"}},
         "uses no tiers"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_said(changes: dict[str, Any], message: str) -> None:
    given = scenario({})
    given["workloads"][0] |= changes
    with pytest.raises(ConfigError, match=message):
        simulator.load(given)
