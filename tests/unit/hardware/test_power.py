"""Power: idle and peak are met exactly, more work never draws less, ratings hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.hardware import accelerator_power, cluster_power, load_cluster, load_node, node_power
from simulator.hardware.power import utilisation
from simulator.hardware.types import PowerProfile

shares = st.floats(0, 1)


@given(st.floats(1, 200), st.floats(0, 2000), shares, shares)
def test_between_idle_and_peak_and_monotone(idle: float, extra: float, u: float, v: float) -> None:
    profile = PowerProfile(idle, idle + extra)
    low, high = (accelerator_power(profile, x) for x in sorted((u, v)))
    assert idle * (1 - 1e-12) <= low <= high <= (idle + extra) * (1 + 1e-12)
    assert accelerator_power(profile, 0) == idle
    assert accelerator_power(profile, 1) == pytest.approx(idle + extra)


def test_utilisation_is_clipped() -> None:
    profile = PowerProfile(50, 400)
    assert accelerator_power(profile, -1) == 50
    assert accelerator_power(profile, 3) == 400


def test_work_draws_energy_per_operation_and_per_byte_up_to_the_peak() -> None:
    """1.6 pJ per FLOP and 140 pJ per byte beside 50 W at work and 60 W idle, of 400 W at most."""
    profile = PowerProfile(60, 400, 50, 1.6e-12 * 312e12, 140e-12 * 2e12)
    for flops, moved in ((0.0, 0.0), (1e12, 1.2e12), (100e12, 0.1e12), (0.0, 2e12)):
        watts = accelerator_power(profile, utilisation(profile, flops / 312e12, moved / 2e12))
        assert watts == pytest.approx(60 + 50 + 1.6e-12 * flops + 140e-12 * moved)
    assert accelerator_power(profile, utilisation(profile, 0.9, 0.2)) == 400


@given(st.floats(0, 500), st.floats(0, 1000), shares, shares, shares)
def test_more_work_draws_more(idle: float, extra: float, compute: float, memory: float, more: float) -> None:
    profile = PowerProfile(idle, idle + extra)
    before = utilisation(profile, compute, memory)
    assert (
        0 <= before <= min(utilisation(profile, compute + more, memory), utilisation(profile, compute, memory + more))
    )
    assert utilisation(profile, compute + more, memory + more) <= 1


def test_dgx_h100_training_draws_what_was_measured() -> None:
    """8.4 kW while training at full tilt, of 10.2 kW rated: arXiv 2412.08602."""
    assert node_power(load_node("dgx-h100"), 1.0) == pytest.approx(8400)


def test_generation_on_a100_lies_in_the_measured_band() -> None:
    """Splitwise: token generation draws 0.43 to 0.79 of 400 W; it moves 0.2 to 0.65 of the peak bandwidth."""
    power = load_node("dgx-a100-640").accelerator.power
    for bandwidth in (0.2, 0.65):
        assert 0.43 <= accelerator_power(power, utilisation(power, 0.01, bandwidth)) / 400 <= 0.79
    assert accelerator_power(power, utilisation(power, 0.6, 0.1)) == 400  # prompts: 1.0 to 1.09


def test_the_least_that_h200_draws_at_work() -> None:
    """137 of 700 W while it generates: arXiv 2605.11999, abstract."""
    power = load_node("hgx-h200").accelerator.power
    assert accelerator_power(power, utilisation(power, 0.0, 0.0)) == pytest.approx(137, rel=0.02)


def test_large_gemms_of_h100_meet_the_limit() -> None:
    """They reach 0.70 to 0.80 of the peak FLOP/s: stas00/ml-engineering, 794.5 of 989 TFLOP/s at most."""
    power = load_node("dgx-h100").accelerator.power
    assert utilisation(power, 0.65, 0.05) < 1 == utilisation(power, 794.5 / 989, 0.05)


def test_idle_accelerators_and_rating() -> None:
    node = load_node("dgx-h100")
    assert node_power(node, 1.0, active=0) == node.power_overhead + 8 * node.accelerator.power.idle
    assert node_power(node, 1.0, active=4) == pytest.approx(node.power_overhead + 4 * 700 + 4 * 70)
    assert all(node_power(load_node(n), 1.0) <= load_node(n).power_peak for n in ("dgx-b200", "fireflyer2-a100-pcie"))


def test_cluster_adds_its_nodes() -> None:
    cluster = load_cluster("eos")
    assert cluster_power(cluster, 0.5) == pytest.approx(576 * node_power(cluster.groups[0].node, 0.5))
