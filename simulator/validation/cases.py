"""What validation compares: a published record turned into something the simulator can run, and what it printed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from simulator.hardware.types import Cluster
from simulator.workload.jobs import Deployment, TrainingJob

__all__ = ["KINDS", "Case", "Kind", "Labels", "Measurement", "Reading", "Skipped", "Subject"]

Kind = Literal[
    "training_step_time", "training_layer_time", "training_memory", "fits", "bubble", "serving_tpot", "serving_ttft",
    "serving_throughput", "serving_latency", "serving_capacity", "request_replay", "kernel", "step_replay",
    "straggler", "failures", "bound", "checkpoint", "power",
]  # fmt: skip

KINDS: tuple[Kind, ...] = Kind.__args__  # type: ignore[attr-defined]
"""What a row compares: times in seconds, memory in bytes, throughput in tokens/s, ``fits`` as 1 or 0, a bubble as a
share, ``request_replay`` as the largest difference of any request in seconds, ``straggler`` a slow-down, ``failures``
their number or a time between two, ``bound`` 1 where a published bound holds, ``checkpoint`` bytes, ``power`` watts
or a share of the rated power."""


@dataclass(frozen=True)
class Measurement:
    """One published figure.

    Attributes
    ----------
    kind
        What it is.
    value
        In SI units.
    quantity
        Which figure of the prediction it is compared with (``step``, ``forward``, ``allocated``, ``reserved``,
        ``reserved_first``, ``device``, ``ttft_mean`` ...), where a kind has several.
    load
        For TTFT: the kind of load (``closed_loop``, ``all_at_once``, ``online``), because they measure other things.
    grade
        Where this figure is worth less than its record: the grade it has instead.
    """

    kind: Kind
    value: float
    quantity: str = ""
    load: str = ""
    grade: str = ""


@dataclass(frozen=True)
class Labels:
    """What rows are grouped by.

    Attributes
    ----------
    scale
        ``1 GPU``, ``1 node``, ``2-16 nodes`` ...
    strategy
        The axes that are in use, e.g. ``tp+pp``, ``zero-3``.
    sweep
        Rows with the same sweep differ in layout only: the buyer's choice. Empty: part of none.
    configuration
        Repeated measurements of one configuration share it and count as one point.
    degree
        Ranks of one replica by axis, e.g. ``tp8``.
    setting
        Load, lengths and whatever else was asked of the run besides device, degree and precision; empty where ratios
        between rows say nothing.
    """

    source: str
    gpu: str
    model: str
    family: str
    framework: str
    precision: str
    scale: str
    strategy: str
    grade: str
    sweep: str = ""
    configuration: str = ""
    degree: str = ""
    setting: str = ""


@dataclass(frozen=True)
class Subject:
    """What is simulated: a training job or a deployment on a cluster, with settings of the run.

    ``settings`` are plain values a runner needs besides (depth of the comparison, concurrency of a closed loop).
    """

    runner: str
    cluster: Cluster | None
    job: TrainingJob | None = None
    deployment: Deployment | None = None
    settings: tuple[tuple[str, object], ...] = ()

    def setting(self, name: str, default: object = None) -> object:
        """A setting, or ``default``."""
        return dict(self.settings).get(name, default)


@dataclass(frozen=True)
class Case:
    """One complete record: what to run, what was published, and what the record left out."""

    id: str
    file: str
    split: str
    labels: Labels
    subject: Subject
    measured: tuple[Measurement, ...]
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """A record that cannot be simulated, and why."""

    id: str
    file: str
    split: str
    source: str
    section: str
    reason: str


@dataclass
class Reading:
    """What a reader found in a file."""

    cases: list[Case] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
