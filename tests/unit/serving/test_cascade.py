"""Cascades: the closed form, its limits, and deployments composed on one time axis."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.errors import ConfigError
from simulator.serving.simulate import simulate_deployment
from simulator.strategies.cascade.models import EarlyExit, EdgeFM, LLMCad, Tabi
from simulator.strategies.protocols import BatchShape, Segment
from simulator.strategies.speculation.acceptance import chain_tokens
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable


class Constant:
    """Every iteration takes as long as its prompt tokens say."""

    def __init__(self, per_token: float) -> None:
        self.per_token = per_token

    def iteration(self, batch: BatchShape) -> float:
        return self.per_token * max(1, sum(chunk for chunk, _ in batch.prefill))

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(self.per_token, 0.0, 1 << 40)


def spaced(count: int = 400, inputs: int = 100) -> RequestTable:
    arrival = np.arange(count) * 1000.0
    ones = np.ones(count, dtype=np.int32)
    return RequestTable(arrival, inputs * ones, ones, "spaced", TraceProvenance("test", "generated", count, count))


def served(per_token: float):  # type: ignore[no-untyped-def]
    return lambda table: simulate_deployment(table, Constant(per_token), kv_blocks=1000).finish


@pytest.mark.parametrize(("reroute", "pruned"), [(0.0, 0.0), (0.3, 0.0), (0.3, 0.4), (1.0, 0.5)])
def test_the_mean_latency_is_the_closed_form(reroute: float, pruned: float) -> None:
    """T = t_small + P(reroute)·t_large·(1 − pruned) when nobody waits."""
    cascade = Tabi(reroute, pruned)
    outcome = cascade.serve(spaced(), served(0.01), served(0.2), seed=4)
    share = outcome.rerouted.mean()
    assert share == pytest.approx(reroute, abs=0.05)
    expected = Tabi(float(share), pruned).expected_latency(1.0, 20.0)
    assert outcome.latency.mean() == pytest.approx(expected, rel=1e-9)


def test_nobody_rerouted_is_the_small_model() -> None:
    outcome = Tabi(0.0).serve(spaced(), served(0.01), served(0.2))
    np.testing.assert_allclose(outcome.latency, 1.0)
    assert Tabi(0.0).expected_latency(1.0, 20.0) == 1.0
    assert Tabi(1.0).expected_latency(1.0, 20.0) == 21.0


def test_the_draw_is_seeded() -> None:
    runs = [Tabi(0.5).serve(spaced(), served(0.01), served(0.2), seed=s).rerouted for s in (1, 1, 2)]
    assert (runs[0] == runs[1]).all() and (runs[0] != runs[2]).any()


def test_an_upload_delays_the_large_model() -> None:
    edge = EdgeFM.over(0.25, upload=1e6, bandwidth=1e7, round_trip=0.05)
    assert edge.expected_latency(0.2, 0.4) == pytest.approx(0.2 + 0.25 * (0.1 + 0.05 + 0.4))
    outcome = edge.serve(spaced(), served(0.01), served(0.02))
    assert set(np.round(outcome.latency, 6)) == {1.0, 3.15}


@pytest.mark.parametrize(("reroute", "pruned"), [(1.2, 0.0), (-0.1, 0.0), (0.5, 1.0)])
def test_shares_that_are_none_are_refused(reroute: float, pruned: float) -> None:
    with pytest.raises(ConfigError, match="probability"):
        Tabi(reroute, pruned)


def test_a_streamed_verifier_is_loaded_once_per_round() -> None:
    """Without drafts every token loads the model; with certain ones a round yields depth + 1 tokens for one load."""
    assert LLMCad(0.8, ()).token_seconds(0.1, 5.0, 0.5) == 5.5
    assert LLMCad(1.0, (1, 1, 1)).token_seconds(0.1, 5.0, 0.5) == pytest.approx(5.5 / 4)
    never = LLMCad(0.0, (1, 1, 1)).token_seconds(0.1, 5.0, 0.5)
    assert never == pytest.approx(5.5 + 0.3)
    chain = LLMCad(0.7, (1, 1, 1)).token_seconds(0.0, 5.0, 0.5)
    assert chain == pytest.approx(5.5 / chain_tokens(0.7, 3))


def test_a_batch_runs_as_deep_as_its_deepest_token() -> None:
    exits = EarlyExit([0.25, 0.25, 0.25, 0.25])
    assert exits.depth() == pytest.approx(1 * 0.25 + 2 * 0.25 + 3 * 0.25 + 4 * 0.25)
    rng = np.random.Generator(np.random.PCG64(7))
    drawn = rng.integers(1, 5, (200_000, 8)).max(axis=1).mean()
    assert exits.depth(8) == pytest.approx(drawn, rel=0.01)
    assert EarlyExit([0.0] * 6).depth(3) == 6
    assert exits.depth(10_000) == pytest.approx(4)
    with pytest.raises(ConfigError, match="add up"):
        EarlyExit([0.7, 0.7])
