"""Deployments whose iteration times change: calls come at times of the deployment, whenever it begins."""

from __future__ import annotations

import pytest

from simulator.engine.clock import Clock
from simulator.serving.limits import EngineLimits
from simulator.serving.linked_deployment import LinkedDeployment
from simulator.strategies.protocols import BatchShape, Segment
from tests.serving_deployments import requests


class Constant:
    """Every iteration takes a second."""

    def iteration(self, batch: BatchShape) -> float:
        return 1.0

    def decode_segment(self, batch: BatchShape) -> Segment:
        return Segment(1.0, 0.0, 1 << 40)


@pytest.mark.parametrize("begin", [0.0, 40.0])
def test_a_call_comes_at_its_time_and_what_has_passed_stays(begin: float) -> None:
    """One prefill and nine decodes of a second each; at 3.5 s of its own time the deployment is looked at."""
    clock = Clock()
    clock.run(clock.timeout(begin))
    table = requests(count=1, inputs=10, outputs=10)
    process = LinkedDeployment(clock, table, [Constant()], [EngineLimits(100)], replicas=1, watchers={})
    done = process.start()
    seen: list[tuple[float, float]] = []

    def look() -> None:
        process.repriced(0)
        seen.append((clock.now, process.now))

    process.call_at(3.5, look)
    clock.run(done)
    assert seen == [(begin + 3.5, 3.5)]
    assert done.value.finish.tolist() == [10.0]
