"""Time from one kernel of a model to the next, which kernels timed alone do not show.

Where the host computes itself (a CPU), Python runs between the kernels and nothing hides it. Models far smaller than
those that ``fmsim verify`` runs are timed, so that little of their time is in kernels; what they take beyond the sum of
their kernels, divided by the number of kernels, is a constant of the device.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from simulator.calibration.cases import gpt_model, llama_model
from simulator.calibration.verify import Seen, TrainingCase, predict_training, run_training
from simulator.calibration.verify_serving import ServingCase, predict_serving, run_serving
from simulator.constants import Constant, Trust
from simulator.cost.device import BETWEEN, BETWEEN_RECORDED
from simulator.hardware.types import Node

__all__ = ["Probe", "SequenceFit", "fit_sequence", "with_between"]

UNIT = 1e-6
"""Trial value of the constant [s], by which the kernels of a model are counted."""


@dataclass(frozen=True)
class Probe:
    """One small model: measured and predicted seconds, and its kernels."""

    name: str
    measured: float
    predicted: float
    kernels: float

    @property
    def between(self) -> float:
        """Seconds per kernel that the prediction misses."""
        return (self.measured - self.predicted) / self.kernels

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.measured * 1e3:.2f} ms, its {self.kernels:.0f} kernels alone "
            f"{self.predicted * 1e3:.2f} ms: {self.between * 1e6:.0f} us between two"
        )


@dataclass(frozen=True)
class SequenceFit:
    """Seconds between kernels in inference and where autograd records, their relative spread, and the probes."""

    between: float
    between_recorded: float
    spread: float
    probes: tuple[Probe, ...]


def with_between(node: Node, seconds: float) -> Node:
    """The node with this time between the kernels of a model."""
    device = node.accelerator
    constants = {
        key: Constant(f"{device.name}.{key}", seconds, "s", 0.0, Trust.FITTED, "probe")
        for key in (BETWEEN, BETWEEN_RECORDED)
    }
    return replace(node, accelerator=replace(device, efficiency={**device.efficiency, **constants}))


def fit_sequence(
    node: Node,
    device: str,
    budget: float,
    clock: str = "wall",
    progress: Callable[[int, int, str], None] = lambda done, all_, what: None,
) -> SequenceFit:
    """Run the probes in about ``budget`` seconds; each constant is their median, and not below 0."""
    training, serving = _cases()
    whole = len(training) + len(serving)
    found: list[Probe] = []
    bare, counted = with_between(node, 0.0), with_between(node, UNIT)

    def add(name: str, seen: Seen, predict: Callable[[Node], float]) -> None:
        predicted = predict(bare)
        kernels = (predict(counted) - predicted) / UNIT
        found.append(Probe(name, seen.timing.seconds, predicted, kernels))

    for case in training:
        progress(len(found), whole, f"model {case.name}")
        add(case.name, run_training(case, device, budget / whole, clock), partial(_step_seconds, case, device))
    for one in serving:
        progress(len(found), whole, f"model {one.name}")
        add(one.name, run_serving(one, device, budget / whole, clock), partial(_iteration_seconds, one, device))
    gaps = [max(0.0, p.between) for p in found]
    recorded, plain = (statistics.median(part) for part in (gaps[: len(training)], gaps[len(training) :]))
    ratios = [
        gap / middle
        for gap, middle in zip(gaps, [recorded] * len(training) + [plain] * len(serving), strict=True)
        if middle
    ]
    return SequenceFit(plain, recorded, statistics.pstdev(ratios) if ratios else 0.0, tuple(found))


def _step_seconds(case: TrainingCase, device: str, node: Node) -> float:
    return predict_training(case, node, device).seconds


def _iteration_seconds(case: ServingCase, device: str, node: Node) -> float:
    return predict_serving(case, node, device)


def _cases() -> tuple[list[TrainingCase], list[ServingCase]]:
    """Training and serving in equal numbers."""
    llama, gpt = llama_model(128, 4), gpt_model(128, 4)
    return (
        [TrainingCase(llama, 1, 16), TrainingCase(gpt, 2, 16), TrainingCase(llama, 2, 16, recompute=True)],
        [ServingCase(llama, 1, 32), ServingCase(gpt, 4, 32), ServingCase(llama, 0, 32)],
    )
