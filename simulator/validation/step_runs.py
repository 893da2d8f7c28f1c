"""Measured steps replayed: our pipeline executor under the measured seconds of every operation.

The order of the tasks, who waits for whom and what follows the pipeline are ours; only the seconds are the trace's. A
measured transfer or collective includes waiting for its peers, so its own seconds are the least among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.registry import lookup
from simulator.training.pipeline import PipelineCosts, run_schedule
from simulator.validation.cases import Subject
from simulator.validation.read_steps import read_columns

__all__ = ["replay_step", "run_slow_down", "run_step"]

Floats = NDArray[np.float64]

TAIL = (
    ("layernorm-grads-all-reduce", ""), ("embedding-grads-all-reduce", "stages"), ("grads-reduce-scatter", "replicas"),
    ("optimizer-clip-main-grad", "all"), ("optimizer", ""),
)  # fmt: skip
"""What follows the last backward, in order, and who takes part: nobody else, the ends of the pipeline (tied
embeddings), the same stage of all replicas, everybody (the norm of all gradients)."""

HEAD = "params-all-gather"


class _Step:
    """One step of a trace as tables [replica, stage] or [replica, stage, micro-batch]; NaN where there is no op."""

    def __init__(self, columns: Mapping[str, NDArray[Any]], step: int, even: Mapping[str, float] | None = None) -> None:
        self._even = even or {}
        chosen = columns["step"] == step
        self._columns = {name: values[chosen] for name, values in columns.items()}
        self.replicas = int(self._columns["dp_rank"].max()) + 1
        self.stages = int(self._columns["stage"].max()) + 1

    def table(self, kind: str) -> Floats:
        """Seconds of the operations of one kind [replica, stage, number in the step]."""
        chosen = self._columns["optype"] == kind
        number = self._columns["mb_id" if kind.endswith("compute") else "seq_id"][chosen]
        count = int(number.max(initial=0)) + 1
        found = np.full((self.replicas, self.stages, count), np.nan)
        place = self._columns["dp_rank"][chosen], self._columns["stage"][chosen], number
        found[place] = self._even.get(kind, self._columns["duration"][chosen])
        return found


@lru_cache(4)
def _steps(trace: str) -> dict[int, _Step]:
    columns = read_columns(trace)
    return {int(step): _Step(columns, int(step)) for step in np.unique(columns["step"])}


@lru_cache(4)
def _even_step(trace: str) -> _Step:
    """A step without stragglers: every computation takes the mean of all ranks, micro-batches and steps.

    Whatever waits for peers takes what the quickest takes, mean over the steps: behind a straggler all others wait.
    """
    columns = read_columns(trace)
    transfers = {f"{way}-{side}" for way in ("forward", "backward") for side in ("send", "recv")}
    waiting = {HEAD, *transfers, *(kind for kind, peers in TAIL if peers)}
    even: dict[str, float] = {}
    for kind in np.unique(columns["optype"]):
        mine = columns["optype"] == kind
        seconds, steps = columns["duration"][mine], columns["step"][mine]
        if kind in waiting:
            even[str(kind)] = float(np.mean([seconds[steps == step].min() for step in np.unique(steps)]))
        else:
            even[str(kind)] = float(seconds.mean())
    return _Step(columns, int(columns["step"][0]), even)


def replay_step(trace: str, number: int) -> float:
    """Length of step ``number`` of a trace [s]; operations follow each other at once, so launch gaps are left out."""
    return _length(_steps(trace)[number])


def _length(step: _Step) -> float:
    done = _pipeline_ends(step, np.nanmin(step.table(HEAD)[..., 0], axis=0))
    for kind, peers in TAIL:
        seconds = step.table(kind)[..., 0]
        taking_part = ~np.isnan(seconds)
        ready = np.where(taking_part, done, -np.inf)
        axes = {"": (), "stages": (1,), "replicas": (0,), "all": (0, 1)}[peers]
        start = ready.max(axis=axes, keepdims=True) if peers else ready
        own = np.nanmin(seconds, axis=axes, keepdims=True) if peers else seconds
        done = np.where(taking_part, start + own, done)
    return float(done.max())


def _pipeline_ends(step: _Step, ready: Floats) -> Floats:
    """When each rank has sent its last gradient [replica, stage]; ``ready``: its parameters are there [stage]."""
    forward, backward = step.table("forward-compute"), step.table("backward-compute")
    transfer = np.zeros(step.replicas)
    if step.stages > 1:
        sent, received = step.table("forward-send")[:, :-1], step.table("forward-recv")[:, 1:]
        transfer = np.median(np.fmin(sent, received), axis=(1, 2))
    schedule: Any = lookup("pipeline", "1f1b")()
    ends = np.zeros((step.replicas, step.stages))
    for replica in range(step.replicas):
        costs = PipelineCosts(forward[replica], backward[replica], p2p=float(transfer[replica]), overlap_p2p=False)
        timeline = run_schedule(schedule, costs, step.stages, forward.shape[2])
        compute = np.array([timeline.rank_tasks(rank)["end"].max() for rank in range(step.stages)])
        ends[replica] = compute + np.where(np.arange(step.stages) > 0, transfer[replica], 0.0)
    whole: Floats = ends + ready[0]
    return whole


def run_step(subject: Subject) -> tuple[dict[str, float], str]:
    """Seconds of one measured step, for both figures that were published of it."""
    seconds = replay_step(str(subject.setting("trace")), int(str(subject.setting("step"))))
    return {"operations": seconds, "step": seconds}, ""


def run_slow_down(subject: Subject) -> tuple[dict[str, float], str]:
    """Mean length of the measured steps over that of a step without stragglers: equal times on all ranks."""
    trace = str(subject.setting("trace"))
    lengths = [_length(step) for step in _steps(trace).values()]
    return {"slow_down": float(np.mean(lengths)) / _length(_even_step(trace))}, ""
