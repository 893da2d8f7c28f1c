"""Time to a goal: the laws of loss and of batch size at their limits, and what a job is told."""

from __future__ import annotations

import math

import pytest

from simulator.hardware import load_link, load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup
from simulator.training.step import estimate_step
from simulator.workload.framework import Framework
from simulator.workload.goal import Goal, batch_factor, least_loss, loss_after, tokens_for_loss
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model_files import load_model
from simulator.workload.plan import Plan

N = 70e9


def test_chinchilla_itself() -> None:
    # Hoffmann et al. 2022: 70 B parameters on 1.4 T tokens; ln 70e9 = 24.9717 and ln 1.4e12 = 27.9675 by hand:
    # 406.4/e^8.4904 = 0.08348, 410.7/e^7.8309 = 0.16317.
    assert loss_after(70e9, 1.4e12) == pytest.approx(1.69 + 0.08348 + 0.16317, abs=2e-5)
    # Their compute-optimal rule: twenty tokens per parameter.
    assert Goal(tokens=-20).tokens_needed(70e9, 1e6) == pytest.approx(1.4e12)


@pytest.mark.parametrize("loss", [1.9, 2.2, 3.0])
def test_tokens_and_loss_are_inverse(loss: float) -> None:
    assert loss_after(N, tokens_for_loss(N, loss)) == pytest.approx(loss)


def test_a_loss_below_endless_data_is_out_of_reach() -> None:
    assert tokens_for_loss(N, least_loss(N)) == math.inf
    assert "out of reach" in Goal(target_loss=1.7).reason(N)
    assert not Goal(target_loss=2.0).reason(N)


def test_batch_size_trades_steps_for_tokens() -> None:
    # McCandlish et al. 2018: (S/S_min − 1)(E/E_min − 1) = 1 for every batch size.
    critical, fewest = 4e6, 1e12
    for batch in (1e5, 4e6, 6.4e7):
        tokens = Goal(tokens=fewest, critical_batch_size=critical).tokens_needed(N, batch)
        steps, least_steps = tokens / batch, fewest / critical
        assert (steps / least_steps - 1) * (tokens / fewest - 1) == pytest.approx(1)
    assert batch_factor(critical, critical) == 2
    assert batch_factor(1e6, 0) == 1


def test_a_budget_found_at_a_batch_holds_at_that_batch() -> None:
    goal = Goal(tokens=1e12, critical_batch_size=4e6, reference_batch_size=2e6)
    assert goal.tokens_needed(N, 2e6) == pytest.approx(1e12)
    assert goal.tokens_needed(N, 8e6) == pytest.approx(1e12 * 3 / 1.5)
    assert Goal(tokens=1e12, extra_tokens=0.1, because="measured").tokens_needed(N, 2e6) == pytest.approx(1.1e12)


def test_larger_batches_stop_paying_above_the_critical_one() -> None:
    cluster = Cluster("c", (NodeGroup(load_node("dgx-h100"), 1),), Fabric("single-switch", load_link("ndr400")))
    times, goal = {}, Goal(tokens=1e11, critical_batch_size=32 * 1024)
    for batch in (8, 32, 128, 1024):
        job = TrainingJob(
            "j", load_model("gpt3-1.3b"), Framework("f", "training"), Batch(batch, 1, 1024), Plan(data_parallel=8),
            goal=goal,
        )  # fmt: skip
        answer = estimate_step(job, cluster, with_interval=False)
        assert answer.metrics["time_to_train"] == pytest.approx(answer.metrics["steps_needed"] * answer.seconds)
        times[batch] = answer.metrics["time_to_train"]
        assert answer.metrics["batch_efficiency"] == pytest.approx(1 / (1 + batch / 32))
    assert times[1024] > times[128] > times[32]  # time per token hardly falls any more, tokens grow
    alone = answer.metrics["tokens_needed"] / goal.tokens
    assert alone == pytest.approx(33)
