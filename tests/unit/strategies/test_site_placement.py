"""Every placement on sites and every keep-alive keeps its seam."""

from __future__ import annotations

import pytest

from simulator import registry
from simulator.strategies.keep_alive.basic import HistogramKeepAlive
from simulator.strategies.keep_alive_protocols import check_keep_alive
from simulator.strategies.site_protocols import check_site_placement

PLACEMENTS = [r.name for r in registry.strategies(family="site_placement")]
KEEPERS = [r.name for r in registry.strategies(family="keep_alive")]


@pytest.mark.parametrize("name", PLACEMENTS)
def test_placement_keeps_the_seam(name: str) -> None:
    check_site_placement(registry.lookup("site_placement", name)())


@pytest.mark.parametrize("name", KEEPERS)
def test_keep_alive_keeps_the_seam(name: str) -> None:
    check_keep_alive(registry.lookup("keep_alive", name)())


def test_a_histogram_keeps_as_long_as_all_but_a_hundredth_of_the_gaps() -> None:
    policy = HistogramKeepAlive(seconds=600.0)
    assert policy.window(0) == 600.0
    for _ in range(99):
        policy.arrived(0, 90.0)
    policy.arrived(0, 3000.0)
    assert policy.window(0) == 120.0, "99 of 100 gaps end in the second minute"
    policy.arrived(0, 3000.0)
    assert policy.window(0) == 51 * 60.0
