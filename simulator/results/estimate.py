"""The answer of a strategy in its three currencies: time, memory and bandwidth, with interval and reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from simulator.workload.ops import TensorClass, Tier

__all__ = ["Estimate", "Interval", "MemoryLedger", "StageMemory", "TimeBreakdown", "Traffic"]

LINK_CLASSES = ("hbm", "scale_up", "scale_out", "host", "nvme", "wan")


@dataclass(frozen=True)
class StageMemory:
    """Peak of one pipeline stage on one tier.

    Attributes
    ----------
    stage
        Pipeline rank.
    by_class
        Bytes at the moment of the peak, by tensor class, plus ``reserve`` (framework) and ``fragmentation``.
    capacity
        Bytes the tier offers to one rank.
    """

    stage: int
    tier: Tier
    by_class: Mapping[str, float]
    capacity: float

    @property
    def peak(self) -> float:
        """Bytes in use at the peak."""
        return sum(self.by_class.values())

    @property
    def allocated(self) -> float:
        """What the framework's allocator hands out: without context, buffers and fragmentation."""
        return sum(v for k, v in self.by_class.items() if k in set(TensorClass))

    @property
    def fits(self) -> bool:
        """Whether the peak is within the capacity."""
        return self.peak <= self.capacity


@dataclass(frozen=True)
class MemoryLedger:
    """Peak memory per pipeline stage and tier, by class."""

    stages: tuple[StageMemory, ...]

    @property
    def worst(self) -> StageMemory:
        """The stage with the least room."""
        return max(self.stages, key=lambda s: s.peak - s.capacity)

    @property
    def fullest(self) -> StageMemory:
        """The stage with the least room on the device itself, whatever other tiers hold."""
        device = [s for s in self.stages if s.tier is Tier.HBM]
        return max(device or self.stages, key=lambda s: s.peak - s.capacity)

    @property
    def fits(self) -> bool:
        """Whether every stage fits on every tier."""
        return all(s.fits for s in self.stages)

    def reason(self) -> str:
        """Empty if it fits, else what does not fit where and by how much, with the breakdown."""
        if self.fits:
            return ""
        from simulator.units import format_quantity as fmt

        worst = self.worst
        parts = ", ".join(f"{k} {fmt(v, 'data')}" for k, v in worst.by_class.items() if v > 0)
        over = fmt(worst.peak - worst.capacity, "data")
        return (
            f"out of memory: stage {worst.stage} needs {fmt(worst.peak, 'data')} of {worst.tier} but has "
            f"{fmt(worst.capacity, 'data')}, {over} too much ({parts})"
        )


@dataclass(frozen=True)
class Traffic:
    """Bytes that one accelerator moves per step (or request), by link class."""

    by_link: Mapping[str, float]

    def __add__(self, other: Traffic) -> Traffic:
        keys = [k for k in LINK_CLASSES if k in self.by_link or k in other.by_link]
        return Traffic({k: self.by_link.get(k, 0.0) + other.by_link.get(k, 0.0) for k in keys})

    def scaled(self, factor: float) -> Traffic:
        """Every entry times ``factor``."""
        return Traffic({k: v * factor for k, v in self.by_link.items()})


@dataclass(frozen=True)
class TimeBreakdown:
    """Where the time of one step goes, as seconds that add up to ``total``.

    ``parts`` keys in order of a waterfall: ``compute`` (of which ``recompute`` apart), ``tensor_parallel``,
    ``pipeline_p2p``, ``data_parallel``, ``bubble``, ``optimizer``, ``host`` ... : exposed time only.
    """

    parts: Mapping[str, float]

    @property
    def total(self) -> float:
        """Sum of the parts [s]."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Interval:
    """Central 80 % interval of a quantity and what it comes from.

    Attributes
    ----------
    low, high
        p10 and p90 under independent normal errors of the constants, to first order.
    sensitivity
        Relative change of the value when one constant moves by one sigma, by constant id.
    """

    low: float
    high: float
    sensitivity: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Estimate:
    """Time, memory and bandwidth of one plan.

    Attributes
    ----------
    depth
        ``estimate`` (bounds, no executor), ``step`` (op DAG on streams, pipeline executor), ``run`` (discrete events).
    seconds
        Of one training step or one serving iteration; NaN if infeasible before it could be priced.
    floor
        Roofline bound of the same work [s]: no prediction may be below it.
    time, memory, traffic
        The three currencies.
    interval
        Of ``seconds``.
    feasible, reason
        ``reason`` says what does not work, where, and by how much.
    metrics
        Further named figures (see ``schema.csv``): mfu, hfu, bubble_over_ideal, bubble_over_total ...
    shares
        Share of the time by trust of the constants: measured, fitted, borrowed, datasheet, assumed.
    details
        Objects for plots and traces (timeline, per-op costs); not saved.
    """

    depth: Literal["estimate", "step", "run"]
    seconds: float
    floor: float
    time: TimeBreakdown
    memory: MemoryLedger
    traffic: Traffic
    interval: Interval | None = None
    feasible: bool = True
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def _repr_html_(self) -> str:
        """Time, memory and traffic, for notebooks."""
        from simulator.results.markup import html_list, html_table
        from simulator.units import format_quantity

        rows = [["step time", format_quantity(self.seconds, "time")]] if math.isfinite(self.seconds) else []
        if self.interval is not None:
            ends = (format_quantity(end, "time") for end in (self.interval.low, self.interval.high))
            rows.append(["80 % interval", " to ".join(ends)])
        rows.append(["roofline floor", format_quantity(self.floor, "time")])
        rows += [[f"time: {part}", format_quantity(s, "time")] for part, s in self.time.parts.items() if s > 0]
        for stage in self.memory.stages[:1] and [self.memory.worst]:
            peak, capacity = (format_quantity(b, "data") for b in (stage.peak, stage.capacity))
            rows.append([f"memory of stage {stage.stage} ({stage.tier})", f"{peak} of {capacity}"])
        rows += [[f"bytes: {link}", format_quantity(b, "data")] for link, b in self.traffic.by_link.items() if b > 0]
        rows += [[name, f"{value:.4g}"] for name, value in self.metrics.items()]
        verdict = "feasible" if self.feasible else f"not feasible: {self.reason}"
        return html_table(f"{self.depth} of a plan", [], rows, verdict) + html_list(self.warnings)
