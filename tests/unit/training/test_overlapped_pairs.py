"""What a mutually overlapped forward and backward hide, at the limits where the answer is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from simulator.cost.device import DeviceCost
from simulator.cost.network import NetworkCost
from simulator.training import overlapped_pairs
from simulator.training.overlapped_pairs import overlapped_pair, tasks_of_rank
from simulator.training.pipelined import PipelinedJob
from simulator.workload.plan import Plan
from tests.unit.strategies.training_cases import FRAMEWORK, cluster, job

DENSE = Plan(pipeline_parallel=4, data_parallel=4, schedule="dualpipe")
EXPERTS = Plan(pipeline_parallel=2, data_parallel=8, expert_parallel=8, schedule="dualpipe")


def experts(**options: object) -> PipelinedJob:
    return PipelinedJob(job(EXPERTS.with_(**options), FRAMEWORK, "deepseek-v2-lite", 64), cluster())


def apart(view: PipelinedJob, forward: int, backward: int) -> float:
    return view.forward_times[forward].seconds + view.backward_times[backward].seconds


def test_without_all_to_all_a_pair_is_its_two_halves() -> None:
    view = PipelinedJob(job(DENSE), cluster())
    assert view.pair_time(1, 2).seconds == apart(view, 1, 2)
    plain = {p: view.timeline.busy[p] for p in range(4)}
    whole = [view.microbatches * apart(view, p, p) for p in range(4)]
    # Ranks p and 3 − p share two stages; each runs half of the micro-batches of both.
    assert [plain[p] for p in range(4)] == pytest.approx([(whole[p] + whole[3 - p]) / 2 for p in range(4)])


def scaled(monkeypatch: pytest.MonkeyPatch, where: type, factor: float) -> None:
    price: Callable[..., object] = where.price  # type: ignore[attr-defined]

    def faster(self: object, *args: object, **more: object) -> object:
        found = price(self, *args, **more)
        return replace(found, seconds=found.seconds * factor)  # type: ignore[type-var, attr-defined]

    monkeypatch.setattr(where, "price", faster)


def test_with_infinite_compute_every_message_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    scaled(monkeypatch, DeviceCost, 1e-9)
    view = experts()
    pair = view.pair_time(0, 0)
    assert pair.seconds == pytest.approx(apart(view, 0, 0), rel=1e-4)
    assert pair.parts["expert_parallel"] == pytest.approx(pair.seconds, rel=1e-4)


def test_with_an_infinite_network_nothing_is_left_to_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    scaled(monkeypatch, NetworkCost, 1e-9)
    view = experts()
    assert view.pair_time(0, 0).seconds == pytest.approx(apart(view, 0, 0), rel=1e-6)


@pytest.mark.parametrize(("forward", "backward"), [(0, 1), (1, 0)])
def test_a_pair_lies_between_its_busiest_stream_and_its_two_halves(forward: int, backward: int) -> None:
    view = experts()
    pair, pricer = view.pair_time(forward, backward), view.pricer(0)
    busy: dict[str, float] = {}
    for chunk, phase in ((view.chunks[forward], "forward"), (view.chunks[backward], "backward")):
        for block, count in chunk.blocks:
            for op in getattr(block, phase):
                name = pricer.stream(op).value
                busy[name] = busy.get(name, 0.0) + count * pricer.price(op).priced.seconds
    assert max(busy.values()) <= pair.seconds * (1 + 1e-9)
    assert pair.seconds < 0.95 * apart(view, forward, backward)
    assert sum(pair.parts.values()) == pytest.approx(pair.seconds)
    assert pair.flops == pytest.approx(view.forward_times[forward].flops + view.backward_times[backward].flops)
    assert pair.traffic == pytest.approx((view.forward_times[forward] + view.backward_times[backward]).traffic)


def test_further_layers_add_the_time_of_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # 27 layers on 2 stages; the shortened run must agree with one of all layers on the streams.
    view = experts()
    first, last = view.chunks[0].blocks, view.chunks[1].blocks
    short = overlapped_pair(view.pricer(0), first, last)
    monkeypatch.setattr(overlapped_pairs, "LONGEST", 99)
    assert short.seconds == pytest.approx(overlapped_pair(view.pricer(0), first, last).seconds, rel=2e-3)


def test_only_schedules_that_say_so_overlap_and_the_step_gets_shorter() -> None:
    dual, plain = experts(), experts(schedule="1f1b")
    assert all(task.forward is None or task.backward is None for task in tasks_of_rank(plain.timeline.program, 0))
    tasks = tasks_of_rank(dual.timeline.program, 0)
    assert sum(t.times for t in tasks if t.forward is not None) == dual.microbatches
    assert sum(t.times for t in tasks if t.backward is not None) == dual.microbatches
    run = dual.run()
    assert sum(run.parts.values()) == pytest.approx(run.seconds)
    assert run.parts["expert_parallel"] < 0.6 * plain.run().parts["expert_parallel"]


def test_gathered_parameters_keep_a_pair_apart() -> None:
    view = experts(zero_stage=3)
    assert view.pair_time(0, 0).seconds == pytest.approx(apart(view, 0, 0), rel=1e-12)
