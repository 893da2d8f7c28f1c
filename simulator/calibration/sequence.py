"""Time from one kernel of a model to the next, which kernels timed alone do not show.

Where the host computes itself (a CPU), Python runs between the kernels and nothing hides it. Models smaller than those
that ``fmsim verify`` runs are timed, so that little of their time is in kernels, but with layers that do not fit into
the caches either; what they take beyond the sum of their kernels, divided by the number of kernels, is a constant of
the device. Like kernels they are timed in several passes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from simulator.calibration.cases import gpt_model, llama_model
from simulator.calibration.passes import PASSES, Machine, Taken, verdict
from simulator.calibration.verify import Seen, TrainingCase, predict_training, run_training
from simulator.calibration.verify_serving import ServingCase, predict_serving, run_serving
from simulator.constants import Constant, Trust
from simulator.cost.device import BETWEEN, BETWEEN_RECORDED
from simulator.hardware.types import Node

__all__ = ["Probe", "SequenceFit", "fit_sequence", "with_between"]

PROBED = 1024
"""Vocabulary of the probes: a head takes long and has one kernel."""

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
    machine: Machine | None = None,
) -> SequenceFit:
    """Run the probes in about ``budget`` seconds; each constant is their median, and not below 0.

    ``machine``: the reference that was looked at while kernels were timed.
    """
    machine = machine or Machine(device)
    training, serving = _cases()
    whole = len(training) + len(serving)
    found: list[Probe] = []
    bare, counted = with_between(node, 0.0), with_between(node, UNIT)

    runs: list[tuple[str, Callable[[float], Seen], Callable[[Node], float]]] = [
        *(
            (c.name, partial(_train, c, device, clock), partial(_step_seconds, c, device)) for c in training
        ),
        *((c.name, partial(_serve, c, device, clock), partial(_iteration_seconds, c, device)) for c in serving),
    ]  # fmt: skip
    taken: list[list[Taken]] = [[] for _ in runs]
    for number in range(PASSES):
        for index, (name, run, _) in enumerate(runs):
            progress(number * whole + index, PASSES * whole, f"model {name}")
            seen, reference = machine.beside(partial(run, budget / whole / PASSES))
            taken[index].append(Taken.of(seen.timing, reference))
    for (name, _, predict), some in zip(runs, taken, strict=True):
        predicted = predict(bare)
        kernels = (predict(counted) - predicted) / UNIT
        found.append(Probe(name, verdict(some, machine.usual).seconds, predicted, kernels))
    gaps = [max(0.0, p.between) for p in found]
    recorded, plain = (statistics.median(part) for part in (gaps[: len(training)], gaps[len(training) :]))
    ratios = [
        gap / middle
        for gap, middle in zip(gaps, [recorded] * len(training) + [plain] * len(serving), strict=True)
        if middle
    ]
    return SequenceFit(plain, recorded, statistics.pstdev(ratios) if ratios else 0.0, tuple(found))


def _train(case: TrainingCase, device: str, clock: str, budget: float) -> Seen:
    return run_training(case, device, budget, clock)


def _serve(case: ServingCase, device: str, clock: str, budget: float) -> Seen:
    return run_serving(case, device, budget, clock)


def _step_seconds(case: TrainingCase, device: str, node: Node) -> float:
    return predict_training(case, node, device).seconds


def _iteration_seconds(case: ServingCase, device: str, node: Node) -> float:
    return predict_serving(case, node, device)


def _cases() -> tuple[list[TrainingCase], list[ServingCase]]:
    """Training and serving in equal numbers."""
    llama, gpt = llama_model(512, 2, PROBED), gpt_model(512, 2, PROBED)
    return (
        [TrainingCase(llama, 1, 16), TrainingCase(gpt, 2, 16), TrainingCase(llama, 2, 16, recompute=True)],
        [ServingCase(llama, 1, 32), ServingCase(gpt, 4, 32), ServingCase(llama, 0, 32)],
    )
