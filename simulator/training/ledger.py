"""Where the wall time of a training job went: useful steps, and everything else by cause."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

__all__ = ["CAUSES", "TrainingEvent", "TrainingRun"]

CAUSES = ("checkpoint", "rework", "detection", "node", "restart", "reload", "slow", "power", "network")
"""Waiting for checkpoints; steps done again; until a failure is noticed; until a node is free; starting or joining the
processes; reading the state back; steps that took longer than undisturbed ones: by protection and degraded or missing
nodes, by clocks that power lowered, and by links that were shared with others, narrower than the nodes' ports, degraded
or lost."""


@dataclass(frozen=True)
class TrainingEvent:
    """Something that happened to a job at ``time`` [s].

    ``steps`` are those done and kept just before an interruption and just after a return; NaN for other events.
    """

    time: float
    event: str
    detail: str = ""
    steps: float = math.nan


@dataclass
class TrainingRun:
    """What happened to a job.

    Attributes
    ----------
    steps
        Completed.
    start, end
        [s]; ``end`` is that of the last step, or of the run.
    useful
        Seconds of undisturbed steps that are kept.
    lost
        Cause → seconds; with ``useful`` they add up to the wall time.
    interruptions
        Failure kind → how often it stopped the job.
    checkpoints
        ``(start, end)`` of every write [s].
    events
        Failures and what followed.
    done
        Whether all steps were completed.
    stuck
        Why it was given up, or an empty string.
    """

    steps: int = 0
    start: float = 0.0
    end: float = 0.0
    useful: float = 0.0
    lost: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0.0))
    interruptions: dict[str, int] = field(default_factory=dict)
    checkpoints: list[tuple[float, float]] = field(default_factory=list)
    events: list[TrainingEvent] = field(default_factory=list)
    done: bool = False
    stuck: str = ""

    def book(self, ideal: float, seconds: float, stretch: float, dimmed: float) -> None:
        """Steps of ``ideal`` seconds took ``seconds``: ``stretch`` times longer for links, ``dimmed`` for clocks."""
        plain = seconds / stretch
        bright = plain / dimmed
        self.useful += ideal
        self.lost["slow"] += max(0.0, bright - ideal)
        self.lost["power"] += plain - bright
        self.lost["network"] += seconds - plain

    @property
    def wall(self) -> float:
        """From the first step to the end [s]."""
        return self.end - self.start

    @property
    def effective_time_ratio(self) -> float:
        """Share of the wall time spent in steps that were kept."""
        return self.useful / self.wall if self.wall > 0 else 1.0

    @property
    def interrupted(self) -> int:
        """Interruptions of all kinds."""
        return sum(self.interruptions.values())
