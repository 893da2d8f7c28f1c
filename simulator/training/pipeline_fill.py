"""Extra work placed into the bubbles of a pipeline run: second-order updates, re-computation, redundant stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.training.pipeline_timeline import PipelineTimeline

__all__ = ["FillJob", "FilledBubbles", "fill_bubbles"]


@dataclass(frozen=True)
class FillJob:
    """Work for the idle time of one rank: it cannot be split.

    Attributes
    ----------
    rank
        Where it must run.
    seconds
        How long it takes [s].
    ready
        Time its input exists [s].
    deadline
        Latest end [s]; by default the end of the step.
    """

    rank: int
    seconds: float
    ready: float = 0.0
    deadline: float = float("inf")


@dataclass(frozen=True, eq=False)
class FilledBubbles:
    """Where the jobs went.

    Attributes
    ----------
    start
        Start of every job [s]; NaN: no bubble took it in this step, it waits for the next [job].
    filled
        Seconds of bubbles used [rank].
    utilisation
        Busy share of all ranks' time, pipeline and jobs together.
    """

    start: NDArray[np.float64]
    filled: NDArray[np.float64]
    utilisation: float


def fill_bubbles(timeline: PipelineTimeline, jobs: Sequence[FillJob]) -> FilledBubbles:
    """Place jobs into idle slots, by deadline, then by the time they are ready, each into the first slot that fits.

    The pipeline's own tasks do not move, so the step takes as long as before.
    """
    start = np.full(len(jobs), np.nan)
    filled = np.zeros(timeline.program.ranks)
    gaps = [_gaps(timeline, rank) for rank in range(timeline.program.ranks)]
    for index in sorted(range(len(jobs)), key=lambda k: (jobs[k].deadline, jobs[k].ready)):
        job = jobs[index]
        mine = gaps[job.rank]
        for slot, (begin, end) in enumerate(mine):
            at = max(begin, job.ready)
            if at + job.seconds <= min(end, job.deadline):
                mine[slot : slot + 1] = [gap for gap in ((begin, at), (at + job.seconds, end)) if gap[1] > gap[0]]
                start[index] = at
                filled[job.rank] += job.seconds
                break
    busy = timeline.busy.sum() + filled.sum()
    return FilledBubbles(start, filled, float(busy / (timeline.makespan * timeline.program.ranks)))


def _gaps(timeline: PipelineTimeline, rank: int) -> list[tuple[float, float]]:
    """Idle intervals of a rank within the step."""
    program = timeline.program
    tasks = np.flatnonzero((program.rank == rank) & ~program.detached)
    ends = np.concatenate(([float(timeline.start.min())], np.maximum.accumulate(timeline.end[tasks])))
    starts = np.concatenate((timeline.start[tasks], [float(timeline.end.max())]))
    return [(float(end), float(begin)) for end, begin in zip(ends, starts, strict=True) if begin > end]
