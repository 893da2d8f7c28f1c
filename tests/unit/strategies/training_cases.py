"""A small job on two nodes, shared by the tests of sharding, communication and planners."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from simulator.hardware import load_link, load_node
from simulator.hardware.types import Cluster, Fabric, NodeGroup
from simulator.results.estimate import Estimate
from simulator.training.stages import compiled_layers
from simulator.training.step import estimate_step
from simulator.workload.framework import Framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model import ModelSpec
from simulator.workload.model_files import load_model
from simulator.workload.ops import Block, TensorClass
from simulator.workload.plan import Plan

RANKS = 16
FRAMEWORK = Framework("plain", "training", gradient_dtype="fp16")


@cache
def cluster(nodes: int = 2) -> Cluster:
    """Nodes of eight A100 on a 200 Gb/s network."""
    return Cluster("test", (NodeGroup(load_node("dgx-a100-640"), nodes),), Fabric("single-switch", load_link("hdr200")))


@cache
def model(name: str = "gpt3-1.3b") -> ModelSpec:
    """A shipped model."""
    return load_model(name)


def job(plan: Plan, framework: Framework = FRAMEWORK, name: str = "gpt3-1.3b", batch: int = 32) -> TrainingJob:
    """``plan`` on a small batch."""
    return TrainingJob("test", model(name), framework, Batch(batch, 1, 1024), plan)


def estimate(plan: Plan, framework: Framework = FRAMEWORK, name: str = "gpt3-1.3b", batch: int = 32) -> Estimate:
    """One step without interval."""
    return estimate_step(job(plan, framework, name, batch), cluster(), with_interval=False)


def states(plan: Plan, framework: Framework = FRAMEWORK, name: str = "gpt3-1.3b") -> dict[str, float]:
    """Bytes of states by class on one rank, of all transformer layers."""
    totals: dict[str, float] = {}
    for block in layers(plan, framework, name):
        for tensor in block.states:
            totals[tensor.cls.value] = totals.get(tensor.cls.value, 0.0) + tensor.bytes(plan.mesh)
    return totals


def layers(plan: Plan, framework: Framework = FRAMEWORK, name: str = "gpt3-1.3b") -> list[Block]:
    """Compiled transformer layers."""
    return [b for b in compiled_layers(job(plan, framework, name)) if b.name == "layer"]


def elements(plan: Plan, name: str = "gpt3-1.3b") -> int:
    """Parameters of all transformer layers, whole."""
    whole = replace(plan, data_parallel=1, zero_stage=0, options=())
    return sum(t.elements() for b in layers(whole, name=name) for t in b.states if t.cls is TensorClass.PARAM)
