"""Host time of a layer: counted calls times shared constants."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.constants import Constant, Trust
from simulator.cost.host import CHECK, CHECK_INSIDE, COLLECTIVE, GROUP, OPERATOR, HostCost
from simulator.cost.network import CommGroup
from simulator.workload.framework import Framework
from simulator.workload.ops import Phase

COUNTED = Framework("mine", "training", operators_forward=50, operators_backward=80, operators_per_parameter=4)
NODE = CommGroup(8, 8, 1)
WHOLE = {Phase.BACKWARD: 1.0, Phase.WEIGHT_GRADIENT: 1.0}


def test_a_pass_takes_its_operators_and_its_collectives() -> None:
    host = HostCost(COUNTED)
    assert host.layer({Phase.FORWARD: 1.0}, 1, []) == pytest.approx(50 * OPERATOR.value)
    assert host.layer(WHOLE, 3, [NODE] * 6) == pytest.approx(3 * 80 * OPERATOR.value + 6 * COLLECTIVE.value)


def test_both_halves_of_a_backward_launch_the_whole() -> None:
    host = HostCost(COUNTED)
    halves = (host.layer({phase: 1.0}, 1, []) for phase in WHOLE)
    assert sum(halves) == pytest.approx(host.layer(WHOLE, 1, []))


def test_recomputation_launches_the_forward_again_as_far_as_it_goes() -> None:
    host = HostCost(COUNTED)
    again = host.layer({**WHOLE, Phase.RECOMPUTE: 0.2}, 1, []) - host.layer(WHOLE, 1, [])
    assert again == pytest.approx(0.2 * 50 * OPERATOR.value)


def test_checked_collectives_ask_ranks_of_the_node_and_beyond_it() -> None:
    plain, checked = HostCost(COUNTED), HostCost(replace(COUNTED, checked_collectives=True))
    passes = {Phase.FORWARD: 1.0}
    for inside, nodes in ((2, 1), (8, 1), (8, 4), (1, 16)):
        group = CommGroup(inside * nodes, inside, nodes)
        more = checked.layer(passes, 1, [group] * 2) - plain.layer(passes, 1, [group] * 2)
        beyond = inside * (nodes - 1)
        assert more == pytest.approx(2 * (inside * CHECK_INSIDE.value + beyond * CHECK.value))
    assert checked.check(CommGroup(1, 1, 1)) == 0.0
    assert {CHECK, CHECK_INSIDE} <= set(checked.constants)
    assert not {CHECK, CHECK_INSIDE} & set(plain.constants)


def test_a_step_takes_its_operators_per_parameter_tensor() -> None:
    assert HostCost(COUNTED).step(100) == pytest.approx(400 * OPERATOR.value)
    assert OPERATOR in HostCost(COUNTED).step_constants


def test_scales_and_constants_of_the_framework_itself_come_first() -> None:
    own = Constant("mine.host_per_operator", 5e-6, "s", 0.1, Trust.MEASURED, "a test")
    framework = replace(COUNTED, constants={"host_per_operator": own})
    assert HostCost(framework).layer({Phase.FORWARD: 1.0}, 1, []) == pytest.approx(50 * 5e-6)
    assert HostCost(COUNTED, {OPERATOR.id: 2.0}).step(1) == pytest.approx(8 * OPERATOR.value)


def test_a_framework_without_counts_has_a_time_per_layer_and_phase() -> None:
    constant = Constant("mine.host_per_layer", 1e-3, "s", 0.1, Trust.ASSUMED, "a test")
    host = HostCost(Framework("mine", "training", constants={"host_per_layer": constant}))
    assert host.layer({Phase.FORWARD: 1.0, Phase.RECOMPUTE: 0.5}, 4, [NODE, NODE]) == pytest.approx(6e-3)
    assert host.constants == (constant,)
    assert HostCost(Framework("none", "training")).layer(WHOLE, 1, [NODE]) == 0.0


def test_an_expert_takes_its_operators_and_the_launch_of_its_gemms() -> None:
    """Two linears: two GEMMs forward, two input gradients and two weight gradients."""
    mixture = replace(COUNTED, operators_routed_forward=10, operators_per_expert_forward=2, gemm_per_expert=True)
    forward, backward = {Phase.FORWARD: 1.0}, WHOLE
    one, forty = (HostCost(mixture).layer(forward, 1, [], experts) for experts in (1, 40))
    assert one == pytest.approx(62 * OPERATOR.value + 2 * GROUP.value)
    assert forty - one == pytest.approx(39 * 2 * (OPERATOR.value + GROUP.value))
    assert HostCost(mixture).layer(backward, 2, [], 40) == pytest.approx(2 * (80 * OPERATOR.value + 160 * GROUP.value))
    assert HostCost(replace(mixture, gemm_per_expert=False)).layer(forward, 1, [], 1) == pytest.approx(
        62 * OPERATOR.value
    )
    assert HostCost(mixture).layer(forward, 1, []) == pytest.approx(50 * OPERATOR.value)


def test_latent_attention_takes_operators_of_its_own() -> None:
    latent = HostCost(replace(COUNTED, operators_latent_forward=7, operators_latent_backward=9))
    assert latent.layer({Phase.FORWARD: 1.0}, 3, [], latent=True) == pytest.approx(3 * 57 * OPERATOR.value)
    assert latent.layer(WHOLE, 1, [], latent=True) == pytest.approx(89 * OPERATOR.value)
    assert latent.layer(WHOLE, 1, []) == pytest.approx(80 * OPERATOR.value)
