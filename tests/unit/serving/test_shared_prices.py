"""Engines share what they have priced: counted, not timed."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

import pytest

import simulator
from simulator.serving import pricing, token_costs
from simulator.serving.clocked_cost import ClockedCost
from simulator.serving.deployment import DeploymentProcess
from simulator.serving.estimate import estimate_deployment

CHAT = ("workloads.chat.requests.count=300",)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "_known", OrderedDict())


def test_an_interval_lowers_every_block_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many constants it moves: they change prices, not what is priced."""
    made, served = Counter[tuple[Any, int]](), token_costs.served_block

    def counted(part: Any, model: Any, plan: Any, framework: Any, tokens: int) -> Any:
        made[part, tokens] += 1
        return served(part, model, plan, framework, tokens)

    monkeypatch.setattr(token_costs, "served_block", counted)
    scenario = simulator.load("llama3-70b-chat", CHAT)
    answer = estimate_deployment(scenario.deployments[0], scenario.cluster)
    assert answer.interval is not None
    assert len(answer.interval.sensitivity) > 10
    assert set(made.values()) == {1}


def test_a_second_run_in_the_compiled_loop_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of an engine share its tables; and give the same numbers as one that begins without them."""
    pytest.importorskip("numba")
    from simulator.serving.compiled import layout
    from simulator.serving.compiled.driver import CompiledLoop

    asked, provide, begin = list[int](), CompiledLoop._provide, DeploymentProcess.__init__

    def counted(self: CompiledLoop, why: int) -> None:
        if why in (layout.NO_TOKENS, layout.NO_ROWS, layout.NO_DECODES, layout.NO_CHUNK):
            asked.append(why)
        provide(self, why)

    def compiled(self: DeploymentProcess, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options | {"loop": "compiled"})

    monkeypatch.setattr(CompiledLoop, "_provide", counted)
    monkeypatch.setattr(DeploymentProcess, "__init__", compiled)
    first = simulator.run(simulator.load("llama3-70b-chat", CHAT))
    before = len(asked)
    second = simulator.run(simulator.load("llama3-70b-chat", CHAT))
    assert before > 100
    assert len(asked) == before
    assert second.summary.equals(first.summary)


def test_a_clock_that_does_not_draft_is_not_asked_for_drafts() -> None:
    """In every iteration with prompts, that is."""

    class Plain:
        def iteration(self, batch: object) -> float:
            return 1.0

        def decode_segment(self, batch: object) -> Any:
            raise AssertionError

    cost = ClockedCost(Plain(), lambda level: Plain())
    assert cost.yielded == 1.0
    assert cost.follow(70)
    assert cost.ahead(None) == 0.0  # type: ignore[arg-type]
