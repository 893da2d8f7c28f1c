"""Generated jobs: ``workloads/jobs/*.yaml`` with ``kind: jobs``, or the same keys in a scenario.

A mix is a law of arrival and classes of jobs, each with its share, gang sizes, law of run times, priority and tenant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from simulator import data
from simulator.errors import ConfigError, IssueCollector, unknown_name
from simulator.units import UnitError, parse_quantity
from simulator.workload.job_traces import JobTable
from simulator.workload.requests.arrivals import ArrivalSpec, Poisson
from simulator.workload.requests.specs import parse_arrival

__all__ = ["JobClass", "JobMix", "job_mixes", "llm_mix", "load_mix", "read_mix"]

FOLDER = "workloads/jobs"
_KEYS = ("kind", "name", "description", "source", "assumes", "arrival", "classes")
_CLASS_KEYS = ("share", "sizes", "run", "priority", "tenant")
_RUN_KEYS = {
    "fixed": ("time",), "lognormal": ("median", "sigma"), "mixture": ("components",), "quantiles": ("points",),
}  # fmt: skip

Floats = NDArray[np.float64]
Report = Callable[[str, str], None]


@dataclass(frozen=True)
class RunTime:
    """A mixture of log-normal laws (sigma 0: always the median), or the points of a distribution.

    Attributes
    ----------
    weights, medians, sigmas
        Of the components; empty where points are given.
    times, shares
        Run time [s] and the share of jobs that are no longer, ascending; log-linear in between.
    longest
        Draws above it are cut to it [s].
    """

    weights: tuple[float, ...] = ()
    medians: tuple[float, ...] = ()
    sigmas: tuple[float, ...] = ()
    times: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    longest: float = math.inf

    def sample(self, random: np.random.Generator, count: int) -> Floats:
        """Run times [s]."""
        if self.times:
            drawn: Floats = np.exp(np.interp(random.random(count), self.shares, np.log(self.times)))
            return np.minimum(drawn, self.longest)
        weights = np.asarray(self.weights)
        part = random.choice(len(weights), count, p=weights / weights.sum())
        sigmas = np.asarray(self.sigmas)[part]
        drawn = np.asarray(self.medians)[part] * np.exp(sigmas * random.standard_normal(count))
        return np.minimum(drawn, self.longest)


@dataclass(frozen=True)
class JobClass:
    """Jobs of one kind: relative number, gang sizes with relative numbers, run times, priority, and who pays."""

    name: str
    share: float
    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    run: RunTime
    priority: int = 0
    tenant: str = ""


@dataclass(frozen=True)
class JobMix:
    """A law of arrival and classes of jobs.

    Attributes
    ----------
    name, source, assumes
        What it stands for, where it was read, what had to be assumed.
    """

    name: str
    classes: tuple[JobClass, ...]
    arrival: ArrivalSpec | None = None
    source: str = ""
    assumes: tuple[str, ...] = field(default=())

    def sample(
        self, seed: int, *, rate: float | None = None, count: int | None = None, duration: float | None = None,
        largest: int | None = None,
    ) -> JobTable:  # fmt: skip
        """Jobs.

        Parameters
        ----------
        rate
            Submissions per second, instead of the mix's own: then Poisson, unless the mix says otherwise.
        count, duration
            When to stop: after so many jobs, or so much time [s].
        largest
            Gangs above it are cut to it.

        Raises
        ------
        ConfigError
            If there is no end or no rate.
        """
        if (count is None or count < 1) and (duration is None or not duration > 0):
            raise ConfigError("generated jobs need an end: 'count' (at least one job) or 'duration'")
        arrival = self.arrival
        if rate is not None:
            if not rate > 0:
                raise ConfigError(f"generated jobs need a rate above 0, not {rate}")
            scale = arrival.mean_rate / rate if arrival is not None else 1.0
            arrival = arrival or Poisson(rate)
        else:
            scale = 1.0
        if arrival is None:
            raise ConfigError("generated jobs need a 'rate' or an 'arrival' law")
        random = np.random.Generator(np.random.PCG64(seed))
        submit = arrival.sample(random, math.inf if duration is None else duration / scale, count) * scale
        return self._jobs(submit, random, largest)

    def _jobs(self, submit: Floats, random: np.random.Generator, largest: int | None) -> JobTable:
        count = len(submit)
        if not count:
            raise ConfigError("the mix gives no job in this time: raise the rate or the duration")
        shares = np.array([c.share for c in self.classes])
        drawn = random.choice(len(shares), count, p=shares / shares.sum())
        run, gpus = np.zeros(count), np.zeros(count, np.int64)
        for number, kind in enumerate(self.classes):
            mine = np.flatnonzero(drawn == number)
            weights = np.asarray(kind.weights)
            gpus[mine] = random.choice(kind.sizes, len(mine), p=weights / weights.sum())
            run[mine] = kind.run.sample(random, len(mine))
        tenants = tuple(dict.fromkeys(c.tenant or c.name for c in self.classes))
        tenant_of = np.array([tenants.index(c.tenant or c.name) for c in self.classes], np.int64)
        return JobTable(
            submit, run, np.minimum(gpus, largest) if largest else gpus, tenant_of[drawn], tenants,
            np.array([c.priority for c in self.classes], np.int64)[drawn], [self.classes[i].name for i in drawn], count,
        )  # fmt: skip


def job_mixes() -> list[str]:
    """Names of the shipped mixes."""
    return [name for name in data.names(FOLDER) if _kind(data.data_root() / FOLDER / f"{name}.yaml") == "jobs"]


def _kind(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("kind:")), "")


def load_mix(name: str, base: Path | None = None) -> JobMix:
    """A shipped mix by name, or a YAML file by path.

    Raises
    ------
    ConfigError
        If there is none of that name, or with everything that is wrong in it.
    """
    local = base / name if base is not None else None
    if local is not None and local.suffix in {".yaml", ".yml"} and local.is_file():
        path = local
    elif name in (known := job_mixes()) or Path(name).suffix in {".yaml", ".yml"}:
        path = data.find_file(FOLDER, name, "job mix")
    else:
        raise ConfigError(unknown_name("job mix", name, known))
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or document.get("kind") != "jobs":
        raise ConfigError(f"'{path}' is no job mix: it needs 'kind: jobs'")
    return read_mix(document)


def read_mix(document: Mapping[str, Any]) -> JobMix:
    """A mix from its keys.

    Raises
    ------
    ConfigError
        With everything that is wrong, by key.
    """
    issues = IssueCollector()

    def report(path: str, message: str) -> None:
        issues.add(message, path)

    for key in document:
        if key not in _KEYS:
            report(str(key), unknown_name("key", str(key), _KEYS))
    written = document.get("classes")
    classes: list[JobClass] = []
    if not isinstance(written, Mapping) or not written:
        report("classes", "needs classes of jobs: {NAME: {share: ..., sizes: {8: 1}, run: {law: ...}}}")
    else:
        classes = [_class(str(name), entry, f"classes.{name}", report) for name, entry in written.items()]
    arrival = None
    if document.get("arrival") is not None:
        arrival = parse_arrival(document["arrival"], "arrival", report, Path())
    if not issues and not sum(c.share for c in classes) > 0:
        report("classes", "the shares add up to 0")
    issues.raise_if_any()
    assumes = document.get("assumes") or ()
    assumes = (assumes,) if isinstance(assumes, str) else tuple(map(str, assumes))
    return JobMix(str(document.get("name", "jobs")), tuple(classes), arrival, str(document.get("source", "")), assumes)


def _class(name: str, entry: Any, path: str, report: Report) -> JobClass:
    if not isinstance(entry, Mapping):
        report(path, f"needs a mapping with {', '.join(_CLASS_KEYS)}, have {entry!r}")
        entry = {}
    for key in entry:
        if key not in _CLASS_KEYS:
            report(f"{path}.{key}", unknown_name("key", str(key), _CLASS_KEYS))
    share = _number(entry.get("share", 1), "ratio", f"{path}.share", report)
    sizes = entry.get("sizes")
    if isinstance(sizes, int) and not isinstance(sizes, bool):
        sizes = {sizes: 1}
    if isinstance(sizes, Mapping):  # keys of a scenario are texts
        sizes = {int(k) if str(k).isdecimal() else k: v for k, v in sizes.items()}
    if not isinstance(sizes, Mapping) or not sizes or any(not isinstance(k, int) or k < 1 for k in sizes):
        report(f"{path}.sizes", "needs accelerators with relative numbers of jobs, {1: 75, 8: 25}, or one number")
        sizes = {1: 1}
    weights = tuple(_number(v, "ratio", f"{path}.sizes.{k}", report) for k, v in sizes.items())
    if not sum(weights) > 0:
        report(f"{path}.sizes", "the relative numbers add up to 0")
    run = _run_time(entry.get("run"), f"{path}.run", report)
    priority = entry.get("priority", 0)
    if not isinstance(priority, int):
        report(f"{path}.priority", f"needs a whole number, higher first, have {priority!r}")
    return JobClass(name, share, tuple(sizes), weights, run, priority, str(entry.get("tenant", "")))


def _run_time(value: Any, path: str, report: Report) -> RunTime:
    """``10 min``, or a mapping with a ``law``."""
    nothing = RunTime((1.0,), (1.0,), (0.0,))
    if isinstance(value, str):
        value = {"law": "fixed", "time": value}
    law = value.get("law") if isinstance(value, Mapping) else None
    if law not in _RUN_KEYS:
        report(path, f"needs a time or a mapping with 'law', one of {', '.join(_RUN_KEYS)}")
        return nothing
    for key in value:
        if key not in ("law", "longest", *_RUN_KEYS[law]):
            report(f"{path}.{key}", unknown_name(f"setting of {law}", str(key), ("longest", *_RUN_KEYS[law])))
    if missing := [key for key in _RUN_KEYS[law] if key not in value]:
        report(path, f"{law} needs {', '.join(missing)}")
        return nothing
    longest = _number(value["longest"], "time", f"{path}.longest", report) if "longest" in value else math.inf
    if law == "fixed":
        return RunTime((1.0,), (_time(value["time"], f"{path}.time", report),), (0.0,), longest=longest)
    if law == "quantiles":
        return _points(value["points"], path, report, longest)
    parts = [dict(value, weight=1)] if law == "lognormal" else list(value["components"])
    found = []
    for number, part in enumerate(parts):
        at = path if law == "lognormal" else f"{path}.components[{number}]"
        weight = _number(part.get("weight", 1), "ratio", f"{at}.weight", report)
        median = _time(part.get("median"), f"{at}.median", report)
        found.append((weight, median, _number(part.get("sigma", 0), "ratio", f"{at}.sigma", report)))
    weights, medians, sigmas = zip(*found, strict=True) if found else ((1.0,), (1.0,), (0.0,))
    return RunTime(weights, medians, sigmas, longest=longest)


def _points(points: Any, path: str, report: Report, longest: float) -> RunTime:
    good = isinstance(points, Mapping) and len(points) > 1
    times: list[Any] = [int(t) if str(t).isdecimal() else t for t in points] if good else []
    shares = list(points.values()) if good else []
    numbers = all(isinstance(x, int | float) for x in (*times, *shares))
    if not (good and numbers and sorted(times) == times and sorted(shares) == shares and min(times) > 0):
        report(f"{path}.points", "needs {SECONDS: PERCENT of the jobs that are no longer}, both ascending")
        return RunTime((1.0,), (1.0,), (0.0,))
    return RunTime(times=tuple(map(float, times)), shares=tuple(s / 100 for s in shares), longest=longest)


def _time(value: Any, path: str, report: Report) -> float:
    seconds = _number(value, "time", path, report)
    if not seconds > 0:
        report(path, f"needs a time above 0, have {value!r}")
        return 1.0
    return seconds


def _number(value: Any, dimension: str, path: str, report: Report) -> float:
    """A quantity of at least 0."""
    try:
        number = parse_quantity(value, dimension)
    except UnitError as error:
        report(path, str(error))
        return 1.0
    if number < 0:
        report(path, f"{value} is not possible, it must be at least 0")
    return number


def llm_mix(count: int, rate: float, seed: int = 0, largest: int | None = None) -> JobTable:
    """Jobs like those of an LLM development cluster: Poisson arrivals, the mix of Acme's Seren."""
    return load_mix("acme-seren").sample(seed, rate=rate, count=count, largest=largest)
