"""Chunks of prompts that follow each other through the stages of a replica whose kernels one thread launches.

The thread launches the kernels of a chunk stage by stage, then those of the next chunk, and runs ahead of the devices.
A device's queue holds so many launches; the thread waits at a full one, and the other devices wait with it: the queue
of CUDA takes about a thousand (forums.developer.nvidia.com/t/68937: the first thousand kernels of a stream launch in 4
to 5 us each, every further one in the time of a kernel; Oneflow-Inc/oneflow pull 890: keep a stream below 1,024, for
beyond it calls block and hold up other streams). Stages with fewer kernels overlap; with more, a chunk enters the first
stage when the last one is all but reached by the chunk before.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["time_through"]


def time_through(seconds: Sequence[Sequence[float]], kernels: Sequence[int], depth: int = 0, chunks: int = 0) -> float:
    """Time until every chunk is through all stages [s].

    Parameters
    ----------
    seconds
        Of every chunk in every stage [s]. Kernels of a stage take equal shares of it; launching takes no time.
    kernels
        Launched for a chunk in every stage.
    depth
        Launches that a stage's queue holds; 0: any number.
    chunks
        That have buffers for their inputs in a stage: the thread waits for the oldest before it launches one more; 0:
        any number.
    """
    stages = [_Stage(count, depth) for count in kernels]
    thread = done = 0.0
    for times in seconds:
        done = 0.0
        for stage, duration in zip(stages, times, strict=True):
            thread = max(thread, stage.released(chunks))
            done = stage.run(max(thread, done), duration)
            thread = max(thread, stage.accepted())
    return done


class _Stage:
    """A stage's device: when its chunks start and end, and when its queue takes launches."""

    def __init__(self, kernels: int, depth: int) -> None:
        self.kernels, self.depth = kernels, depth
        self.starts, self.ends = list[float](), list[float]()

    def run(self, ready: float, duration: float) -> float:
        """End of the next chunk, whose input and first launch are there at ``ready``."""
        start = max(ready, self.ends[-1]) if self.ends else ready
        self.starts.append(start)
        self.ends.append(start + duration)
        return self.ends[-1]

    def released(self, chunks: int) -> float:
        """When the buffers of one more chunk are free."""
        return self.ends[-chunks] if 0 < chunks <= len(self.ends) else 0.0

    def accepted(self) -> float:
        """When the last launch so far entered the queue: as soon as ``depth`` before it no kernel was left."""
        ahead = self.kernels * len(self.ends) - self.depth
        if not self.depth or ahead <= 0:
            return 0.0
        chunk, rest = divmod(ahead, self.kernels)
        if not rest:
            return self.ends[chunk - 1]
        return self.starts[chunk] + rest / self.kernels * (self.ends[chunk] - self.starts[chunk])
