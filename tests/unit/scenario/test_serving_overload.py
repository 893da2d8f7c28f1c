"""What cannot be served is a result that says why: requests too long, a model too large, a rate above capacity."""

from __future__ import annotations

from typing import Any

import pytest

import simulator
from simulator.serving.front_end import front_end_of
from simulator.workload.framework_files import load_framework


def served(requests: dict[str, Any], **deployment: Any) -> dict[str, Any]:
    model, record = deployment.pop("model", "llama-3.1-8b"), deployment.pop("record", "full")
    scenario = {
        "record": record,
        "cluster": {"nodes": {"profile": "dgx-h100", "count": 1}},
        "workloads": [
            {
                "serving": "chat", "model": model, "framework": "vllm-0.10", "deployment": deployment,
                "requests": {"rate": "5 /s", "count": 40, "input_tokens": 300, "output_tokens": 20} | requests,
            }
        ],
    }  # fmt: skip
    return simulator.run(scenario).of("chat")


def test_requests_over_the_context_limit_are_rejected_by_reason() -> None:
    row = served({}, max_model_len=310)
    assert (row["requests"], row["rejected"]) == (0, 40)
    assert row["rejections"] == "40 longer than max_model_len"


def test_a_model_that_does_not_fit_is_infeasible_with_its_sizes() -> None:
    row = served({}, model="llama-3.1-70b")
    assert not row["feasible"] and "GiB" in row["reason"]


@pytest.mark.parametrize(("share", "unstable"), [(0.5, False), (2.0, True)])
def test_a_rate_above_capacity_is_said_with_the_growth_of_the_queue(share: float, unstable: bool) -> None:
    """The service rate is what the same engine does when all its requests are there at once. They pass the front end
    first, together and with the engine idle: its work is no part of it."""
    sizes = {"count": 600, "input_tokens": 2000, "output_tokens": 100}
    at_once = served(sizes | {"rate": "100000 /s"})
    front_end = front_end_of(load_framework("vllm-0.10"))
    assert front_end is not None
    most = 600 / (600 / at_once["requests_per_s"] - front_end.take_all([0.0] * 600, [2000] * 600)[-1])
    row = served(sizes | {"rate": f"{share * most} /s"})
    assert row["unstable"] == unstable
    if unstable:
        assert row["queue_growth"] == pytest.approx((share - 1.0) * most, rel=0.25)


@pytest.mark.parametrize("record", ["full", "summary"])
def test_a_run_shorter_than_its_requests_is_not_called_overloaded(record: str) -> None:
    """Long answers of a system at a tenth of its capacity: all requests are still in it when the last one comes."""
    row = served({"count": 200, "rate": "40 /s", "input_tokens": 100, "output_tokens": 1500}, record=record)
    assert row["e2e_median"] > 200 / 40
    assert row["queue_growth"] > 0.5 * row["arrival_rate"]
    assert not row["unstable"]
