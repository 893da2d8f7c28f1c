"""Shares by trust: they sum to one, and a part that takes no time takes its trust with it."""

from __future__ import annotations

import pytest

import simulator
from simulator.constants import Trust
from simulator.serving.trust import trust_shares
from simulator.strategies.protocols import BatchShape
from simulator.workload.plan import Plan
from tests.serving_deployments import replica


@pytest.mark.parametrize("name", ["llama3-70b-chat", "wide-expert-serving", "quantised-weights-and-kv"])
def test_shares_of_an_iteration_sum_to_one(name: str) -> None:
    rows = [r for r in simulator.estimate(name).rows("summary") if r["feasible"]]
    assert rows
    for row in rows:
        shares = [row[f"share_{trust.value}"] for trust in Trust]
        assert sum(shares) == pytest.approx(1.0)
        assert all(share >= 0 for share in shares)


def test_the_host_carries_its_own_trust() -> None:
    plain = simulator.estimate("llama3-70b-chat")
    (host,) = (r for r in plain.rows("sources") if r["constant"].endswith("host_per_step"))
    slow = simulator.estimate("llama3-70b-chat", [f'constants={{"{host["constant"]}": 1000}}'])
    assert slow.of("chat")[f"share_{host['trust']}"] > 0.9 > plain.of("chat")[f"share_{host['trust']}"]


def test_a_run_and_an_estimate_say_the_same() -> None:
    few = ["workloads.0.requests.count=20"]
    ran, estimated = simulator.run("llama3-70b-chat", few), simulator.estimate("llama3-70b-chat", few)
    for trust in Trust:
        assert ran.of("chat")[f"share_{trust.value}"] == estimated.of("chat")[f"share_{trust.value}"]


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_a_pipeline_has_one_embedding_one_head_and_every_layer_once(
    stages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = replica(plan=Plan(pipeline_parallel=stages))
    asked: list[tuple[object, int]] = []
    by_trust = type(cost.costs).by_trust

    def noted(self: object, part: object, size: int) -> object:
        asked.append((part, size))
        return by_trust(self, part, size)  # type: ignore[arg-type]

    monkeypatch.setattr(type(cost.costs), "by_trust", noted)
    trust_shares(cost, BatchShape(((300, 0),), 5, 1000))
    assert [size for part, size in asked if part == "embedding"] == [305]
    assert [size for part, size in asked if part == "head"] == [6]  # tokens to sample
    assert sum(sum(layers.values()) for layers in cost.layers_of_stage) == 32
