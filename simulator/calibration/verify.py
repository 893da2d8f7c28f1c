"""``fmsim verify``: run real models on a device and put what was measured beside what is predicted.

Predictions go the way of every simulation: ModelSpec → Ops → passes → cost, with the profile that calibration wrote.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from simulator.calibration.by_kind import measured_by_kind, predicted_by_kind
from simulator.calibration.cases import eager_framework, gpt_model, llama_model, moe_model
from simulator.calibration.live_memory import peak_bytes
from simulator.calibration.passes import Verdict
from simulator.calibration.timing import CLOCKS, Timing, measure
from simulator.calibration.torch_models import build_model
from simulator.calibration.torch_setup import require_torch, synchronize
from simulator.hardware.types import Cluster, Fabric, Node, NodeGroup
from simulator.results.estimate import Estimate
from simulator.training.step import estimate_step
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model import ModelSpec
from simulator.workload.plan import Plan

__all__ = [
    "Comparison", "Seen", "TrainingCase", "compare_training", "one_node", "predict_training", "run_training",
    "summarise", "timed", "training_cases",
]  # fmt: skip


@dataclass(frozen=True)
class TrainingCase:
    """One training step to run: a model, sequences of some length, with or without recomputation."""

    model: ModelSpec
    batch: int
    sequence: int
    recompute: bool = False

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.model.name} b{self.batch} s{self.sequence}" + (" recompute" if self.recompute else "")


@dataclass(frozen=True)
class Seen:
    """What one run of a case showed.

    Attributes
    ----------
    timing
        Of one step or iteration.
    memory
        Peak bytes, NaN where nobody looked.
    by_kind
        Seconds by kind of kernel, empty where nobody looked.
    """

    timing: Timing
    memory: float = math.nan
    by_kind: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Measured beside predicted.

    Attributes
    ----------
    kind
        ``training``, ``prefill``, ``decode``, ``loop``, ``data-parallel`` ...
    passes
        Medians [s] of the measurements of the same thing, all other cases between them: what they differ by is the
        noise floor.
    predicted, low, high
        [s], with the 80 % interval; equal where the depth gives none.
    memory_measured, memory_predicted
        Peak bytes, NaN where memory was not looked at.
    by_kind
        Kind of Op → (measured, predicted) seconds.
    quiet
        Whether these had the machine to themselves.
    set_aside
        Measurements that do not count, because the machine was disturbed.
    """

    kind: str
    name: str
    passes: tuple[float, ...]
    predicted: float
    low: float
    high: float
    memory_measured: float = math.nan
    memory_predicted: float = math.nan
    by_kind: dict[str, tuple[float, float]] = field(default_factory=dict)
    quiet: bool = True
    set_aside: int = 0

    @property
    def measured(self) -> float:
        """Median of the passes [s]."""
        return statistics.median(self.passes)

    @property
    def error(self) -> float:
        """Relative error of the predicted time."""
        return self.predicted / self.measured - 1

    @property
    def noise(self) -> float:
        """Typical relative difference of two passes; 0 of a single one."""
        pairs = [max(pair) / min(pair) - 1 for pair in combinations(self.passes, 2)]
        return statistics.median(pairs) if pairs else 0.0

    @property
    def memory_error(self) -> float:
        """Relative error of the predicted peak."""
        return self.memory_predicted / self.memory_measured - 1

    @property
    def worst_kind(self) -> str:
        """Kind of Op whose prediction is off by the most seconds."""
        if not self.by_kind:
            return ""
        kind, (got, said) = max(self.by_kind.items(), key=lambda item: abs(item[1][1] - item[1][0]))
        return f"{kind} {said / got - 1:+.0%}" if got > 0 else kind


def training_cases(quick: bool = False) -> list[TrainingCase]:
    """Three kinds of model, a sweep of batch and length, recomputation on and off."""
    cases = [
        TrainingCase(gpt_model(256, 4), 4, 128),
        TrainingCase(llama_model(256, 4), 2, 256, recompute=True),
        TrainingCase(moe_model(256, 2), 2, 256),
    ]
    if quick:
        return cases
    return [
        *cases,
        TrainingCase(gpt_model(512, 4), 2, 256),
        TrainingCase(gpt_model(512, 4), 2, 256, recompute=True),
        TrainingCase(gpt_model(768, 2), 1, 512),
        TrainingCase(llama_model(512, 4), 1, 128),
        TrainingCase(llama_model(512, 4), 1, 512),
        TrainingCase(llama_model(512, 4), 4, 256),
        TrainingCase(llama_model(512, 4), 4, 256, recompute=True),
        TrainingCase(moe_model(512, 2), 2, 256),
        TrainingCase(moe_model(256, 4), 2, 512),
    ]


def one_node(node: Node) -> Cluster:
    """A cluster of this machine alone."""
    return Cluster(node.name, (NodeGroup(node, 1),), Fabric("single-switch", node.scale_up.link))


def training_step(model: Any, optimizer: Any, ids: Any, reduce: Callable[[], object] = lambda: None) -> None:
    """Forward, cross-entropy, backward, reduction of gradients, clipping, AdamW; gradients stay allocated."""
    torch = require_torch()
    loss = torch.nn.functional.cross_entropy(_logits(model, ids), ids.reshape(-1))
    loss.backward()
    reduce()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)


def _logits(model: Any, ids: Any) -> Any:
    out = model(ids)
    return out.float().reshape(-1, out.shape[-1])


def resident_tensors(model: Any, optimizer: Any) -> list[Any]:
    """Parameters, gradients and optimizer states."""
    torch = require_torch()
    parameters = list(model.parameters())
    states = [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v)]
    return [*parameters, *(p.grad for p in parameters if p.grad is not None), *states]


def timed(call: Callable[[], object], device: str, budget: float, clock: str = "wall") -> Timing:
    """Median of a step in about ``budget`` seconds."""
    return measure(call, lambda: synchronize(device), budget, repeats=21, least=3, clock=CLOCKS[clock])


def run_training(case: TrainingCase, device: str, budget: float = 1.5, clock: str = "wall", look: bool = False) -> Seen:
    """Run a training step again and again; with ``look`` once more for its memory and once under the profiler."""
    torch = require_torch()
    model = build_model(case.model, _dtype(device), device, case.recompute)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(0, case.model.vocab_size, (case.batch, case.sequence), device=device)

    def step() -> None:
        training_step(model, optimizer, ids)

    step()
    found = timed(step, device, budget, clock)
    if not look:
        return Seen(found)
    memory = peak_bytes(step, device, resident_tensors(model, optimizer))
    return Seen(found, memory, measured_by_kind(step, device))


def predict_training(case: TrainingCase, node: Node, device: str) -> Estimate:
    """The step of a training case on a machine."""
    plan = Plan(precision=_dtype(device), recompute="full" if case.recompute else "none")
    batch = Batch(case.batch, case.batch, case.sequence)
    return estimate_step(TrainingJob(case.name, case.model, eager_framework(device), batch, plan), one_node(node))


def _dtype(device: str) -> str:
    return "fp32" if device == "cpu" else "bf16"


def compare_training(case: TrainingCase, node: Node, device: str, seen: Seen, found: Verdict) -> Comparison:
    """Predict a training step: ``seen`` is the pass that looked at memory and kinds, ``found`` what all passes say."""
    estimate = predict_training(case, node, device)
    interval = estimate.interval
    low, high = (interval.low, interval.high) if interval is not None else (estimate.seconds, estimate.seconds)
    kinds = _kinds(seen.by_kind, predicted_by_kind(estimate), found.seconds)
    return Comparison(
        "training", case.name, found.kept, estimate.seconds, low, high, seen.memory, estimate.memory.worst.peak, kinds,
        found.quiet, found.set_aside,
    )  # fmt: skip


def _kinds(measured: dict[str, float], predicted: dict[str, float], seconds: float) -> dict[str, tuple[float, float]]:
    """The profiler's shares of the measured step, which it slows and counts by the wall; and the predicted times."""
    scale = seconds / max(sum(measured.values()), 1e-12)
    return {
        kind: (scale * measured.get(kind, 0.0), predicted.get(kind, 0.0)) for kind in sorted({*measured, *predicted})
    }


@dataclass(frozen=True)
class Summary:
    """Median and worst of |error| of time and memory, and of the noise, over some comparisons."""

    count: int
    median: float
    worst: float
    noise: float
    worst_noise: float
    memory: float
    inside: int


def summarise(comparisons: Sequence[Comparison]) -> Summary:
    """Errors over ``comparisons``; ``inside`` counts measurements within the predicted interval."""
    errors = [abs(c.error) for c in comparisons]
    noise = [abs(c.noise) for c in comparisons]
    memory = [abs(c.memory_error) for c in comparisons if not math.isnan(c.memory_error)]
    inside = sum(c.low <= c.measured <= c.high for c in comparisons)
    return Summary(
        len(errors), statistics.median(errors), max(errors), statistics.median(noise), max(noise),
        max(memory, default=math.nan), inside,
    )  # fmt: skip
