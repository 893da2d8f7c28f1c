"""``record: summary`` of pools and cascades: the figures of rows, within the error that the sketches state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import simulator
from simulator.serving.run import ServingRun
from simulator.serving.summary import ServingSummary

COUNTS = (
    "requests", "rejected", "unfinished", "input_tokens", "output_tokens", "preemptions", "iterations", "accelerators",
    "slo_met", "unstable",
)  # fmt: skip
EXACT = (
    "duration", "requests_per_s", "ttft_mean", "tpot_mean", "itl_mean", "e2e_mean", "queueing_mean", "slo_attainment",
    "slo_goodput", "usd", "energy", "utilization", "kv_occupancy_mean",
)  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "pools": {"pools": {"policy": "distserve", "prefill": {"replicas": 2}, "decode": {}}},
    "layerwise": {"pools": {"policy": "splitwise", "prefill": {}, "decode": {}}},
    "cascade": {"cascade": {"method": "tabi", "small": {"model": "llama-3.2-1b"}, "reroute": 0.4, "delay": "0.1 s"}},
    "everybody": {"cascade": {"method": "tabi", "small": {"model": "llama-3.2-1b"}, "reroute": 1.0}},
    "nobody": {"cascade": {"method": "tabi", "small": {"model": "llama-3.2-1b"}, "reroute": 0.0}},
}


def scenario(kind: str, **requests: Any) -> dict[str, Any]:
    work = {
        "serving": "test", "model": "llama-3.1-8b", "framework": "vllm-0.10",
        "requests": {"rate": "20 /s", "count": 400, "output_tokens": 40,
                     "input_tokens": {"law": "lognormal", "median": 400, "sigma": 0.8}, **requests},
        "deployment": {**KINDS[kind], "max_model_len": 2048},
        "slo": {"ttft": "60 ms", "tpot": "12 ms", "percentile": 90},
    }  # fmt: skip
    return {"cluster": {"nodes": {"profile": "dgx-h100", "count": 1}}, "workloads": [work]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_summary_has_the_figures_of_the_rows(kind: str) -> None:
    full = simulator.run(scenario(kind))
    brief = simulator.run({**scenario(kind), "record": "summary"})
    rows, row, short = full.rows("requests"), full.of("test"), brief.of("test")
    assert (row["rejected"] > 0) == (kind != "nobody")  # prompts beyond the large model's max_model_len
    assert not brief.rows("requests")
    for column in COUNTS:
        assert short[column] == row[column], column
    for column in (*EXACT, *(c for c in row if c.startswith("kv_transfer") and not c.endswith("p99"))):
        assert short[column] == pytest.approx(row[column], rel=1e-9, nan_ok=True), column
    assert short["rejections"] == row["rejections"]
    error = short["quantile_error"]
    done = [r for r in rows if r["finish"] == r["finish"]]
    for metric in ("ttft", "tpot", "e2e", "queueing"):
        values = [r[metric] for r in done if r[metric] == r[metric]]
        for name, q in (("median", 0.5), ("p90", 0.9), ("p99", 0.99)):
            low, high = (float(np.quantile(values, q, method=m)) for m in ("lower", "higher"))
            assert low * (1 - error) <= short[f"{metric}_{name}"] + 1e-12, metric
            assert short[f"{metric}_{name}"] <= high * (1 + error) + 1e-12, metric
    for name in ("median", "p90", "p99"):
        assert short[f"itl_{name}"] == pytest.approx(row[f"itl_{name}"], rel=2 * error)


@pytest.mark.parametrize("kind", ["pools", "cascade"])
def test_nothing_that_is_kept_grows_with_the_requests(kind: str) -> None:
    def outcome(record: str) -> Any:
        return simulator.run({**scenario(kind), "record": record}).details["test.run"]

    assert isinstance(outcome("full"), ServingRun)
    brief = outcome("summary")
    assert isinstance(brief, ServingSummary)
    assert len(brief.progress) <= 1024
