"""Rows are scored without the constants that were fitted on their own source."""

from __future__ import annotations

import pytest

from simulator.cost.host import CHECK_INSIDE, OPERATOR, OWN
from simulator.cost.resolve import fitted_accelerators
from simulator.hardware.profiles import load_link, load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup
from simulator.validation.cases import Case, Labels, Subject
from simulator.validation.held_out import HOST, LEFT_OUT, without_own_constants
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model_files import load_model
from simulator.workload.plan import Plan

SHARE = "gemm.bf16.continuous.sustained"


def case(source: str, framework: str, node: str = "dgx-h100") -> Case:
    job = TrainingJob("one", load_model("llama-2-7b"), load_framework(framework), Batch(8, 1, 4096), Plan())
    cluster = Cluster("one", (NodeGroup(load_node(node), 1),), Fabric("single-switch", load_link("ndr400")))
    labels = Labels(source, "H100-80GB", "llama", "llama", framework, "bf16", "1 node", "dp", "A")
    return Case("one", "file", "dev", labels, Subject("training", cluster, job), ())


def test_every_constant_fitted_without_a_source_exists() -> None:
    devices = {c.id for a in fitted_accelerators() for c in a.efficiency.values()}
    for values in LEFT_OUT.values():
        assert set(values) <= set(HOST) | devices


def test_a_source_loses_what_it_taught_and_keeps_what_another_says() -> None:
    found = without_own_constants(case("nanotron sweep", "nanotron"))
    assert found is not None and found.subject.job is not None and found.subject.cluster is not None
    constants = found.subject.job.framework.constants
    assert constants[OWN[CHECK_INSIDE.id]].value == LEFT_OUT["nanotron"][CHECK_INSIDE.id] != CHECK_INSIDE.value
    assert constants[OWN[OPERATOR.id]].value < OPERATOR.value
    device = found.subject.cluster.groups[0].node.accelerator
    told = next(v for i, v in LEFT_OUT["nanotron"].items() if i.endswith(SHARE))
    assert device.efficiency[SHARE].value == told


def test_a_device_known_from_one_source_alone_borrows_from_the_others() -> None:
    found = without_own_constants(case("SimuMax B200", "megatron-core-0.8", "dgx-b200"))
    assert found is not None and found.subject.cluster is not None
    own = load_node("dgx-b200").accelerator
    others = [a.efficiency[SHARE].value for a in fitted_accelerators() if a.name != own.name and SHARE in a.efficiency]
    value = found.subject.cluster.groups[0].node.accelerator.efficiency[SHARE].value
    assert min(others) <= value <= max(others)
    assert value != own.efficiency[SHARE].value


@pytest.mark.parametrize("source", ["Korthikanti2022", "Zero Bubble"])
def test_others_are_scored_as_they_are(source: str) -> None:
    assert without_own_constants(case(source, "megatron-lm-2023", "dgx-a100-640")) is None
