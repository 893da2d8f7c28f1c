"""The text that nccl-tests prints, in the forms of its versions.

A row is size, count, type, perhaps the reduction and the root, then time [us], two bandwidths and the errors, out of
place and in place. All-gather has neither reduction nor root before version 2.13, broadcast a root alone; the errors
are ``0e+00``, a count, or ``N/A`` where nothing was checked; times of ten milliseconds and more have no decimals.
"""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass

from simulator.errors import ConfigError

__all__ = ["CollectiveTest", "operation_of", "read_nccl_tests"]

_TOOLS = {
    "all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all", "sendrecv": "send_recv", "broadcast": "broadcast",
}  # fmt: skip

_TAG = re.compile(r"^\s*\[\d+,\d+\]<std\w+>:\s?")
"""What ``mpirun --tag-output`` puts before every line."""

_MEASURED = 4
"""Columns out of place: time, algorithm and bus bandwidth, errors; the same follow in place."""


@dataclass(frozen=True)
class CollectiveTest:
    """One run of nccl-tests: operation, ranks, and (buffer bytes, seconds) out of place."""

    operation: str
    ranks: int
    points: tuple[tuple[float, float], ...]


def read_nccl_tests(text: str, operation: str = "") -> CollectiveTest:
    """The table that ``all_reduce_perf`` and its siblings print; of a size that was run again, the median.

    Parameters
    ----------
    operation
        Where the text does not name the tool.

    Raises
    ------
    ConfigError
        If there is no table, the operation is not named, or every process ran alone.
    """
    lines = [_TAG.sub("", line) for line in text.splitlines()]
    times: dict[float, list[float]] = {}
    column = 0
    for line in lines:
        words = re.sub(
            r"\(.*?\)", " ", line.replace("#", " # ")
        ).split()  # the tool of AWS Neuron prints size(B), time(us)
        if "size" in words and "time" in words:
            column = words.index("time") - words.index("size")
        elif (point := _point(line.split(), column)) is not None:
            times.setdefault(point[0], []).append(point[1])
    if not times:
        raise ConfigError("no timings found: give the text that nccl-tests prints (size, count, type, ..., time)")
    found = operation or next((name for tool, name in _TOOLS.items() if f"{tool}_perf" in text), "")
    if not found:
        raise ConfigError("the text does not name its tool (all_reduce_perf ...): say so in the name of the file")
    named = [int(n) for line in lines for n in re.findall(r"^[#\s]*Rank\s+(\d+)\s+(?:Group|Pid)", line)]
    if len(named) > 1 and set(named) == {0}:
        raise ConfigError("every process ran alone, as rank 0: build nccl-tests with MPI=1 and measure again")
    points = tuple((size, statistics.median(seconds)) for size, seconds in sorted(times.items()))
    return CollectiveTest(found, len(set(named)), points)


def operation_of(name: str) -> str:
    """The operation that a file's name says (``all_reduce-8gpu``, ``reduce-scatter``); empty if none."""
    plain = re.sub(r"[^a-z]", "", name.lower())
    return next((operation for tool, operation in _TOOLS.items() if tool.replace("_", "") in plain), "")


def _point(words: list[str], column: int) -> tuple[float, float] | None:
    """Bytes and seconds of a row, ``None`` for any other line."""
    if len(words) < 3 + _MEASURED - 1 or not words[0].isdigit() or not words[1].isdigit() or words[2][0].isdigit():
        return None
    if not column:  # the header was cut off: the columns after the type are counted from the end
        column = len(words) - (2 * _MEASURED if len(words) >= 3 + 2 * _MEASURED else _MEASURED)
    try:
        size, seconds = float(words[0]), float(words[column]) * 1e-6
    except (ValueError, IndexError):
        return None
    return (size, seconds) if size > 0 and seconds > 0 else None
