"""Federated averaging: a round is the slowest client's steps, an upload and a download."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simulator.strategies.communication.federated import slowest_of
from simulator.strategies.compile import check_plan, communication_traits
from simulator.workload.model_files import load_model
from simulator.workload.plan import Plan
from tests.unit.strategies.training_cases import RANKS, estimate, layers

CLIENTS = Plan(data_parallel=RANKS).with_(communication="fedavg")


def normal(x: float) -> float:
    return 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


@pytest.mark.parametrize("spread", [0.1, 0.7, 1.5])
def test_slowest_of_two(spread: float) -> None:
    """E[max] and E[min] of two log-normals are 2·exp(σ²/2)·Φ(±σ/√2); of one it is the mean."""
    mean = math.exp(spread**2 / 2)
    assert slowest_of(1, 1, spread) == pytest.approx(mean, rel=1e-9)
    assert slowest_of(2, 2, spread) == pytest.approx(2 * mean * normal(spread / math.sqrt(2)), rel=1e-9)
    assert slowest_of(1, 2, spread) == pytest.approx(2 * mean * normal(-spread / math.sqrt(2)), rel=1e-9)


def test_slowest_of_many_by_drawing() -> None:
    """80 of 100 clients, against 20,000 drawn rounds."""
    drawn = np.sort(np.random.default_rng(3).lognormal(0.0, 0.5, (20_000, 100)), axis=1)
    assert slowest_of(80, 100, 0.5) == pytest.approx(drawn[:, 79].mean(), rel=2e-3)
    assert slowest_of(100, 100, 0.5) == pytest.approx(drawn[:, 99].mean(), rel=1e-2)
    assert slowest_of(7, 9, 0.0) == 1.0


def test_a_round_pays_its_exchange_once() -> None:
    """Mean step = computing + exchange / H."""
    one, ten, never = (estimate(CLIENTS.with_(local_steps=h)).seconds for h in (1, 10, 10**9))
    assert 10 * (ten - never) == pytest.approx(one - never, rel=1e-6)
    assert one > ten > never


def test_what_is_trained_goes_up_and_comes_down() -> None:
    for more in ({}, {"peft": "lora"}):
        layer = layers(CLIENTS.with_(**more))[0]
        trained = sum(t.elements() for t in layer.parameters if t.trainable)
        sent = [sum(t.elements() for t in op.reads) for op in layer.reduce]
        assert sent == [trained, trained]
        assert [op.name.rpartition(".")[2] for op in layer.reduce] == ["upload", "download"]


def test_clients_share_the_link_of_the_server() -> None:
    wide, narrow = (estimate(CLIENTS.with_(server_links=k)) for k in (RANKS, RANKS / 4))
    out = [e.traffic.by_link["scale_out"] for e in (wide, narrow)]
    assert out[1] == pytest.approx(4 * out[0])
    assert narrow.seconds > wide.seconds


def test_the_round_waits_for_the_slowest() -> None:
    """(factor − 1) times the computing of a step is added; with a spread of zero nothing is."""
    never = CLIENTS.with_(local_steps=10**9)
    even, uneven = estimate(never), estimate(never.with_(client_spread=0.5))
    factor = slowest_of(RANKS, RANKS, 0.5)
    assert communication_traits(never.with_(client_spread=0.5)).straggling == factor
    computing = even.time.parts["forward"] + even.time.parts["backward"]
    assert uneven.seconds - even.seconds == pytest.approx((factor - 1) * computing, rel=1e-6)
    hurried = estimate(never.with_(client_spread=0.5, over_selection=1.5))
    assert even.seconds < hurried.seconds < uneven.seconds


def test_enough_of_the_invited_report() -> None:
    model = load_model("opt-1.3b")
    (reason,) = check_plan(model, CLIENTS.with_(dropout=0.1, over_selection=1.0))
    assert "over_selection" in reason
    assert not check_plan(model, CLIENTS.with_(dropout=0.1, over_selection=1.2))
    (reason,) = check_plan(model, CLIENTS.with_(zero_stage=1))
    assert "zero_stage 0" in reason
    warnings = estimate(CLIENTS.with_(clients=100 * RANKS)).warnings
    assert any("0.01 of all" in warning for warning in warnings)
