"""The seams of the cluster floor: how a job survives failures, who runs next, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from simulator.workload.plan import Plan

__all__ = ["JobFacts", "Protection", "Recovery", "Restoration"]


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

    def stage_of(self, position: int) -> int:
        """Pipeline stage that the ranks of the node at ``position`` begin in."""
        return position * self.per_node * self.plan.pipeline_parallel // self.plan.accelerators


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
