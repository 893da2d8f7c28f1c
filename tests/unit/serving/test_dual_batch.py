"""Two halves of a batch that take turns: limits where the answer is known, and jumps that equal single steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.serving.dual_batch import DualBatchCost
from simulator.serving.estimate import check_deployment
from simulator.serving.token_costs import Part, TokenCosts
from simulator.strategies.batch_overlap.halves import DualMicroBatch
from simulator.strategies.protocols import BatchShape
from simulator.strategies.settings import settings_of
from simulator.workload.plan import Plan
from tests.serving_deployments import cluster, deployment, replica

RANKS = 16
WIDE = Plan(data_parallel=RANKS, expert_parallel=RANKS)


def halves(messages: float = 1.0, **shares: float) -> DualBatchCost:
    """DeepSeek-V2-Lite on 16 ranks whose messages take so many times as long."""
    plain = replica("deepseek-v2-lite", "sglang-0.4", plan=WIDE)
    host = ("host_per_launch", "host_per_latent_layer", "host_per_expert_layer")
    quick = {k: v for k, v in plain.framework.constants.items() if k not in host}
    overlap = DualMicroBatch(settings_of("batch_overlap", {"method": "dual-micro-batch", **shares}))
    framework = replace(plain.framework, constants=quick)
    made = DualBatchCost(overlap, plain.model, WIDE, framework, plain.node, plain.fabric)
    made.costs = Slower(made.costs, messages)  # type: ignore[assignment]
    return made


class Slower:
    """Prices with longer messages."""

    def __init__(self, costs: TokenCosts, factor: float) -> None:
        self.costs, self.factor = costs, factor

    def seconds(self, part: Part, tokens: int, *, captured: bool) -> float:
        sent = self.costs.messages(part, tokens, captured=captured)
        return self.costs.seconds(part, tokens, captured=captured) + (self.factor - 1) * sent

    def messages(self, part: Part, tokens: int, *, captured: bool) -> float:
        return self.factor * self.costs.messages(part, tokens, captured=captured)


def decoding(each: int, context: int) -> BatchShape:
    return BatchShape((), each * RANKS, each * RANKS * context, context)


def test_messages_that_take_no_longer_than_computation_cost_nothing() -> None:
    for batch in (decoding(128, 4000), BatchShape(((2048, 0),) * 2 * RANKS, 0, 0)):
        assert halves(0.3).iteration(batch) == pytest.approx(halves(0.0).iteration(batch), rel=1e-12)
        assert halves(1.0).breakdown(batch)["expert_parallel"] >= 0.0


def test_messages_that_take_longer_are_all_that_counts() -> None:
    """Two halves of every mixture's all-to-alls, twice per layer; the dense layer has none."""
    batch, half = decoding(128, 4000), 64
    costs = halves().costs.costs  # type: ignore[attr-defined]
    sent = sum(
        count * costs.messages(layer, half, captured=True) for layer, count in halves().layers_of_stage[0].items()
    )
    more = halves(400.0).iteration(batch) - halves(200.0).iteration(batch)
    assert more == pytest.approx(2 * 200 * sent, rel=1e-9)


def test_kernels_that_send_hold_multiprocessors() -> None:
    prompts = BatchShape(((2048, 0),) * 2 * RANKS, 0, 0)
    whole, shared = halves(0.0, prefill_share=1.0), halves(0.0, prefill_share=0.5)
    ends = whole._ends(0, whole.local(prompts))
    times = [cost.device_times(prompts)[0] - ends for cost in (shared, whole)]
    assert times[0] == pytest.approx(2 * times[1], rel=1e-9)
    assert halves(0.0).iteration(decoding(64, 500)) == halves(0.0, decode_share=1.0).iteration(decoding(64, 500))


@pytest.mark.parametrize("messages", [0.0, 3.0, 30.0, 300.0])
def test_segments_are_the_iterations_one_by_one(messages: float) -> None:
    """Also where the cache grows until attention takes longer than the messages."""
    cost, done = halves(messages), 0
    while done < 4000:
        base, slope, valid = cost.decode_segment(decoding(64, 100 + done))
        for i in {0, 1, valid // 2, valid - 1}:
            if i < min(valid, 20_000):
                assert base + slope * i == pytest.approx(cost.iteration(decoding(64, 100 + done + i)), rel=1e-9)
        done += min(valid, 5000)


def test_the_parts_add_up() -> None:
    for batch in (decoding(128, 4000), BatchShape(((2048, 512),) * 2 * RANKS, 0, 0)):
        for messages in (0.0, 1.0, 50.0):
            cost = halves(messages)
            assert sum(cost.breakdown(batch).values()) == pytest.approx(cost.iteration(batch), rel=1e-9)


def test_it_needs_messages_to_hide_and_no_drafts() -> None:
    alone = deployment("deepseek-v2-lite", "sglang-0.4", options={"batch_overlap": "dual-micro-batch"})
    assert "expert_parallel" in check_deployment(alone, cluster())[0]
    drafts = (("method", "ngram"), ("draft_tokens", 2), ("acceptance", 0.5))
    both = replace(alone, plan=WIDE, options=(*alone.options, ("speculation", drafts)))
    assert "drafts" in check_deployment(both, cluster())[0]
    wrong = replace(alone, plan=WIDE, options=(("batch_overlap", (("method", "dual-micro-batch"), ("share", 1))),))
    assert "unknown key 'share'" in check_deployment(wrong, cluster())[0]
    assert check_deployment(replace(alone, plan=WIDE), cluster()) == []
