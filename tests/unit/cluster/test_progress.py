"""How far a run is, told while it runs."""

from __future__ import annotations

import simulator
from simulator.scenario.run import run_scenario


def test_requests_of_all_deployments_are_counted_together() -> None:
    scenario = simulator.load("llama3-70b-chat", ("workloads.chat.requests.count=9000", "record=summary"))
    told: list[tuple[int, int]] = []
    run_scenario(scenario, progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 9000), (8192, 9000), (9000, 9000)]
