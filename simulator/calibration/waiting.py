"""How long this process was kept waiting for a processor: what a repeat on a shared machine must not count.

Linux writes for every thread how long it was ready to run and did not (``/proc/PID/task/TID/schedstat``, second figure,
nanoseconds: Documentation/scheduler/sched-stats.rst), and for the machine how long its host ran others instead
(``steal`` in ``/proc/stat``, proc(5)). Where there is neither, nothing is known and 0 is said.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

__all__ = ["Waiting"]

_TASKS = Path("/proc/self/task")
_STAT = Path("/proc/stat")
STEAL_FIELD = 8
LONG = 10e-3
"""Calls from here on [s] also count stolen time, which is written in ticks of that length."""


class Waiting:
    """Reads, in a few microseconds, the waiting of all threads that exist when it is opened.

    Parameters
    ----------
    length
        About how long the calls to be watched take [s].
    watch
        False where the clock counts no waiting either: then it is always 0.
    """

    def __init__(self, length: float = 0.0, watch: bool = True) -> None:
        self._steals = watch and length >= LONG and _STAT.is_file()
        self._tick = 1.0 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
        self._files: list[int] = []
        for task in _TASKS.iterdir() if watch and _TASKS.is_dir() else ():
            try:
                self._files.append(os.open(task / "schedstat", os.O_RDONLY))
            except OSError:  # the thread has ended, or the kernel counts nothing
                continue

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in self._files:
            os.close(file)
        self._files = []

    def seconds(self) -> float:
        """Seconds waited so far, all threads together."""
        return sum(self._of(file) for file in self._files) + (self._stolen() if self._steals else 0.0)

    def _of(self, file: int) -> float:
        try:
            return int(os.pread(file, 64, 0).split()[1]) * 1e-9
        except (OSError, IndexError, ValueError):
            return 0.0

    def _stolen(self) -> float:
        fields = _STAT.open(encoding="ascii").readline().split()
        return int(fields[STEAL_FIELD]) * self._tick if len(fields) > STEAL_FIELD else 0.0
