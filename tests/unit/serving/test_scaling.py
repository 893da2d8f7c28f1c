"""Replicas of a deployment that come and go: start-up, draining, machines taken away, nothing lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine.clock import Clock
from simulator.registry import lookup
from simulator.serving.deployment import DeploymentProcess
from simulator.serving.limits import EngineLimits
from simulator.serving.run import ServingRun
from simulator.serving.scaling import ReplicaFleet
from simulator.strategies.autoscaling.base import Autoscaler
from simulator.strategies.autoscaling.reactive import HorizontalPodAutoscaler, ScaleToZero
from simulator.strategies.protocols import BatchShape, Segment
from simulator.workload.fleets import SpotMarket
from simulator.workload.requests.provenance import TraceProvenance
from simulator.workload.requests.table import RequestTable

LEAD = 60.0


class Affine:
    """A prompt token takes a millisecond, a decode iteration ten, whatever else."""

    def iteration(self, batch: BatchShape) -> float:
        return sum(chunk for chunk, _ in batch.prefill) * 1e-3 + (0.01 if batch.decodes else 0.0)

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(0.01, 0.0, 1 << 40)


def table(arrival: Any, inputs: Any, outputs: Any) -> RequestTable:
    size = len(arrival)
    lengths = (np.broadcast_to(np.asarray(column), size) for column in (inputs, outputs))
    return RequestTable(np.asarray(arrival, float), *lengths, "fleet", TraceProvenance("test", "generated", size, size))


def serve(
    requests: RequestTable, policy: Autoscaler | None, maximum: int = 4, initial: int = 1, minimum: int = 0,
    spot: SpotMarket | None = None, interval: float = 10.0, revoke: list[tuple[float, int, float]] | None = None,
    limits: EngineLimits | None = None, stride: int | None = None, batching: str = "chunked-prefill", seed: int = 0,
) -> tuple[ServingRun, ReplicaFleet]:  # fmt: skip
    clock = Clock()
    process = DeploymentProcess(
        clock, requests, Affine(), limits or EngineLimits(10**5, 16, 10**5, 64), replicas=maximum, stride=stride,
        router="least-outstanding", batching=batching,
    )  # fmt: skip
    fleet = ReplicaFleet(
        clock, process, policy, minimum=minimum, maximum=maximum, initial=initial, interval=interval, startup=40.0,
        load=lambda replica, done: clock.after(20.0, done), lead=LEAD, service=1.0, spot=spot, seed=seed,
    )  # fmt: skip
    fleet.start()
    done = process.start()
    for time, replica, grace in revoke or []:
        clock.at(time, lambda replica=replica, grace=grace: fleet.revoke(replica, grace))  # type: ignore[misc]
    run = clock.run(done)
    return run, fleet


def test_a_cold_start_waits_for_the_machine_and_its_weights() -> None:
    """From zero: 40 s start-up, 20 s of weights, then 0.5 s of prompt and 4 tokens more. The second finds it warm."""
    run, fleet = serve(table([5.0, 100.0], 500, 5), ScaleToZero(target=8), initial=0)
    np.testing.assert_allclose(run.ttft, [LEAD + 0.5, 0.5])
    np.testing.assert_allclose(run.finish, [5 + LEAD + 0.54, 100.54])
    assert fleet.process.held_time == pytest.approx(LEAD)


def test_a_replica_is_paid_from_its_order_to_its_release() -> None:
    """Served by 0.54 s; at the first decision after 60 s of patience, at 70 s, the replica is let go. The request at
    500 s orders another at once and waits for it."""
    run, fleet = serve(table([0.0, 500.0], 500, 5), ScaleToZero(target=8, patience=60.0))
    assert fleet.lives[0].stopped == pytest.approx(70.0)
    assert run.finish[1] == pytest.approx(500 + LEAD + 0.54)
    assert fleet.provisioned(run.finish.max()) == pytest.approx(70.0 + LEAD + 0.54)


def test_the_fleet_follows_a_step_after_its_lead_time() -> None:
    """Requests that hold a replica's only seat for 1 s: one per second at first, then four per second from 100 s on.
    The Kubernetes rule with one request per replica brings as many as they need, none before an order and 60 s."""
    arrival = np.r_[np.arange(0.0, 100.0, 1.0), np.arange(100.0, 600.0, 0.25)]
    limits = EngineLimits(10**4, 16, 10**5, 1)
    run, fleet = serve(table(arrival, 900, 11), HorizontalPodAutoscaler(), maximum=16, minimum=1, limits=limits)
    ready = [life.ready for life in fleet.lives if life.ordered > 0.0]
    assert min(ready) >= 100.0 + LEAD
    late = run.arrival > 450
    assert np.median(run.e2e[late]) == pytest.approx(1.0, rel=0.05)
    assert np.median(run.e2e[(run.arrival > 100) & (run.arrival < 160)]) > 10.0


def test_draining_ends_what_was_begun_and_frees_the_machine_at_that_moment() -> None:
    """Two replicas with a request each, of 30 s and of 20 s; from the first decision on one replica is enough."""

    class One:
        name = "one"

        def desired(self, view: Any, now: float) -> int:
            return 1

        def bursts(self, view: Any, now: float) -> bool:
            return False

    run, fleet = serve(table([0.0, 0.0, 60.0], [100, 100, 100], [2991, 1991, 5]), One(), initial=2, minimum=1)
    np.testing.assert_allclose(run.finish[:2], [30.0, 20.0])
    closed = [life for life in fleet.lives if life.draining]
    assert [life.closed for life in closed] == [pytest.approx(10.0)]
    assert closed[0].stopped == pytest.approx(float(run.finish[int(run.replica[1] == closed[0].replica)]))
    assert fleet.restarts == 0


@pytest.mark.parametrize(("grace", "restarts"), [(60.0, 0), (2.0, 1)])
def test_what_a_taken_machine_had_not_ended_begins_again_with_its_output_as_prompt(grace: float, restarts: int) -> None:
    """100 prompt and 1001 output tokens: first token at 0.1 s, the others 10 ms each. Notice at 1.1 s; gone at 3.1 s,
    when 301 tokens are there. On the other replica 401 tokens are prefilled for the 302nd, and 699 follow."""
    run, fleet = serve(table([0.0, 0.0], 100, 1001), None, initial=2, revoke=[(1.1, 0, grace)], maximum=2)
    whole = 0.1 + 1000 * 0.01
    assert fleet.restarts == restarts
    if not restarts:
        np.testing.assert_allclose(run.finish, [whole, whole])
        return
    moved = int(np.argmax(run.preemptions))
    assert run.replica[moved] == 1 and run.preemptions.tolist().count(1) == 1
    # The other one's tokens run beside: one iteration takes both, 0.401 s and its own 0.01 s.
    assert run.finish[moved] == pytest.approx(3.1 + 0.401 + 0.01 + 699 * 0.01, abs=0.011)
    assert run.gaps[:, 2] @ run.gaps[:, 3] == 2 * 1000
    assert run.ttft.tolist() == pytest.approx([0.1, 0.1])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_nothing_is_lost_when_replicas_come_and_go(data: st.DataObject) -> None:
    """Tokens, gaps and blocks add up under every policy, batching, revocation and pause; jumps and steps agree."""
    size = data.draw(st.integers(1, 25))
    draw = lambda low, high: data.draw(st.lists(st.integers(low, high), min_size=size, max_size=size))  # noqa: E731
    # No arrival falls on the end of an iteration: sums and closed forms may then differ by a rounding, and take sides.
    requests = table(
        np.cumsum(np.array(draw(0, 4000)) / 1000.0 * np.pi), np.array(draw(1, 300)), np.array(draw(1, 400))
    )
    name = data.draw(st.sampled_from(["hpa", "scale-to-zero", "mark", None]))
    spot = data.draw(st.sampled_from([None, SpotMarket(15.0, 2.0), SpotMarket(5.0, 0.0)]))
    batching = data.draw(st.sampled_from(["chunked-prefill", "prefill-first", "orca"]))
    limits = EngineLimits(data.draw(st.integers(60, 200)), 16, 1024, data.draw(st.integers(1, 8)))
    revoke = data.draw(st.lists(st.tuples(st.floats(0, 50), st.integers(0, 2), st.floats(0, 5)), max_size=3))
    seed = data.draw(st.integers(0, 9))
    results = []
    for stride in (None, 1):
        policy = None if name is None else lookup("autoscaling", name)()
        run, fleet = serve(
            requests, policy, maximum=3, initial=1 if name != "scale-to-zero" else 0, spot=spot, revoke=revoke,
            limits=limits, stride=stride, batching=batching, seed=seed, minimum=0 if name else 1,
        )  # fmt: skip
        results.append(run)
        assert run.completed.all()
        assert run.gaps[:, 2] @ run.gaps[:, 3] == run.output_tokens.sum() - size
        spans = run.gaps[:, 0] * run.gaps[:, 2] + run.gaps[:, 1] * run.gaps[:, 2] * (run.gaps[:, 2] - 1) / 2
        assert spans @ run.gaps[:, 3] == pytest.approx((run.finish - run.first_token).sum(), abs=1e-6)
        for replica in fleet.process.replicas:
            assert (replica.free_blocks, replica.outstanding) == (replica.kv_blocks, 0)
        end = float(run.finish.max())
        assert sum(r.busy_time for r in run.replicas) <= fleet.provisioned(end) + 1e-6
        assert not fleet.process.held
    np.testing.assert_allclose(results[0].finish, results[1].finish, rtol=1e-9)
