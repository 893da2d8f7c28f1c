"""Power limits, the clocks they leave, and electricity by the hour."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.hardware.limits import PowerLimits, device_limit, limited, overload_probability
from simulator.hardware.power import DEEPEST_MEASURED, VOLTAGE_FLOOR, accelerator_power, clock_under, dynamic_share
from simulator.hardware.profiles import load_link, load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup, PowerProfile, Rack, Site, mean_of_hours

PREFILL = {350: 9893, 300: 9326, 250: 8436, 200: 5941}
"""Prompt tokens per second of RTX 3090 under power limits [W]: https://llmgarage.ai/power-limit-tokens-per-second-benchmark."""


def cluster(count: int = 4, rack: int = 0) -> Cluster:
    return Cluster(
        "c", (NodeGroup(load_node("dgx-h100"), count),), Fabric("fat-tree", load_link("ndr400")), rack=Rack(rack)
    )


@given(st.floats(60, 2000), st.floats(0.02, 0.5), st.floats(0.0, 1.2))
def test_a_device_at_its_clock_draws_what_the_limit_says(peak: float, idle: float, share: float) -> None:
    profile = PowerProfile(idle * peak, peak)
    limit = share * peak
    clock = clock_under(profile, limit)
    drawn = accelerator_power(profile, 1.0, clock)
    assert 0 <= clock <= 1
    assert drawn == pytest.approx(min(max(limit, profile.idle), peak), rel=1e-9)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_more_power_never_means_less_clock(a: float, b: float) -> None:
    profile = PowerProfile(70, 700)
    low, high = (clock_under(profile, 700 * share) for share in sorted((a, b)))
    assert low <= high


def test_power_falls_with_the_cube_of_the_clock_and_in_proportion_below_the_voltage_floor() -> None:
    assert dynamic_share(0.95) == pytest.approx(0.95**3)
    below = VOLTAGE_FLOOR / 2
    assert dynamic_share(below) == pytest.approx(dynamic_share(VOLTAGE_FLOOR) / 2)


def test_the_clock_follows_measured_prefill_rates_as_deep_as_is_claimed() -> None:
    profile = PowerProfile(35, 350)
    for watts, rate in PREFILL.items():
        assert clock_under(profile, watts) == pytest.approx(rate / PREFILL[350], rel=0.05)
    assert min(PREFILL) / max(PREFILL) == pytest.approx(DEEPEST_MEASURED, abs=0.005)


def test_every_limit_is_shared_as_it_says() -> None:
    node, whole = load_node("dgx-h100"), cluster(4, rack=2)
    per_device = (8000 - node.power_overhead) / 8
    assert device_limit(whole, node, PowerLimits(device_cap=500), 4) == (500, "device_cap")
    assert device_limit(whole, node, PowerLimits(node_cap=8000), 4)[0] == pytest.approx(per_device)
    assert device_limit(whole, node, PowerLimits(rack_cap=16000), 4)[0] == pytest.approx(per_device)
    assert device_limit(whole, node, PowerLimits(cap=32000), 4)[0] == pytest.approx(per_device)
    tight = device_limit(whole, node, PowerLimits(oversubscription=4 * node.power_peak / 32000), 4)
    assert tight == (pytest.approx(per_device), "oversubscription")


def test_idle_nodes_leave_their_power_to_those_that_work() -> None:
    node, whole = load_node("dgx-h100"), cluster(4)
    idle = node.power_overhead + 8 * node.accelerator.power.idle
    alone = device_limit(whole, node, PowerLimits(cap=32000), 2)[0]
    assert 8 * alone + node.power_overhead == pytest.approx((32000 - 2 * idle) / 2)


def test_a_limit_below_idle_is_refused_and_a_deep_one_is_called_unproven() -> None:
    _, _, problems = limited(cluster(), PowerLimits(device_cap=60), 4)
    assert problems
    assert "when idle" in problems[0][1]
    changed, notes, problems = limited(cluster(), PowerLimits(device_cap=300), 4)
    assert not problems
    assert "deeper than the readings" in notes[1]
    assert changed.groups[0].node.accelerator.clock < 0.5


def test_a_limit_above_the_peak_changes_nothing() -> None:
    whole = cluster()
    assert limited(whole, PowerLimits(device_cap=700, node_cap=1e5), 4) == (whole, [], [])


@given(st.integers(1, 40), st.floats(0, 1))
def test_overload_is_the_tail_of_a_binomial(nodes: int, share: float) -> None:
    cap = 1000.0 * nodes * 0.6 + 400.0 * nodes * 0.4  # 60 % of the nodes may work
    most = math.floor(0.6 * nodes + 1e-9)
    tail = sum(math.comb(nodes, k) * share**k * (1 - share) ** (nodes - k) for k in range(most + 1, nodes + 1))
    assert overload_probability(nodes, share, 1000.0, 400.0, cap) == pytest.approx(tail, abs=1e-9)


def test_no_limit_no_overload() -> None:
    assert overload_probability(10, 0.9, 1000, 400, 1e5) == 0.0
    assert overload_probability(10, 0.9, 1000, 400, 3999) == 1.0


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.floats(0, 4e5), st.floats(1, 4e5))
def test_a_mean_over_hours_is_the_integral_of_the_steps(values: list[float], begin: float, length: float) -> None:
    def curve(t: float) -> float:
        return values[int(t // 3600) % len(values)]

    edges = [h * 3600.0 for h in range(int(begin // 3600) + 1, int((begin + length) // 3600) + 1)]
    points = [begin, *edges, begin + length]
    exact = sum(curve((a + b) / 2) * (b - a) for a, b in pairwise(points)) / length
    assert mean_of_hours(tuple(values), begin, begin + length) == pytest.approx(exact, rel=1e-6, abs=1e-9)


def test_a_site_without_a_curve_keeps_its_mean() -> None:
    site = Site(power_price=2.0, carbon=3.0)
    assert (site.mean_price(0, 10), site.mean_carbon(5, 5)) == (2.0, 3.0)
    hourly = replace(site, carbons=(1.0, 5.0))
    assert hourly.mean_carbon(3599, 3601) == pytest.approx(3.0)
