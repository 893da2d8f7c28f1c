"""Explanations and reports of cascades, of models that share devices, and of functions."""

from __future__ import annotations

from typing import Any

import pytest

import simulator
from simulator.report.explain import explain
from simulator.report.html import result_page

SMALL = {"rate": "5 /s", "count": 10, "input_tokens": 90, "output_tokens": 12}


def serving(deployment: dict[str, Any]) -> dict[str, Any]:
    work = {
        "serving": "chat", "model": "llama-3.1-8b", "framework": "vllm-0.10", "requests": SMALL,
        "deployment": {"max_model_len": 1024, **deployment}, "slo": {"e2e": "20 s"},
    }  # fmt: skip
    return {"cluster": {"nodes": {"profile": "dgx-h100", "count": 1}}, "workloads": [work]}


@pytest.mark.parametrize(
    "deployment",
    [
        {"cascade": {"method": "tabi", "small": {"model": "llama-3.2-1b"}, "reroute": 0.4}},
        {"groups": [{"count": 1}, {"count": 1, "plan": {"tensor_parallel": 2}}]},
        {"pools": {"prefill": {"plan": {"tensor_parallel": 2}}, "decode": {}}},
    ],
    ids=lambda d: next(iter(d)),
)
def test_the_cache_that_is_explained_is_that_of_the_engine_shown(deployment: dict[str, Any]) -> None:
    """Llama-3.1-8B keeps 2 · 32 layers · 8 heads · 128 · 2 bytes per token on one rank, whatever stands beside it."""
    result = simulator.run(serving(deployment))
    cache = next(row for row in explain(result, "memory") if row.item == "kv")
    each = cache.value / result.of("chat")["kv_capacity_tokens"]
    assert each == pytest.approx(2 * 32 * 8 * 128 * 2, rel=1e-3)
    assert "128 KiB of one rank" in cache.note


def test_models_that_share_devices_are_explained_one_by_one() -> None:
    other = {"model": "bert-base", "requests": {"rate": "5 /s", "count": 5, "input_tokens": 64}, "deadline": "1 s"}
    result = simulator.run(serving({"sharing": {"policy": "clockwork", "models": [other]}}))
    whole, *members = (str(row["workload"]) for row in result.rows("summary"))
    assert members == ["chat llama-3.1-8b", "chat bert-base"]
    for topic in ("memory", "time", "traffic", "source"):
        assert all(member in explain(result, topic, whole)[0].note for member in members)
    for member in members:
        time = [row for row in explain(result, "time", member) if row.item not in ("whole", "roofline floor")]
        assert sum(row.value for row in time) == pytest.approx(result.of(member)["seconds"])
        assert explain(result, "source", member)[0].item != "nothing recorded"


def test_the_report_of_functions_has_its_sites_and_what_people_ask() -> None:
    work = {
        "functions": "assistant", "accelerators": 1, "cold_start": {"start": "2 s"}, "response": "5 s",
        "calls": {"rate": "2 /s", "count": 60, "seconds": "0.5 s"},
    }  # fmt: skip
    result = simulator.run({"cluster": {"nodes": {"profile": "dgx-h100", "count": 1}}, "workloads": [work]})
    page = result_page(result)
    head = page[page.index("Figures of merit") : page.index("All figures")]
    for text in ("Sites", "cold start rate", "usd per thousand calls", "energy per call", "carbon", "e2e p99"):
        assert text in head, text
    assert "sites" in explain(result, "time")[0].note


def test_changes_of_the_plan_are_told_with_their_stalls() -> None:
    """One of two nodes goes at 1 s and is back at 3 s: two changes, each with what moved, and what happened."""
    changes = [{"at": "1 s", "leave": 1}, {"at": "3 s", "join": 1}]
    layouts = {"tensor_parallel": 4, "pipeline_parallel": 2}
    instances = {"at_start": 2, "grace": "1 s", "changes": changes, "layouts": layouts}
    scenario = serving({"instances": instances})
    scenario["cluster"]["nodes"]["count"] = 2
    scenario["workloads"][0]["requests"] = SMALL | {"count": 30}
    result = simulator.run(scenario)
    rows = explain(result, "plans", "chat")
    plans = [row for row in rows if row.section.startswith("plans")]
    assert [row.item.partition(": ")[2] for row in plans] == [
        f"{count} × (pipeline 2 × tensor 4)" for count in (2, 1, 2)
    ]
    assert "instances revoked" in plans[1].note
    assert plans[2].value > 0.0 and "from other accelerators" in plans[2].note
    assert [row.item.partition(": ")[2] for row in rows if row.section == "instances"] == [
        "instance revoked", "instance taken away", "instance there"
    ]  # fmt: skip
    assert explain(simulator.run(serving({})), "plans", "chat")[0].item == "nothing recorded"
