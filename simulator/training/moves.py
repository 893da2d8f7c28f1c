"""When a job whose nodes are replaced one by one looks for the ways of its messages again."""

from __future__ import annotations

__all__ = ["Moves"]


class Moves:
    """Says when ways have to be found again because nodes of a job were replaced.

    To find them costs as much as the job has nodes: it is done whenever a thirty-second of them have been replaced,
    which is at once for jobs of up to 32 nodes.

    Parameters
    ----------
    nodes
        Of the job.
    """

    def __init__(self, nodes: int) -> None:
        self._nodes, self._since = nodes, 0

    def due(self) -> bool:
        """Another node was replaced: whether the ways are found again now."""
        self._since += 1
        if self._since * 32 < self._nodes:
            return False
        self._since = 0
        return True
