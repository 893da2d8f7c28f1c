"""Jobs that arrive at a cluster: read from a published trace, or drawn from the published mix of an LLM cluster."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ConfigError

__all__ = ["JobTable", "llm_mix", "read_jobs"]

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


def read_jobs(path: str | Path, *, skip_bad_rows: bool = False) -> JobTable:
    """Jobs of the Philly trace as used by Sia: ``timestamp, duration, num_gpus, gpu_time, cluster``.

    The virtual cluster is the tenant. Durations are service times: the trace has no queues, states or placements.

    Raises
    ------
    ConfigError
        If the file is missing, lacks a column, or holds a bad row and these are not skipped.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"there is no job trace '{path}'")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        missing = {"timestamp", "duration", "num_gpus", "cluster"} - set(rows.fieldnames or ())
        if missing:
            raise ConfigError(f"'{path}' is no job trace: columns {', '.join(sorted(missing))} are missing")
        found, bad = [], list[str]()
        for number, row in enumerate(rows, start=2):
            try:
                begin = (datetime.fromisoformat(row["timestamp"]) - datetime(2017, 1, 1)).total_seconds()
                seconds, gpus = float(row["duration"]), int(row["num_gpus"])
                if not (0 < seconds < math.inf and gpus >= 1):
                    raise ValueError(f"duration {seconds}, num_gpus {gpus}")
            except ValueError as error:
                bad.append(f"line {number}: {error}")
                continue
            found.append((begin, seconds, gpus, row["cluster"]))
    if bad and not skip_bad_rows:
        raise ConfigError(f"'{path}' has {len(bad)} bad rows, the first at {bad[0]}: repair or skip them")
    if not found:
        raise ConfigError(f"'{path}' holds no job")
    found.sort()
    names = tuple(dict.fromkeys(f[3] for f in found))
    number_of = {name: i for i, name in enumerate(names)}
    submit = np.array([f[0] for f in found])
    return JobTable(
        submit - submit[0],
        np.array([f[1] for f in found]),
        np.array([f[2] for f in found], np.int64),
        np.array([number_of[f[3]] for f in found], np.int64),
        names,
        np.zeros(len(found), np.int64),
        [""] * len(found),
        len(found) + len(bad),
        (("bad row", len(bad)),) if bad else (),
    )


@dataclass(frozen=True)
class _Kind:
    """Share of jobs, sizes at the lower quartile, median and upper quartile, and a lognormal run time."""

    share: float
    sizes: tuple[int, int, int]
    median: float
    sigma: float
    priority: int


_MIX = {
    "eval": _Kind(64.9, (1, 1, 4), 120.0, 1.2, 0),
    "pretrain": _Kind(0.9, (64, 128, 256), 300.0, 2.9, 2),
    "sft": _Kind(14.9, (2, 8, 8), 200.0, 1.9, 1),
    "mllm": _Kind(2.9, (1, 2, 8), 400.0, 2.2, 1),
    "debug": _Kind(1.9, (8, 8, 8), 300.0, 1.6, 0),
    "other": _Kind(14.6, (1, 1, 8), 100.0, 1.9, 0),
}
"""Acme Seren (NSDI 2024): shares and quartiles of sizes as published; pre-training has 47 % of its jobs below 256 s
and 5.7 % above 65,536 s, which a lognormal law of median 300 s and sigma 2.9 approaches. The other run times are
assumptions of the same order as the published median of all jobs, 122 s."""


def llm_mix(count: int, rate: float, seed: int = 0, largest: int | None = None) -> JobTable:
    """Jobs like those of an LLM development cluster: Poisson arrivals, the mix of Acme's Seren.

    Parameters
    ----------
    rate
        Submissions per second.
    largest
        Sizes above it are cut to it.

    Notes
    -----
    Size and run time are independent inside a kind, and half of the jobs have the median size: the source publishes
    marginal laws only.
    """
    if count < 1 or not rate > 0:
        raise ConfigError(f"a mix needs at least one job and a rate above 0, not {count} and {rate}")
    random = np.random.Generator(np.random.PCG64(seed))
    names = list(_MIX)
    shares = np.array([k.share for k in _MIX.values()])
    drawn = random.choice(len(names), count, p=shares / shares.sum())
    place = random.choice(3, count, p=[0.25, 0.5, 0.25])
    kinds = [_MIX[n] for n in names]
    sizes = np.array([k.sizes for k in kinds], np.int64)[drawn, place]
    medians, sigmas = (np.array([getattr(k, f) for k in kinds])[drawn] for f in ("median", "sigma"))
    return JobTable(
        np.cumsum(random.exponential(1.0 / rate, count)),
        np.minimum(medians * np.exp(sigmas * random.standard_normal(count)), 60 * 86400.0),
        np.minimum(sizes, largest) if largest else sizes,
        drawn.astype(np.int64),
        tuple(names),
        np.array([k.priority for k in kinds], np.int64)[drawn],
        [names[i] for i in drawn],
        count,
    )
