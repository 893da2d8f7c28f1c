"""Jobs that arrive at a cluster, and readers of published traces of them."""

from __future__ import annotations

import csv
import gzip
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError

__all__ = ["JobTable", "read_jobs"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class JobTable:
    """Jobs by time of submission.

    Attributes
    ----------
    submit
        [s] from the start of the table.
    run
        Time on the accelerators [s].
    gpus
        Accelerators, all at once.
    tenant, tenants
        Number of the virtual cluster or user, and the names.
    priority
        Higher first.
    kind
        ``pretrain``, ``eval`` ...; ``""`` where the source does not say.
    read, dropped
        Rows of the source, and how many were left out by reason.
    deadline
        When a job should have ended [s], infinite for none; empty: no job has one.
    """

    submit: Floats
    run: Floats
    gpus: Ints
    tenant: Ints
    tenants: tuple[str, ...] = ("",)
    priority: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    kind: Sequence[str] = ()
    read: int = 0
    dropped: tuple[tuple[str, int], ...] = ()
    deadline: Floats = field(default_factory=lambda: np.zeros(0))

    def __len__(self) -> int:
        return len(self.submit)

    def head(self, count: int) -> JobTable:
        """The first ``count`` jobs."""
        c = slice(count)
        return JobTable(
            self.submit[c], self.run[c], self.gpus[c], self.tenant[c], self.tenants, self.priority[c], self.kind[c],
            self.read, self.dropped, self.deadline[c],
        )  # fmt: skip

    def load(self, accelerators: int) -> float:
        """Accelerator-seconds asked for over those that a cluster of this size has until the last submission."""
        return float((self.run * self.gpus).sum() / (accelerators * self.submit[-1]))


Row = tuple[float, float, int, str, int, str]
"""Submission [s of any epoch], run time [s], accelerators, tenant, priority, kind."""


def read_jobs(path: str | Path, *, skip_bad_rows: bool = False) -> JobTable:
    """Jobs of a published trace, plain or gzipped; the format is told by its header.

    - Philly as used by Sia: ``timestamp, duration, num_gpus, cluster``; the virtual cluster is the tenant.
    - Alibaba's GPU cluster of 2023 (openb pods): ``num_gpu, creation_time, deletion_time, scheduled_time, qos``.
      A part of a GPU takes a whole one; the service class is the tenant.
    - Alibaba's recommendation models of 2025: ``gpu_request, creation_time, scheduled_time, deletion_time, app_name``.
    - Acme: ``gpu_num, submit_time, duration, user, type``.

    Run times are service times, whatever the jobs waited there. Jobs without accelerators and those whose begin or end
    the trace does not show are left out and counted.

    Raises
    ------
    ConfigError
        If the file is missing, lacks columns, or holds a bad row and these are not skipped.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"there is no job trace '{path}'")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        given = set(rows.fieldnames or ())
        read = next((read for needed, read in _FORMATS if needed <= given), None)
        if read is None:
            near = min(_FORMATS, key=lambda f: len(f[0] - given))[0] - given
            raise ConfigError(f"'{path}' is no job trace: columns {', '.join(sorted(near))} are missing")
        found, bad, dropped = list[Row](), list[str](), Counter[str]()
        for number, row in enumerate(rows, start=2):
            try:
                job = read(row)
                if isinstance(job, str):
                    dropped[job] += 1
                    continue
                if not (0 < job[1] < math.inf and job[2] >= 1):
                    raise ValueError(f"duration {job[1]}, num_gpus {job[2]}")
            except ValueError as error:
                bad.append(f"line {number}: {error}")
                continue
            found.append(job)
    if bad and not skip_bad_rows:
        raise ConfigError(f"'{path}' has {len(bad)} bad rows, the first at {bad[0]}: repair or skip them")
    if not found:
        raise ConfigError(f"'{path}' holds no job")
    dropped |= Counter({"bad row": len(bad)} if bad else {})
    return _table(found, tuple(sorted(dropped.items())))


def _table(found: list[Row], dropped: tuple[tuple[str, int], ...]) -> JobTable:
    found.sort()
    names = tuple(dict.fromkeys(row[3] for row in found))
    number_of = {name: i for i, name in enumerate(names)}
    submit = np.array([row[0] for row in found])
    return JobTable(
        submit - submit[0], np.array([row[1] for row in found]), np.array([row[2] for row in found], np.int64),
        np.array([number_of[row[3]] for row in found], np.int64), names,
        np.array([row[4] for row in found], np.int64), [row[5] for row in found],
        len(found) + sum(count for _, count in dropped), dropped,
    )  # fmt: skip


def _philly(row: Mapping[str, str]) -> Row | str:
    return (_moment(row["timestamp"]), float(row["duration"]), int(row["num_gpus"]), row["cluster"], 0, "")


def _acme(row: Mapping[str, str]) -> Row | str:
    gpus, seconds = int(float(row["gpu_num"])), float(row["duration"])
    if not gpus:
        return "no accelerators"
    return (_moment(row["submit_time"]), seconds, gpus, row["user"], 0, row["type"].lower()) if seconds else "never ran"


def _alibaba_pods(row: Mapping[str, str]) -> Row | str:
    gpus = int(row["num_gpu"])
    return _interval(row, gpus, row["qos"], row["scheduled_time"], row["deletion_time"])


def _alibaba_models(row: Mapping[str, str]) -> Row | str:
    gpus = int(float(row["gpu_request"] or 0))
    return _interval(row, gpus, row["app_name"], row["scheduled_time"], row["deletion_time"])


def _interval(row: Mapping[str, str], gpus: int, tenant: str, begin: str, end: str) -> Row | str:
    if not gpus:
        return "no accelerators"
    if not (begin and end and row["creation_time"]):
        return "begin or end outside the trace"
    if float(end) <= float(begin):
        return "never ran"
    return (float(row["creation_time"]), float(end) - float(begin), gpus, tenant, 0, "")


def _moment(text: str) -> float:
    """Seconds of a calendar without time zones."""
    return (datetime.fromisoformat(text).replace(tzinfo=None) - datetime(2017, 1, 1)).total_seconds()


_FORMATS: tuple[tuple[set[str], Callable[[Mapping[str, str]], Row | str]], ...] = (
    ({"timestamp", "duration", "num_gpus", "cluster"}, _philly),
    ({"gpu_num", "submit_time", "duration", "user", "type"}, _acme),
    ({"num_gpu", "creation_time", "deletion_time", "scheduled_time", "qos"}, _alibaba_pods),
    ({"gpu_request", "creation_time", "deletion_time", "scheduled_time", "app_name"}, _alibaba_models),
)
"""Columns that tell a format → its reader of one row; a text says why a row is no job."""
