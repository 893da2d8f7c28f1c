"""Power: idle and peak are met exactly, more work never draws less, ratings hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.hardware import accelerator_power, cluster_power, load_cluster, load_node, node_power
from simulator.hardware.power import MEMORY_WEIGHT, utilisation
from simulator.hardware.types import PowerProfile

shares = st.floats(0, 1)


@given(st.floats(1, 200), st.floats(0, 2000), st.floats(0.3, 1.5), shares, shares)
def test_between_idle_and_peak_and_monotone(idle: float, extra: float, exponent: float, u: float, v: float) -> None:
    profile = PowerProfile(idle, idle + extra, exponent)
    low, high = (accelerator_power(profile, x) for x in sorted((u, v)))
    assert idle * (1 - 1e-12) <= low <= high <= (idle + extra) * (1 + 1e-12)
    assert accelerator_power(profile, 0) == idle
    assert accelerator_power(profile, 1) == pytest.approx(idle + extra)


def test_utilisation_is_clipped() -> None:
    profile = PowerProfile(50, 400)
    assert accelerator_power(profile, -1) == 50
    assert accelerator_power(profile, 3) == 400


def test_memory_bound_work_draws_less_than_compute() -> None:
    assert utilisation(0.9, 0.2) == 0.9
    assert utilisation(0.1, 1.0) == MEMORY_WEIGHT
    assert utilisation(2.0, 0.0) == 1.0


def test_dgx_h100_training_draws_what_was_measured() -> None:
    """8.4 kW while training at full tilt, of 10.2 kW rated: arXiv 2412.08602."""
    assert node_power(load_node("dgx-h100"), 1.0) == pytest.approx(8400)


def test_generation_on_a100_lies_in_the_measured_band() -> None:
    """Splitwise: token generation draws 0.43 to 0.79 of 400 W; it is bound by memory (half to full bandwidth)."""
    power = load_node("dgx-a100-640").accelerator.power
    for bandwidth in (0.5, 1.0):
        assert 0.43 <= accelerator_power(power, utilisation(0.05, bandwidth)) / 400 <= 0.79


def test_idle_accelerators_and_rating() -> None:
    node = load_node("dgx-h100")
    assert node_power(node, 1.0, active=0) == node.power_overhead + 8 * node.accelerator.power.idle
    assert node_power(node, 1.0, active=4) == pytest.approx(node.power_overhead + 4 * 700 + 4 * 70)
    assert all(node_power(load_node(n), 1.0) <= load_node(n).power_peak for n in ("dgx-b200", "fireflyer2-a100-pcie"))


def test_cluster_adds_its_nodes() -> None:
    cluster = load_cluster("eos")
    assert cluster_power(cluster, 0.5) == pytest.approx(576 * node_power(cluster.groups[0].node, 0.5))
