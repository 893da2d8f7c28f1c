"""Speculation: golden yields, limits at no drafts, work conserved, gains that vanish when compute bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.errors import ConfigError
from simulator.registry import lookup
from simulator.serving.estimate import check_deployment, estimate_deployment
from simulator.serving.memory import cache_size
from simulator.serving.simulate import simulate_deployment
from simulator.serving.speculative import SpeculativeCost
from simulator.strategies.protocols import BatchShape, Segment
from simulator.strategies.settings import settings_of
from simulator.strategies.speculation.acceptance import GOLDEN_LENGTHS, tree_tokens
from simulator.workload.framework_files import load_framework
from simulator.workload.model_files import load_model
from simulator.workload.plan import Plan
from tests.serving_deployments import FABRIC, cluster, deployment, replica, requests

METHODS: dict[str, dict[str, Any]] = {
    "ngram": {"draft_tokens": 4, "acceptance": 0.5},
    "draft-model": {"draft_model": "llama-3.2-1b", "draft_tokens": 4, "acceptance": 0.7},
    "lookahead": {"window": 5, "ngram": 4, "accepted_length": 1.8},
    "medusa": {"widths": [4, 3, 2], "accepted_length": 2.3},
    "eagle": {"widths": [4, 2, 1], "tree_nodes": 12, "accepted_length": 2.9},
    "mtp": {"draft_tokens": 2, "accepted_lengths": "qwen3.5-mtp"},
    "specinfer": {"draft_model": "llama-3.2-1b", "widths": [2, 2, 1], "acceptance": 0.6},
}


def strategy(method: str, **options: Any) -> Any:
    return lookup("speculation", method)(settings_of("speculation", {"method": method, **options}))


def speculative(
    method: str, model: str = "llama-3.1-8b", framework: str = "vllm-0.10", **options: Any
) -> SpeculativeCost:
    chosen = strategy(method, **(METHODS[method] | options))
    return SpeculativeCost(chosen, load_model(model), Plan(), load_framework(framework), replica().node, FABRIC)


def test_measured_lengths_are_taken_as_they_are() -> None:
    assert strategy("mtp", draft_tokens=3, accepted_lengths="kimi-k3-dspark").expected_tokens == 2.87
    assert strategy("mtp", draft_tokens=2, accepted_lengths=[1.5, 1.9]).expected_tokens == 1.9
    with pytest.raises(ConfigError, match="measured for 1 to 8"):
        strategy("mtp", draft_tokens=9, accepted_lengths="kimi-k3-dspark")
    for lengths in GOLDEN_LENGTHS.values():
        assert all(1 <= length <= k + 2 for k, length in enumerate(lengths))


@given(st.floats(0, 1), st.lists(st.integers(1, 4), max_size=5))
def test_a_tree_yields_no_less_than_its_chain_and_no_more_than_its_depth(acceptance: float, widths: list[int]) -> None:
    chain, tree = tree_tokens(acceptance, [1] * len(widths)), tree_tokens(acceptance, widths)
    assert 1.0 <= chain <= tree + 1e-12 <= len(widths) + 1 + 1e-9


def test_a_tree_yields_what_a_simulation_of_it_does() -> None:
    """Children are accepted independently; the path goes on where any is."""
    rng = np.random.Generator(np.random.PCG64(3))
    alive = np.ones(200_000, dtype=bool)
    total = np.ones(len(alive))
    for width in (3, 2, 1):
        alive &= (rng.random((len(alive), width)) < 0.4).any(axis=1)
        total += alive
    assert tree_tokens(0.4, (3, 2, 1)) == pytest.approx(total.mean(), rel=0.01)


def test_verified_tokens_are_the_nodes_of_the_tree() -> None:
    assert strategy("specinfer", **METHODS["specinfer"]).verify_tokens == 1 + 2 + 4 + 4
    assert strategy("eagle", **METHODS["eagle"]).verify_tokens == 13
    assert strategy("ngram", draft_tokens=4, acceptance=0.1).verify_tokens == 5
    assert strategy("lookahead", **METHODS["lookahead"]).verify_tokens == (5 + 5) * 3


def test_no_drafts_is_plain_decoding() -> None:
    plain = replica()
    for method in ("ngram", "mtp"):
        none = speculative(method, draft_tokens=0)
        for batch in (BatchShape((), 7, 7000, 1000), BatchShape(((300, 0), (20, 50)), 12, 9000, 1000)):
            assert none.iteration(batch) == pytest.approx(plain.iteration(batch), rel=1e-12)
            assert none.floor(batch) == pytest.approx(plain.floor(batch), rel=1e-12)
        assert none.decode_segment(BatchShape((), 7, 7000, 1000)) == plain.decode_segment(BatchShape((), 7, 7000, 1000))


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=10, deadline=None)
@given(decodes=st.integers(1, 128), context=st.integers(1, 4000), chunk=st.integers(0, 2000))
def test_times_are_above_the_roofline_and_segments_exact(method: str, decodes: int, context: int, chunk: int) -> None:
    cost = COSTS.setdefault(method, speculative(method))
    batch = BatchShape(((chunk, 0),) if chunk else (), decodes, decodes * context, context)
    assert cost.iteration(batch) >= cost.floor(batch) > 0
    base, slope, valid = cost.decode_segment(BatchShape((), decodes, decodes * context, context))
    for i in (0, 1, 50):
        if i < valid:
            single = cost.iteration(BatchShape((), decodes, decodes * (context + i), context + i))
            assert base + slope * i == pytest.approx(single, rel=1e-9)
    assert sum(cost.breakdown(batch._replace(prefill=())).values()) == pytest.approx(
        cost.iteration(batch._replace(prefill=()))
    )


COSTS: dict[str, SpeculativeCost] = {}


def test_work_is_that_of_the_engine_over_a_run() -> None:
    """K engine iterations with prompts cost what K with and (a − 1)·K without prompts cost here."""
    cost = speculative("ngram")
    decodes, mixed = BatchShape((), 16, 16_000, 1000), BatchShape(((512, 0),), 16, 16_000, 1000)
    engine = cost.target.iteration(mixed) + cost.draft_seconds(mixed)
    assert cost.iteration(mixed) + (cost.yielded - 1) * cost.iteration(decodes) == pytest.approx(engine, rel=1e-12)


def test_gains_vanish_when_verification_is_compute_bound() -> None:
    """At batch 1 a verification costs about one step; at batch 512 five tokens cost nearly five."""
    plain, drafted = replica(framework="sglang-0.4"), speculative("ngram", framework="sglang-0.4")

    def gain(n: int) -> float:
        batch = BatchShape((), n, n * 500, 500)
        return sum(plain.device_times(batch)) / (sum(drafted.target.device_times(batch)) / drafted.yielded)

    assert gain(1) == pytest.approx(drafted.yielded, rel=0.1)
    assert gain(1) > gain(64) > gain(512)
    assert gain(512) < 1.0


def test_a_draft_model_costs_time_and_memory() -> None:
    cost = speculative("draft-model")
    batch = BatchShape((), 1, 1000, 1000)
    small = replica("llama-3.2-1b")
    assert cost.draft_seconds(batch) == pytest.approx(4 * sum(small.device_times(batch)))
    prompt = BatchShape(((1000, 0),), 0, 0)
    assert cost.iteration(prompt) == pytest.approx(replica().iteration(prompt) + sum(small.device_times(prompt)))
    node = replica().node
    plain = cache_size(deployment("llama-3.1-8b"), node)
    drafted = cache_size(
        deployment("llama-3.1-8b", options={"speculation": {"method": "draft-model", **METHODS["draft-model"]}}), node
    )
    assert drafted.bytes_per_token - plain.bytes_per_token == 16 * 8 * 2 * 64 * 2
    weights = [size.ledger.stages[0].by_class["param"] for size in (plain, drafted)]
    assert weights[1] - weights[0] == pytest.approx(1.236e9 * 2, rel=0.01)


def test_an_eagle_head_is_one_layer_and_its_projection() -> None:
    node = replica().node
    plain, drafted = (
        cache_size(deployment("llama-3.1-8b", options=o), node).ledger.stages[0].by_class["param"]
        for o in ({}, {"speculation": {"method": "eagle", **METHODS["eagle"]}})
    )
    h, ffn = 4096, 14336
    layer = 2 * h * h + 2 * h * 1024 + 3 * h * ffn + 2 * h
    assert drafted - plain == pytest.approx(2 * (layer + 2 * h * h), rel=1e-3)


def test_every_token_is_served_once_and_time_shrinks() -> None:
    table = requests(40, 300, 60)
    plain = simulate_deployment(table, replica(), kv_blocks=20_000)
    drafted = simulate_deployment(table, speculative("mtp"), kv_blocks=20_000)
    usage = drafted.replicas[0]
    assert usage.prefills + usage.decode_tokens == 40 * 60
    assert drafted.completed.all()
    assert np.nanmax(drafted.finish) < np.nanmax(plain.finish)
    single = simulate_deployment(table, speculative("mtp"), kv_blocks=20_000, stride=1)
    np.testing.assert_allclose(drafted.finish, single.finish, rtol=1e-9)


class Drafting:
    """10 ms per prompt, 4 ms per verification of 2.5 tokens."""

    yielded, prompt, verify = 2.5, 0.010, 0.004

    def iteration(self, batch: BatchShape) -> float:
        return self.prompt * len(batch.prefill) + (self.verify / self.yielded if batch.decodes else 0.0)

    def ahead(self, batch: BatchShape) -> float:
        return self.verify * (1.0 - 1.0 / self.yielded) if batch.decodes else 0.0

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(self.iteration(batch), 0.0, 1000)


@pytest.mark.parametrize("stride", [None, 1])
@pytest.mark.parametrize("kv_cache", ["paged", "reserve-exact"])
def test_prompts_wait_for_whole_verifications(stride: int | None, kv_cache: str) -> None:
    """One prompt an iteration: the k-th first token comes after k prompts and k − 1 verifications, and everybody who
    decodes meanwhile gets all that they yield."""
    cost = Drafting()
    run = simulate_deployment(
        requests(12, 100, 200), cost, batching="in-flight", kv_cache=kv_cache, max_num_batched_tokens=112,
        kv_blocks=2000, stride=stride,
    )  # fmt: skip
    k = np.arange(1, 13)
    np.testing.assert_allclose(run.first_token, k * cost.prompt + (k - 1) * cost.verify, rtol=1e-12)
    # 199 tokens in verifications of 2.5 with 11 prompts among them, to the part of a verification that is kept.
    engine = run.first_token[0] + 11 * cost.prompt + 199 / cost.yielded * cost.verify
    assert run.finish[0] == pytest.approx(engine, abs=cost.verify)
    usage = run.replicas[0]
    assert usage.decode_tokens == 12 * 199 and usage.kv_blocks_peak <= 2000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "eagel", "widths": [1]}, "did you mean"),
        ({"method": "ngram", "draft_tokens": 3}, "needs one of 'acceptance'"),
        ({"method": "ngram", "draft_tokens": 3, "acceptance": 1.2}, "not a number from 0 to 1"),
        ({"method": "ngram", "draft_token": 3, "acceptance": 0.2}, "unknown key 'draft_token'"),
        ({"method": "ngram", "draft_tokens": 3, "accepted_length": 9.0}, "from 1 to 4"),
        ({"method": "draft-model", "draft_tokens": 3, "acceptance": 0.5, "draft_model": "opt-125m"}, "tokenizer"),
        ({"method": "mtp", "draft_tokens": 3, "accepted_lengths": "kimi"}, "no table 'kimi'"),
    ],
)
def test_wrong_options_say_what_is_wrong(options: dict[str, Any], message: str) -> None:
    asked = deployment("llama-3.1-8b", options={"speculation": options})
    assert any(message in reason for reason in check_deployment(asked, cluster()))
    assert not estimate_deployment(asked, cluster()).feasible


def test_unknown_options_are_not_ignored() -> None:
    asked = deployment(
        "llama-3.1-8b", options={"speculaton": "ngram", "offload": {"method": "zero-inference", "tier": "x"}}
    )
    reasons = check_deployment(asked, cluster())
    assert any("did you mean 'speculation'" in reason for reason in reasons)
    assert any("known: host, nvme" in reason for reason in reasons)
