"""Running requests that move: times in closed form, and nothing is lost whatever happens meanwhile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine.clock import Clock
from simulator.serving.deployment import DeploymentProcess
from simulator.serving.limits import EngineLimits
from simulator.serving.migration import Migrations, Rebalancing
from simulator.serving.notice import MoveAtNotice
from simulator.serving.pools_transfer import PointToPoint
from simulator.serving.run import ServingRun
from simulator.serving.scaling import ReplicaFleet
from simulator.strategies.autoscaling.spotserve import SpotServe
from simulator.strategies.migration.llumnix import Llumnix
from simulator.strategies.serving_protocols import BatchShape, Segment
from simulator.workload.fleets import SpotMarket
from simulator.workload.requests.table import RequestTable, TraceProvenance

TOKEN = 1000.0
"""Keys and values of a token [B]."""


class Affine:
    """1 ms per prompt token, 10 ms per decode iteration, or so many times as much."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def iteration(self, batch: BatchShape) -> float:
        return self.scale * (sum(chunk for chunk, _ in batch.prefill) * 1e-3 + (0.01 if batch.decodes else 0.0))

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(0.01 * self.scale, 0.0, 1 << 40)


def table(arrival: Any, inputs: Any, outputs: Any) -> RequestTable:
    size = len(arrival)
    lengths = (np.broadcast_to(np.asarray(column), size) for column in (inputs, outputs))
    return RequestTable(np.asarray(arrival, float), *lengths, "moves", TraceProvenance("test", "generated", size, size))


class Served:
    """Two replicas or more on a clock, and who moves their requests."""

    def __init__(
        self, requests: RequestTable, bandwidth: float = 1e6, limits: EngineLimits | None = None,
        scales: tuple[float, ...] = (1.0, 1.0), **options: Any,
    ) -> None:  # fmt: skip
        self.clock = Clock()
        self.process = DeploymentProcess(
            self.clock, requests, [Affine(x) for x in scales], limits or EngineLimits(10**4, 16, 10**5, 64),
            replicas=len(scales), movable=True, **options,
        )  # fmt: skip
        link = PointToPoint(self.clock, bandwidth)
        self.moves = Migrations(self.clock, self.process, link, lambda tokens: TOKEN * tokens)

    def at(self, time: float, do: Any) -> None:
        self.clock.at(time, do)

    def run(self) -> ServingRun:
        done = self.process.start()
        run = self.clock.run(done)
        assert isinstance(run, ServingRun)
        return run

    def request(self, replica: int) -> Any:
        return self.process.replicas[replica].decoding[0]


def test_a_request_stops_for_its_last_copy_only() -> None:
    """100 prompt tokens by 0.1 s, then 10 ms each. At 1.005 s there are 90 tokens more: 190 in the cache, sent by
    1.195 s at 1 MB/s. Then 19 more have come, 109 iterations: 209 less 190 make two blocks, fewer than 3: it stops at
    the end of the iteration that runs, at 1.2 s with 210 tokens, sends 20 of them in 20 ms and goes on at 1.22 s."""
    served = Served(table([0.0], 100, 501))
    served.at(1.005, lambda: served.moves.start(served.request(0), 0, 1, last_blocks=3, max_stages=3))
    run = served.run()
    assert served.moves.pauses == [pytest.approx(0.02)]
    assert served.moves.bytes == pytest.approx(210 * TOKEN)
    assert run.finish[0] == pytest.approx(0.1 + 500 * 0.01 + 0.02)
    assert run.replica.tolist() == [1] and run.preemptions.tolist() == [0]
    assert [r.decode_tokens for r in run.replicas] == [110, 390]
    assert run.gaps[:, 2] @ run.gaps[:, 3] == 500


def test_in_one_piece_it_waits_for_all_of_it() -> None:
    """Stopped at 1.01 s with 191 tokens, which take 191 ms."""
    served = Served(table([0.0], 100, 501))
    served.at(1.005, lambda: served.moves.start(served.request(0), 0, 1))
    run = served.run()
    assert served.moves.pauses == [pytest.approx(0.191)]
    assert run.finish[0] == pytest.approx(0.1 + 500 * 0.01 + 0.191)


def test_an_instant_link_changes_no_time() -> None:
    served = Served(table([0.0], 100, 301), bandwidth=np.inf)
    for time in np.arange(0.4, 2.5, 0.1):
        served.at(float(time), lambda: [served.moves.start(q, r.index, 1 - r.index)
                                        for r in served.process.replicas for q in list(r.decoding)[:1]])  # fmt: skip
    run = served.run()
    assert run.e2e[0] == pytest.approx(0.1 + 3.0)
    assert len(served.moves.pauses) > 10 and max(served.moves.pauses) == 0.0


@pytest.mark.parametrize(
    ("reason", "output", "blocks", "bandwidth"),
    [("it ends first", 30, 10**4, 1e5), ("no room", 300, 30, 1e6), ("it outruns the copies", 1001, 10**4, 1e5)],
)
def test_what_cannot_move_stays(reason: str, output: int, blocks: int, bandwidth: float) -> None:
    """It ends in time where it is; the room on the other side is free again. 120 tokens take 1.2 s at 100 kB/s, in
    which as many are added: three copies are not enough."""
    # On 30 blocks of 16 tokens, somebody else has the second replica.
    others = 1 if reason == "no room" else 0
    requests = table([0.0] * (1 + others), [100, 400][: 1 + others], [output, 60][: 1 + others])
    served = Served(requests, bandwidth, EngineLimits(blocks, 16, 10**5, 64))
    started = []
    served.at(0.305, lambda: started.append(served.moves.start(served.request(0), 0, 1, 1, 3)))
    run = served.run()
    assert not served.moves.pauses and started == [reason != "no room"]
    assert run.finish[0] == pytest.approx(0.1 + (output - 1) * 0.01)
    if reason == "it outruns the copies":
        assert served.moves.bytes == pytest.approx(360 * TOKEN, rel=0.05)
    served.clock.run(served.clock.now + 100.0)
    assert [r.free_blocks for r in served.process.replicas] == [blocks] * 2


def test_llumnix_makes_room_for_the_first_in_the_queue() -> None:
    """40 blocks a replica. The first holds three requests of 8 blocks and more each, and a fourth of 20 blocks waits
    behind them; the second is empty. One that runs moves over and the fourth starts long before any has ended."""
    arrival, inputs, outputs = [0.0, 0.0, 0.0, 0.5], [128, 128, 128, 320], [151, 151, 151, 51]

    class First:
        name = "first"

        def route(self, request: Any, replicas: Any, now: float) -> int:
            return 0

    waits = []
    for moved in (False, True):
        served = Served(table(arrival, inputs, outputs), 1e7, EngineLimits(40, 16, 10**5, 64, watermark=0.0),
                        router=First())  # fmt: skip
        if moved:
            Rebalancing(served.clock, served.moves, Llumnix(), 0.05).start()
        run = served.run()
        waits.append(float(run.scheduled[3] - run.arrival[3]))
    assert waits[0] > 1.0 and waits[1] < 0.3
    assert len(served.moves.pauses) >= 1


def test_requests_of_a_machine_that_goes_are_saved_within_its_grace() -> None:
    """Notice at 1 s with 2 s of grace, 190 tokens in the cache. t seconds later there are 100 t more, which take as
    many milliseconds: t + 0.19 + 0.1 t < 2 leaves 1.6 s to decode on, and a move of 0.35 s. Nothing is computed again.
    """
    finishes = []
    for saved in (True, False):
        served = Served(table([0.0], 100, 1001), router="round-robin")
        fleet = ReplicaFleet(
            served.clock, served.process, None, minimum=0, maximum=2, initial=2, load=lambda replica, done: done(),
            interval=1000.0, spot=SpotMarket(1e9, 2.0),
        )  # fmt: skip
        if saved:
            fleet.on_notice = MoveAtNotice(served.clock, fleet, served.moves, SpotServe, 1e6)
        fleet.start()
        served.at(1.0, lambda fleet=fleet: fleet.revoke(0, 2.0))
        run = served.run()
        finishes.append(float(run.finish[0]))
        assert fleet.restarts + served.moves.lost == (0 if saved else 1)
        assert run.replicas[0].recomputed_tokens == pytest.approx(0 if saved else 389, abs=1)
        if saved:
            assert served.moves.pauses[0] == pytest.approx(0.35, abs=0.02)
            assert run.replicas[0].decode_tokens == pytest.approx(250, abs=5)
    assert finishes == [pytest.approx(0.1 + 10.0 + 0.35, abs=0.02), pytest.approx(0.1 + 10.0 + 0.39, abs=0.02)]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_nothing_is_lost_when_requests_move(data: st.DataObject) -> None:
    """Tokens, gaps and blocks add up under moves, revocations, preemptions and full caches; jumps and steps agree."""
    size = data.draw(st.integers(1, 20))
    draw = lambda low, high: data.draw(st.lists(st.integers(low, high), min_size=size, max_size=size))  # noqa: E731
    requests = table(
        np.cumsum(np.array(draw(0, 1000)) / 1000.0 * np.pi), np.array(draw(1, 300)), np.array(draw(1, 400))
    )
    limits = EngineLimits(data.draw(st.integers(60, 150)), 16, 1024, data.draw(st.integers(1, 8)))
    batching = data.draw(st.sampled_from(["chunked-prefill", "prefill-first", "orca"]))
    cache = data.draw(st.sampled_from(["paged", "prefix-lru"])) if batching != "orca" else "paged"
    bandwidth = data.draw(st.sampled_from([np.pi * 1e4, np.pi * 1e6, np.pi * 1e8]))
    policy = Llumnix(data.draw(st.floats(0.5, 30.0)), data.draw(st.integers(1, 16)), data.draw(st.integers(1, 3)))
    # Nothing falls on the end of an iteration: sums and closed forms may then differ by a rounding, and take sides.
    times = st.integers(0, 2000).map(lambda n: n * np.pi / 317)
    taken = data.draw(st.lists(st.tuples(times, st.integers(0, 2), times.map(lambda t: t / 7)), max_size=3))
    interval = data.draw(st.integers(1, 20)) * np.pi / 61
    results = []
    for stride in (None, 1):
        served = Served(
            requests,
            bandwidth,
            limits,
            (1.0, np.e / 3, np.sqrt(1.2)),
            batching=batching,
            kv_cache=cache,
            stride=stride,
            router="power-of-two",
        )
        fleet = ReplicaFleet(
            served.clock, served.process, None, minimum=1, maximum=3, initial=2, interval=5.0, startup=1.0,
            load=lambda replica, done, clock=served.clock: clock.after(1.0, done),
        )  # fmt: skip
        fleet.on_notice = MoveAtNotice(served.clock, fleet, served.moves, SpotServe, 1e6)
        fleet.start()
        Rebalancing(served.clock, served.moves, policy, interval).start()
        for time, replica, grace in taken:
            served.at(time, lambda fleet=fleet, replica=replica, grace=grace: fleet.revoke(replica, grace))
        run = served.run()
        results.append(run)
        assert run.completed.all() and not served.process.held and not served.process.away
        assert run.gaps[:, 2] @ run.gaps[:, 3] == run.output_tokens.sum() - size
        spans = run.gaps[:, 0] * run.gaps[:, 2] + run.gaps[:, 1] * run.gaps[:, 2] * (run.gaps[:, 2] - 1) / 2
        assert spans @ run.gaps[:, 3] == pytest.approx((run.finish - run.first_token).sum(), abs=1e-6)
        served.clock.run(served.clock.now + 1e4)
        for one in served.process.replicas:
            assert (one.free_blocks, one.outstanding) == (one.kv_blocks, 0)
    np.testing.assert_allclose(results[0].finish, results[1].finish, rtol=1e-9)
