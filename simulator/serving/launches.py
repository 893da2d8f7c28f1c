"""How launches on the host and kernels on the device share the time of an iteration that no CUDA graph replays.

The host launches kernel after kernel and runs ahead of the device as long as it is the faster one, so that the longer
of the two is what an iteration takes. It is not ahead all the time: an iteration begins with an idle device, and
collectives join two streams and wait for the slowest of the ranks, each with a host of its own. Of the shorter of the
two a share stays exposed. Either way the time is affine in that of the kernels, which lets a replica jump.
"""

from __future__ import annotations

__all__ = ["beside", "decodes_beside"]


def beside(kernels: float, launches: float, exposed: float) -> float:
    """Time of kernels that are launched meanwhile [s].

    Parameters
    ----------
    kernels, launches
        Time of either without the other [s].
    exposed
        Share of the shorter one that does not pass under the longer, 0..1.
    """
    return max(kernels, launches) + exposed * min(kernels, launches)


def decodes_beside(
    kernels: float, slope: float, valid: int, launches: float, exposed: float
) -> tuple[float, float, int]:
    """The same of iterations whose kernels take ``slope`` longer each time, for ``valid`` of them.

    Returns
    -------
    tuple
        Time of the first [s], what each adds [s], and for how many iterations that holds.
    """
    if kernels >= launches:
        return kernels + exposed * launches, slope, valid
    if slope > 0:
        valid = min(valid, max(1, int(min((launches - kernels) / slope, 1e15)) + 1))
    return launches + exposed * kernels, exposed * slope, valid
