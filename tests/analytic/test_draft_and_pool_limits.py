"""Drafting heads, pruned caches and pools that help each other: closed forms, and what they become at their ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator.registry import lookup
from simulator.serving.limits import EngineLimits
from simulator.serving.options import ServedModel
from simulator.serving.pools import Pool, simulate_pools
from simulator.serving.pools_transfer import PointToPoint
from simulator.strategies.protocols import BatchShape, Segment
from simulator.strategies.settings import settings_of
from simulator.strategies.sparsity.kept_context import ALL
from simulator.workload.model_files import load_model
from simulator.workload.requests.table import RequestTable
from tests.serving_deployments import cluster, deployment, random_requests, replica

HEADS: dict[str, dict[str, Any]] = {
    "medusa": {"widths": [3, 2, 2]}, "eagle": {"widths": [3, 2, 2]}, "mtp": {"draft_tokens": 3},
    "specinfer": {"draft_model": "llama-3.2-1b", "widths": [3, 2, 2]},
}  # fmt: skip


def drafts(method: str, **options: Any) -> Any:
    return lookup("speculation", method)(settings_of("deployment.speculation", {"method": method, **options}))


@pytest.mark.parametrize("method", HEADS)
def test_nothing_or_everything_is_accepted(method: str) -> None:
    """One token per pass, or one for every depth and one more."""
    assert drafts(method, acceptance=0.0, **HEADS[method]).expected_tokens == 1.0
    assert drafts(method, acceptance=1.0, **HEADS[method]).expected_tokens == 4.0


@pytest.mark.parametrize("method", ["medusa", "eagle", "mtp"])
@pytest.mark.parametrize("acceptance", [0.3, 0.8])
def test_accepted_tokens_by_drawing(method: str, acceptance: float) -> None:
    """50,000 drawn verifications: the path goes down as long as one of the candidates of a depth is accepted."""
    made = drafts(method, acceptance=acceptance, **HEADS[method])
    widths = HEADS[method].get("widths", [1] * HEADS[method].get("draft_tokens", 0))
    hit = np.random.default_rng(1).random((50_000, len(widths), max(widths))) < acceptance
    alive = np.ones(50_000, dtype=bool)
    tokens = np.ones(50_000)
    for depth, width in enumerate(widths):
        alive &= hit[:, depth, :width].any(axis=1)
        tokens += alive
    assert made.expected_tokens == pytest.approx(tokens.mean(), rel=0.01)


def test_one_module_of_multi_token_prediction_adds_its_acceptance() -> None:
    """1 + α: a chain of one draft."""
    assert drafts("mtp", draft_tokens=1, acceptance=0.85).expected_tokens == pytest.approx(1.85)
    assert drafts("mtp", draft_tokens=1, acceptance=0.85).verify_tokens == 2


@pytest.mark.parametrize(("window", "ngram", "guesses"), [(1, 2, 1), (5, 3, 5), (15, 5, 15), (7, 4, 2)])
def test_lookahead_computes_window_and_guesses(window: int, ngram: int, guesses: int) -> None:
    """(W + G)·(N − 1) tokens per pass; without a match a pass gives one token, with a whole one N − 1 more."""
    made = drafts("lookahead", window=window, ngram=ngram, guesses=guesses, accepted_length=1.0)
    assert made.verify_tokens == (window + guesses) * (ngram - 1)
    assert made.expected_tokens == 1.0
    assert drafts("lookahead", window=window, ngram=ngram, accepted_length=float(ngram)).expected_tokens == ngram


def test_medusa_heads_hold_a_square_and_a_projection_each() -> None:
    """hidden² + hidden · vocabulary per head, in 16 bit."""
    target = load_model("llama-3.1-8b")
    options = (("speculation", (("acceptance", 0.5), ("method", "medusa"), ("widths", (2, 2, 2)))),)
    made = ServedModel.of(deployment("llama-3.1-8b", options=dict(options)), cluster().groups[0].node)
    expected = 3 * 2 * (target.hidden_size**2 + target.hidden_size * target.vocab_size)
    assert made.draft_weights == pytest.approx(expected, rel=0.01)


def test_spatten_divides_what_is_read_and_nothing_else() -> None:
    def pruned(**options: Any) -> Any:
        return lookup("sparse_attention", "spatten")(
            settings_of("deployment.sparse_attention", {"method": "spatten", **options})
        ).kept

    assert pruned(dram_reduction=1.0, density=1.0) == ALL
    batch = BatchShape((), 8, 80_000, 10_000)
    dense, tenth = replica(), replica(kept=pruned(dram_reduction=10.0))
    assert dense.decode_segment(batch).slope == pytest.approx(10 * tenth.decode_segment(batch).slope, rel=0.02)
    prompt = BatchShape(((2000, 0),), 0, 0)
    assert dense.iteration(prompt) == tenth.iteration(prompt)


class Affine:
    """A prompt token takes a millisecond, a decode iteration ten."""

    def iteration(self, batch: BatchShape) -> float:
        return sum(chunk for chunk, _ in batch.prefill) * 1e-3 + (0.01 if batch.decodes else 0.0)

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(0.01, 0.0, 1 << 40)


def pooled(policy: Any, requests: RequestTable) -> Any:
    limits = EngineLimits(10**5, 16, 10**6, 256)
    return simulate_pools(
        requests, Pool(Affine(), limits, 2), Pool(Affine(), limits, 2, "chunked-prefill"),
        lambda clock: PointToPoint(clock, 1e9, 0.0), wire_bytes=lambda tokens: tokens * 1000.0, layers=10,
        policy=policy,
    )  # fmt: skip


def test_pools_that_never_help_are_splitwise() -> None:
    requests = random_requests(2, 300, 0.3, (50, 900), (2, 80))
    apart = pooled("splitwise", requests)
    never = pooled(lookup("disaggregation", "mixed-pool")(queue_limit=1 << 40), requests)
    np.testing.assert_allclose(never.run.finish, apart.run.finish, rtol=1e-12)
    # A limit of no tokens lends token machines as soon as a prompt waits: nobody's first token comes later on average.
    always = pooled(lookup("disaggregation", "mixed-pool")(queue_limit=0), requests)
    assert np.mean(always.run.ttft) < np.mean(apart.run.ttft)
