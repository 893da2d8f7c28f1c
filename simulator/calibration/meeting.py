"""Ranks that start each kernel together, as the ranks of a parallel model do.

While one rank puts its caches into the state of a model it moves nothing but memory; a kernel that another rank times
in that moment would share the memory with more traffic than it meets in a model, where both run the same kernel.
"""

from __future__ import annotations

import mmap
import time
from pathlib import Path
from types import TracebackType

__all__ = ["Meeting"]

WIDTH = 8
PATIENCE = 0.02
"""Seconds that a rank waits for the others: longer than any of them prepares, not than it takes to make tensors."""


class Meeting:
    """Counters of arrivals, one per rank, in a file that all ranks map.

    A rank that does not come in time is not waited for; it goes on at once when it does, until it has caught up.
    """

    def __init__(self, file: Path, rank: int, ranks: int) -> None:
        self._rank, self._ranks, self._count = rank, ranks, 0
        with file.open("r+b") as handle:
            self._map = mmap.mmap(handle.fileno(), WIDTH * ranks)

    @staticmethod
    def prepared(file: Path, ranks: int) -> Path:
        """Write the file with all counters at 0."""
        file.write_bytes(bytes(WIDTH * ranks))
        return file

    def __enter__(self) -> Meeting:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._map.close()

    def meet(self) -> bool:
        """Wait until all ranks have come as often as this one; False if one did not in time."""
        self._count += 1
        start = WIDTH * self._rank
        self._map[start : start + WIDTH] = self._count.to_bytes(WIDTH, "little")
        until = time.perf_counter() + PATIENCE
        while any(self._of(rank) < self._count for rank in range(self._ranks)):
            if time.perf_counter() > until:
                return False
        return True

    def _of(self, rank: int) -> int:
        return int.from_bytes(self._map[WIDTH * rank : WIDTH * (rank + 1)], "little")
