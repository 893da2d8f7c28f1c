"""Every registered serving strategy can be named in a scenario, and what names it runs."""

from __future__ import annotations

from typing import Any

import pytest

import simulator
from simulator.registry import StrategyRecord, strategies

RECORDS = [r for r in strategies(area="serving") if r.family != "planner"]  # those are searches, see test_recommend
SPECULATION: dict[str, dict[str, Any]] = {
    "draft-model": {"draft_model": "llama-3.2-1b", "draft_tokens": 3, "acceptance": 0.7},
    "ngram": {"draft_tokens": 3, "acceptance": 0.4},
    "lookahead": {"window": 5, "ngram": 3, "accepted_length": 1.6},
    "medusa": {"widths": [2, 2], "acceptance": 0.5},
    "eagle": {"widths": [2, 2], "acceptance": 0.5},
    "mtp": {"draft_tokens": 1, "acceptance": 0.8},
    "specinfer": {"draft_model": "llama-3.2-1b", "widths": [2, 1], "acceptance": 0.5},
}
SPARSE_ATTENTION: dict[str, dict[str, Any]] = {
    "streaming-llm": {"window": 64}, "block-sparse": {"local": 32, "sequence": 96}
}  # fmt: skip
OFFLOAD: dict[str, dict[str, Any]] = {
    "powerinfer": {"active": 0.1, "hot": 0.3, "coverage": 0.8},
    "llm-in-a-flash": {"active": 0.1, "new": 0.3},
    "sti": {"bits": 4},
    "flexgen": {"weights": 0.5, "cache": 0.5},
    "edgemoe": {"expert_share": 0.6, "active_share": 0.25, "hit_ratio": 0.5},
}


def deployment_of(record: StrategyRecord) -> dict[str, Any]:
    """Keys of a deployment that use a strategy."""
    family, name = record.family, record.name
    if family in ("batching", "router", "admission", "kv_cache"):
        keys: dict[str, Any] = {family: name}
        if family == "router":
            keys |= {"replicas": 2}
        if name == "prefix-tiered":
            keys |= {"kv_tiers": {"name": "host", "capacity": "10 GiB", "bandwidth": "20 GB/s"}}
        return keys
    if family == "replanning":
        changes = [{"at": "1 s", "leave": 1}, {"at": "2 s", "join": 1}]
        layouts = [{"tensor_parallel": 8}, {"pipeline_parallel": 4, "tensor_parallel": 4}]
        return {"instances": {"policy": name, "at_start": 2, "grace": "1 s", "changes": changes, "layouts": layouts}}
    if name == "spotserve":
        return {"replicas": 2, "spot": {"mean_life": "2 s", "grace": "1 s", "recovery": name}}
    if family == "migration":
        return {"replicas": 2, "migration": {"policy": name}}
    if family == "autoscaling":
        return {"autoscaling": {"policy": name, "max_replicas": 2, "startup": "1 s", "interval": "1 s"}}
    if family == "disaggregation":
        return {"pools": {"policy": name, "prefill": {}, "decode": {}}}
    if family == "quantization":
        return {"plan": {"precision": name}}
    if family == "sparsity":
        return {"sparsity": {"method": name}}
    if family == "cascade":
        if name == "early-exit":
            return {"early_exit": [0.0] * 8 + [0.5] + [0.0] * 7}
        if name == "llmcad":
            return {"speculation": {"method": "specinfer", **SPECULATION["specinfer"]}, "offload": "zero-inference"}
        return {"cascade": {"method": name, "small": {"model": "llama-3.2-1b"}, "reroute": 0.3}}
    if family == "model_scheduling":
        other = {"model": "bert-base", "requests": {"rate": "5 /s", "count": 10, "input_tokens": 64}, "deadline": "1 s"}
        return {"replicas": 2, "sharing": {"policy": name, "models": [other]}}
    if family == "fusion":
        return {"plan": {"options": {"fusion": name}}}
    if family == "tensor":
        return {"plan": {"tensor_parallel": 4, "options": {"tensor": name, "tensor_rows": 2}}}
    if family == "batch_overlap":
        plan = {"tensor_parallel": 1, "data_parallel": 8, "expert_parallel": 8}
        return {"plan": plan, family: name}
    if family == "expert":
        ranks = "data_parallel" if name == "gathered-slices" else "tensor_parallel"
        return {"plan": {"tensor_parallel": 1, ranks: 2, "expert_parallel": 2, "options": {"expert": name}}}
    named = {"speculation": SPECULATION, "sparse_attention": SPARSE_ATTENTION, "serving_offload": OFFLOAD}
    key = {"serving_offload": "offload"}.get(family, family)
    more: dict[str, Any] = {"count": 5, "rank": 8} if family == "adapters" else named.get(family, {}).get(name, {})
    return {key: {"method": name, **more}}


def scenario_of(record: StrategyRecord) -> dict[str, Any]:
    model = "qwen3-30b-a3b" if record.family in ("expert", "batch_overlap") else "llama-3.2-1b"
    return {
        "cluster": {"nodes": {"profile": "dgx-h100", "count": 2 if record.family == "replanning" else 1}},
        "workloads": [
            {
                "serving": "test",
                "model": model,
                "framework": "vllm-0.10",
                "requests": {"rate": "5 /s", "count": 20, "input_tokens": 90, "output_tokens": 12},
                "deployment": {"max_model_len": 1024, **deployment_of(record)},
                "slo": {"e2e": "20 s"},
            }
        ],
    }


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: f"{r.family}-{r.name}")
def test_a_scenario_reaches_it(record: StrategyRecord) -> None:
    row = simulator.run(scenario_of(record)).of("test")
    assert row["feasible"], row["reason"]
    expected = 30 if record.family == "model_scheduling" else 20
    assert row["requests"] + row["rejected"] == expected
    assert row["requests"] > 0
