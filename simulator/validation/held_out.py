"""Constants of a framework without those that were fitted on the source that is scored."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from simulator.constants import Constant, Trust
from simulator.cost.device import OWN_KERNELS
from simulator.cost.host import CHECK_INSIDE, COLLECTIVE, OPERATOR, OWN, SLICE
from simulator.cost.resolve import fitted_accelerators
from simulator.hardware.types import Cluster
from simulator.validation.cases import Case, Subject
from simulator.workload.framework import Framework
from simulator.workload.framework_files import framework_names, load_framework

__all__ = ["CONTINUOUS", "FittedConstant", "fitted_constants", "without_own_constants"]

FITTED_ON = (
    (r"nanotron", r"nanotron"),
    (r"vTrain", r"vTrain"),
    (r"InferenceX", r"InferenceX"),
    (r"ROCm|MI300X", r"amd_vllm"),
    (r"[Ss]plitwise", r"splitwise"),
    (r"Vidur", r"Vidur"),
    (r"MosaicML|llm-foundry", r"MosaicML"),
    (r"InternEvo", r"InternEvo"),
    (r"SimuMax", r"SimuMax"),
    (r"Zero Bubble|2401\.10241", r"ZeroBubble"),
    (r"GPUStack|gpustack", r"gpustack"),
    (r"[Dd]istServe", r"distserve"),
    (r"Korthikanti|2205\.05198", r"Korthikanti"),
    (r"Narayanan|2104\.04473", r"Narayanan"),
    (r"Azure", r"Azure"),
    (r"MLPerf", r"MLPerf"),
    (r"XiongjieDai", r"llamacpp"),
    (r"ModelZoo", r"ModelZoo"),
)
"""Words in the source of a constant → pattern of the sources of rows that it was fitted on."""


CONTINUOUS = (".continuous.sustained", ".continuous.accumulated")
"""Ends of the keys of a device's shares of benchmark speed under continuous load: the device constants fitted on steps
or on kernels of a source of steps."""

ENOUGH = 3
"""A constant fitted on so many sources hardly moves when one is left out and is kept."""


H100_SHARE = "h100-sxm.gemm.bf16.continuous.sustained"

LEFT_OUT = {
    r"nanotron": {OPERATOR.id: 12e-6, COLLECTIVE.id: 40e-6, CHECK_INSIDE.id: 0.16e-3, H100_SHARE: 0.72},
    r"Llama 3": {H100_SHARE: 0.70},
    r"Narayanan": {SLICE.id: 2.25e-6},
    r"Azure": {SLICE.id: 3.25e-6},
}
"""Pattern of the sources of rows → constants by id, fitted without them (benchmarks/fits/training_host.py, whose prior
remains without nanotron; checked_collectives.py; sustained.py; zero3_slices.py)."""

HOST = {c.id: c for c in (OPERATOR, COLLECTIVE, CHECK_INSIDE, SLICE)}


LEFT_OUT_OF_ENGINES = {
    r"splitwise": {
        "vllm-0.2.host_per_launch": 24e-6, "vllm-0.2.launch_exposed": 0.24, "vllm-0.2.host_per_prompt_layer": 245e-6,
    },
    r"distserve": {
        "vllm-0.2.host_per_launch": 22e-6, "vllm-0.2.launch_exposed": 0.27, "vllm-0.2.host_per_prompt_layer": 215e-6,
    },
    r"InferenceX": {"sglang-0.4.host_per_expert_layer": 1.0e-3},
    r"gpustack": {"sglang-0.4.host_per_expert_layer": 1.2e-3},
}  # fmt: skip
"""Pattern of the sources of rows → constants of engines fitted without them (benchmarks/fits/eager_launches.py,
first_token.py)."""


@dataclass(frozen=True)
class FittedConstant:
    """A constant that was fitted, where, and on how many sources of this validation."""

    name: str
    value: float
    unit: str
    fitted_on: tuple[str, ...]
    source: str


@cache
def _frameworks() -> tuple[Framework, ...]:
    found = {load_framework(n).name: load_framework(n) for n in framework_names()}
    return tuple(found[n] for n in sorted(found))


def _fitted_on(constant: Constant) -> tuple[str, ...]:
    if constant.trust is not Trust.FITTED:
        return ()
    return tuple(pattern for words, pattern in FITTED_ON if re.search(words, constant.source))


def fitted_constants(names: set[str]) -> list[FittedConstant]:
    """Fitted constants of the frameworks called ``names``, and what devices keep under continuous load."""
    all_of = [c for f in _frameworks() if f.name in names for c in f.constants.values()]
    if any(f.operators_forward for f in _frameworks() if f.name in names):
        all_of += [OPERATOR, COLLECTIVE, CHECK_INSIDE, SLICE]
    all_of += [a.efficiency[key] for a in fitted_accelerators() for key in a.efficiency if key.endswith(CONTINUOUS)]
    return [
        FittedConstant(c.id, c.value, c.unit, _fitted_on(c), c.source)
        for c in all_of
        if c.trust is Trust.FITTED and c.sigma > 0
    ]


def without_own_constants(case: Case) -> Case | None:
    """The case with constants of other sources in place of those fitted on its own; ``None`` if it has none."""
    subject = case.subject
    part = subject.job or subject.deployment
    if part is None:
        return None
    swapped = _swap(part.framework, case.labels.source)
    cluster = subject.cluster and _swap_devices(subject.cluster, case.labels.source)
    if swapped is part.framework and cluster is subject.cluster:
        return None
    job = subject.job and replace(subject.job, framework=swapped)
    deployment = subject.deployment and replace(subject.deployment, framework=swapped)
    return replace(case, subject=Subject(subject.runner, cluster, job, deployment, subject.settings))


def _swap(framework: Framework, source: str) -> Framework:
    changed: dict[str, Constant] = {}
    if framework.operators_forward:
        unused = () if framework.gathers_by_parameter else (SLICE.id,)
        without = {i: v for i, v in _left_out(source).items() if i in HOST and i not in unused}
        changed |= {OWN[i]: replace(HOST[i], value=v, source=f"held out: {source}") for i, v in without.items()}
    refitted = {k: v for p, values in LEFT_OUT_OF_ENGINES.items() if re.search(p, source) for k, v in values.items()}
    for key, constant in framework.constants.items():
        if constant.id in refitted:
            note = f"held out: fitted without {source}"
            changed[key] = replace(constant, value=refitted[constant.id], source=note)
        elif constant.sigma > 0 and _rests_on(constant, source):
            changed[key] = _borrowed(framework, key, constant, source)
    if not changed:
        return framework
    constants: Mapping[str, Constant] = {**framework.constants, **changed}
    # A share that is known nowhere else is not zero, it is that of the usual kernels.
    usual = {key for key in OWN_KERNELS if key in changed and not changed[key].value}
    return replace(framework, constants={k: c for k, c in constants.items() if k not in usual})


def _left_out(source: str) -> dict[str, float]:
    """Constants by id as fitted without ``source``, where that was done."""
    return {i: v for pattern, values in LEFT_OUT.items() if re.search(pattern, source) for i, v in values.items()}


def _swap_devices(cluster: Cluster, source: str) -> Cluster:
    """The cluster with devices whose share under continuous load is that of the other sources, or without any the
    median of the other devices'."""
    groups = []
    for group in cluster.groups:
        device = group.node.accelerator
        own = {k: c for k, c in device.efficiency.items() if k.endswith(CONTINUOUS) and _rests_on(c, source)}
        others = {
            k: [a.efficiency[k].value for a in fitted_accelerators() if k in a.efficiency and a.name != device.name]
            for k in own
        }
        fitted = _left_out(source)
        changed = {k: replace(c, value=fitted.get(c.id, statistics.median(others[k] or [1.0]))) for k, c in own.items()}
        if changed:
            device = replace(device, efficiency={**device.efficiency, **changed})
            group = replace(group, node=replace(group.node, accelerator=device))
        groups.append(group)
    return cluster if tuple(groups) == cluster.groups else replace(cluster, groups=tuple(groups))


def _rests_on(constant: Constant, source: str) -> bool:
    """Whether leaving ``source`` out would take away much of what the constant was fitted on."""
    patterns = _fitted_on(constant)
    return len(patterns) < ENOUGH and any(re.search(p, source) for p in patterns)


def _borrowed(framework: Framework, key: str, own: Constant, source: str) -> Constant:
    """Median of the same constant fitted elsewhere, over frameworks of the same area and kind of launching; else
    none."""
    others = [
        o.constants[key].value
        for o in _frameworks()
        if o.area == framework.area
        and o.cuda_graphs == framework.cuda_graphs
        and key in o.constants
        and o.constants[key].trust is Trust.FITTED
        and not any(re.search(p, source) for p in _fitted_on(o.constants[key]))
    ]
    value = statistics.median(others) if others else 0.0
    return replace(own, value=value, trust=Trust.BORROWED, source=f"held out: fitted without {source}")
