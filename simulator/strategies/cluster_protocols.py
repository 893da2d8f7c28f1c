"""The seams of the cluster floor: how a job survives failures, who runs next, and where."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from simulator.workload.goodput import Goodput
    from simulator.workload.plan import Plan

__all__ = [
    "ElasticQueue", "JobFacts", "JobQueue", "MigratingPlacement", "NodePlacement", "Protection", "QueueView",
    "QueuedJob", "Recovery", "Restoration", "SwitchedPlacement",
]  # fmt: skip


@dataclass(frozen=True)
class JobFacts:
    """What a recovery strategy may know of a training job.

    Attributes
    ----------
    nodes, per_node
        Nodes of the job and accelerators in each; nodes are numbered in rank order (tensor parallel ranks innermost,
        pipeline stages outermost).
    step
        Time of a step without any protection [s].
    state
        Bytes of one whole checkpoint [B].
    plan
        Layout.
    layers
        Of the model: the limit of pipeline stages.
    bubble
        Share of a step in which a pipeline rank is idle.
    scale_out_time
        Time per step in which a node's network ports are in use [s].
    network
        Ports of one node together [B/s per direction].
    host_link
        Between one accelerator and its host's memory [B/s per direction].
    """

    nodes: int
    per_node: int
    step: float
    state: float
    plan: Plan
    layers: int
    bubble: float = 0.0
    scale_out_time: float = 0.0
    network: float = float("inf")
    host_link: float = float("inf")

    @property
    def accelerators_per_replica(self) -> int:
        """Of one copy of the model."""
        return self.plan.accelerators // self.plan.data_parallel


@dataclass(frozen=True)
class Protection:
    """What being prepared costs while nothing fails.

    Attributes
    ----------
    slow_down
        Factor on the step time, at least 1.
    memory_every
        Steps between two copies of the state that survive the loss of a node without storage; 0 = there are none.
    network
        Bytes that each node sends per step for it [B].
    host_memory
        Bytes of each node's host memory it takes [B].
    """

    slow_down: float = 1.0
    memory_every: int = 0
    network: float = 0.0
    host_memory: float = 0.0


@dataclass(frozen=True)
class Restoration:
    """How work goes on after some nodes failed.

    Attributes
    ----------
    back_to
        ``storage``: the last checkpoint there; ``memory``: the last copy in memory; ``step``: the begin of the
        interrupted step.
    waits
        Whether it waits for other nodes in the place of the failed ones.
    starts_again
        Whether every process is started again, or those that are left are only joined anew.
    moves
        Bytes over the network into each replaced (or taken over) node [B], beside a reload from storage.
    local
        Time to read the state back from a node's own memory [s].
    saves_first
        Whether the healthy ranks write a checkpoint to storage before the restart.
    speed
        Share of the full speed with which it goes on until the failed nodes are back.
    """

    back_to: Literal["storage", "memory", "step"]
    waits: bool = True
    starts_again: bool = True
    moves: float = 0.0
    local: float = 0.0
    saves_first: bool = False
    speed: float = 1.0


@runtime_checkable
class Recovery(Protocol):
    """How a training job survives the loss of nodes."""

    name: str

    def check(self, plan: Plan) -> str:
        """Empty, or why it cannot protect this layout and what would."""

    def protect(self, job: JobFacts) -> Protection:
        """The price while nothing fails."""

    def restore(self, job: JobFacts, missing: Sequence[int]) -> Restoration:
        """How work goes on without the nodes at the positions ``missing``, 0 … nodes − 1.

        Empty ``missing``: processes died but every node is there.
        """


# -- who runs next, and where --------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class QueuedJob:
    """A job that waits for accelerators or has them: all of its gang or none.

    Attributes
    ----------
    number
        Row in the job table.
    submit, run
        Time of submission and undisturbed run time on its gang [s].
    gpus
        Accelerators of the gang, now.
    tenant, priority
        Who pays, and how urgent (higher first).
    deadline
        When it should have ended [s]; infinite: never mind.
    asked, scaling
        Accelerators of the job table, for which ``run`` holds, and how fast it goes with others; ``None``: it needs its
        gang as it is.
    estimate
        Run time that the queue is told [s].
    remaining
        Undisturbed run time that is left, as of ``since`` [s].
    attained
        Accelerator-seconds that it has had, as of ``since``.
    since
        When it last started or stopped.
    speed
        Progress per second while it runs, 1 on a good placement.
    nodes
        ``(node, accelerators)`` while it runs.
    first_start, finish, preemptions
        What became of it.
    failures, lost
        Times its nodes failed under it, and accelerator-seconds of work and restarts that cost.
    """

    number: int
    submit: float
    run: float
    gpus: int
    tenant: int = 0
    priority: int = 0
    estimate: float = 0.0
    remaining: float = 0.0
    attained: float = 0.0
    since: float = 0.0
    speed: float = 1.0
    nodes: tuple[tuple[int, int], ...] = ()
    first_start: float = math.nan
    finish: float = math.nan
    preemptions: int = 0
    deadline: float = math.inf
    asked: int = 0
    scaling: Goodput | None = None
    failures: int = 0
    lost: float = 0.0

    def remaining_at(self, now: float) -> float:
        """Undisturbed run time that is left [s]."""
        return self.remaining - (now - self.since) * self.speed if self.nodes else self.remaining

    def attained_at(self, now: float) -> float:
        """Accelerator-seconds so far."""
        return self.attained + (now - self.since) * self.gpus if self.nodes else self.attained

    def expected_end(self, now: float) -> float:
        """When it would end by its estimate, now if that is over [s]."""
        return max(now, now + (self.estimate - (self.run - self.remaining_at(now))) / self.speed)


@dataclass
class QueueView:
    """What a queue policy sees.

    Attributes
    ----------
    now
        [s]
    capacity, free
        Accelerators in all, and free ones.
    per_node
        Accelerators of the largest node.
    running
        Jobs under way.
    used
        Tenant → accelerators.
    earliest
        When a gang will fit where the placement wants it, by the estimates of the running jobs [s].
    """

    now: float
    capacity: int
    free: int
    running: Collection[QueuedJob]
    used: Mapping[int, int]
    earliest: Callable[[QueuedJob], float]
    per_node: int = 1


@runtime_checkable
class JobQueue(Protocol):
    """Order of jobs; gangs are started whole."""

    name: str
    preemptive: bool
    """Whether running jobs may be stopped."""
    dynamic: bool
    """Whether the keys of waiting jobs change while they wait."""
    passing: bool
    """Whether a job ever starts before one that comes first and does not fit."""
    reach: int
    """Waiting jobs that are looked at, from the first on."""

    def key(self, job: QueuedJob, view: QueueView) -> tuple[float, ...]:
        """Smaller runs first."""

    def admits(self, job: QueuedJob, view: QueueView) -> bool:
        """Whether limits other than free accelerators let it start."""

    def passes(self, job: QueuedJob, blocked: QueuedJob, view: QueueView) -> bool:
        """Whether it may start (it fits) although ``blocked``, which comes first, cannot."""

    def next_change(self, job: QueuedJob, now: float) -> float:
        """When the key of a running job changes so that the order must be looked at again [s]."""


@runtime_checkable
class ElasticQueue(JobQueue, Protocol):
    """A queue that also says how many accelerators every job has, running ones included."""

    interval: float
    """Least time between two allocations [s]."""

    def allocate(self, jobs: Sequence[QueuedJob], room: int, view: QueueView) -> Mapping[int, int]:
        """Job number → accelerators, at most ``room`` together; a job that is left out has none.

        ``jobs`` are all that wait or run and share ``room``, by submission.
        """


@runtime_checkable
class NodePlacement(Protocol):
    """Nodes of a gang."""

    name: str

    def place(
        self, gpus: int, free: NDArray[np.int64], size: NDArray[np.int64], group: NDArray[np.int64]
    ) -> tuple[tuple[int, int], ...] | None:
        """``(node, accelerators)`` of a gang, or ``None`` when it does not fit as the policy wants it.

        Parameters
        ----------
        free, size
            Free accelerators and all accelerators of each node.
        group
            Leaf switch (or rack) of each node.
        """


@runtime_checkable
class SwitchedPlacement(NodePlacement, Protocol):
    """A placement of whole groups of nodes that switches join for each gang: leftovers of groups serve small gangs."""

    def setup(self, place: Sequence[tuple[int, int]], group: NDArray[np.int64]) -> float:
        """From the begin of a gang on its nodes until these are joined [s]."""


@runtime_checkable
class MigratingPlacement(NodePlacement, Protocol):
    """A placement that moves running gangs so that another one fits."""

    def make_room(
        self,
        gpus: int,
        free: NDArray[np.int64],
        size: NDArray[np.int64],
        group: NDArray[np.int64],
        running: Sequence[QueuedJob],
    ) -> Mapping[int, tuple[tuple[int, int], ...]]:
        """Job number → new place of gangs that move; empty when no moves within its limits make room.

        After the moves :meth:`place` finds a place for a gang of ``gpus``.
        """
