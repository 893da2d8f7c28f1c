"""Orders of pipeline tasks as flat arrays: what schedules make and the executor reads.

A list of :class:`Action` per rank is easy to read but slow to build for 10⁵ tasks; :class:`TaskOrder` holds the
same order in numpy arrays and turns a rank into a list of Actions when somebody looks at it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from simulator.strategies.protocols import Action, ActionKind

__all__ = ["KINDS", "TaskOrder", "loop_placement", "v_placement", "warmup_order"]

KINDS: tuple[ActionKind, ...] = tuple(ActionKind)
"""Kinds by their code in :attr:`TaskOrder.kind`."""

F, BW, B, W, EVICT, LOAD, R = range(7)
_CODE = {kind: code for code, kind in enumerate(KINDS)}


@dataclass(frozen=True, eq=False)
class TaskOrder(Sequence[Sequence[Action]]):
    """The tasks of all ranks, rank after rank, each in execution order.

    Attributes
    ----------
    kind, microbatch, chunk
        Task fields [task]; ``kind`` is an index into :data:`KINDS`.
    offsets
        Rank r holds the tasks ``offsets[r] : offsets[r + 1]`` [ranks + 1].
    with_next
        Tasks that run mutually overlapped with their successor [task].
    """

    kind: NDArray[np.int64]
    microbatch: NDArray[np.int64]
    chunk: NDArray[np.int64]
    offsets: NDArray[np.int64]
    with_next: NDArray[np.bool_]

    @staticmethod
    def of(orders: Sequence[Sequence[Action]]) -> TaskOrder:
        """The same order as arrays."""
        if isinstance(orders, TaskOrder):
            return orders
        flat = [(_CODE[a.kind], a.microbatch, a.chunk, a.with_next) for tasks in orders for a in tasks]
        table = np.array(flat, dtype=np.int64).reshape(-1, 4)
        offsets = np.concatenate(([0], np.cumsum([len(tasks) for tasks in orders], dtype=np.int64)))
        return TaskOrder(table[:, 0], table[:, 1], table[:, 2], offsets, table[:, 3].astype(bool))

    @staticmethod
    def grid(kind: NDArray[np.int64], microbatch: NDArray[np.int64], chunk: NDArray[np.int64]) -> TaskOrder:
        """An order from arrays [rank, position]: every rank has as many tasks."""
        ranks, count = kind.shape
        offsets = np.arange(ranks + 1, dtype=np.int64) * count
        return TaskOrder(kind.ravel(), microbatch.ravel(), chunk.ravel(), offsets, np.zeros(kind.size, dtype=bool))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, rank: int) -> list[Action]: ...
    @overload
    def __getitem__(self, rank: slice) -> list[list[Action]]: ...
    def __getitem__(self, rank: int | slice) -> list[Action] | list[list[Action]]:
        if isinstance(rank, slice):
            return [self[r] for r in range(*rank.indices(len(self)))]
        if not -len(self) <= rank < len(self):
            raise IndexError(rank)
        rank %= len(self)
        part = slice(int(self.offsets[rank]), int(self.offsets[rank + 1]))
        columns: Iterable[tuple[int, int, int, bool]] = zip(
            self.kind[part].tolist(),
            self.microbatch[part].tolist(),
            self.chunk[part].tolist(),
            self.with_next[part].tolist(),
            strict=True,
        )
        return [Action(KINDS[k], m, c, w) for k, m, c, w in columns]


def loop_placement(rank: int, chunk: int, ranks: int, chunks: int) -> int:
    """Chunk c of rank r holds part c·p + r: the model loops over the ranks."""
    return chunk * ranks + rank


def v_placement(rank: int, chunk: int, ranks: int, chunks: int) -> int:
    """Even chunks run down the ranks, odd chunks back up: neighbours at the folds share a rank."""
    return chunk * ranks + (rank if chunk % 2 == 0 else ranks - 1 - rank)


def warmup_order(
    warmup: NDArray[np.int64],
    total: int,
    forward: Callable[[NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[np.int64]]],
    backward: Callable[[NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> TaskOrder:
    """``warmup[r]`` forwards, then one forward and one backward in turn, then the backwards that are left.

    Parameters
    ----------
    warmup
        Forwards before the first forward-backward pair [rank], each <= ``total``.
    total
        Forwards (and backwards) of a rank.
    forward, backward
        k-th forward or backward of a rank → (micro-batch, chunk), elementwise.
    """
    position = np.arange(2 * total, dtype=np.int64)[None, :]
    w = np.minimum(warmup, total).astype(np.int64)[:, None]
    steady, tail = (position >= w) & (position < 2 * total - w), position >= 2 * total - w
    is_backward = tail | (steady & ((position - w) % 2 == 1))
    pair = (position - w) // 2
    k_forward = np.where(steady, w + pair, np.minimum(position, total - 1))
    k_backward = np.where(steady, pair, position - total)
    fm, fc = forward(k_forward)
    bm, bc = backward(k_backward)
    return TaskOrder.grid(np.where(is_backward, BW, F), np.where(is_backward, bm, fm), np.where(is_backward, bc, fc))
