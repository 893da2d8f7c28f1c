"""Failure records: ``workloads/jobs/*.yaml`` with ``kind: failures``, and what a scenario writes itself.

They lie beside the job mixes because both describe what a cluster's jobs meet, and a site publishes them together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from simulator import data
from simulator.errors import ConfigError, Issue, did_you_mean, unknown_name
from simulator.units import UnitError, parse_quantity
from simulator.workload.failures.model import FailureKind, FailureModel, NodeEvents, Repair
from simulator.workload.failures.readers import read_node_events
from simulator.workload.failures.uncertainty import BETWEEN_SITES

__all__ = ["failure_records", "load_failures", "read_failures"]

FOLDER = "workloads/jobs"
_TIMES = ("detection", "restart", "regroup")
_KEYS = (
    "kind", "name", "description", "source", "assumes", "record", "mtbf", "per", "law", "shape", "observed", "counts",
    "software", "planned", "degraded", "repair", "trace", "system", "spares", *_TIMES,
)  # fmt: skip
_DEFAULTS = {"detection": 60.0, "restart": 300.0, "regroup": 60.0}
"""Assumed where neither a record nor the scenario says [s]."""


def failure_records() -> list[str]:
    """Names of the shipped records."""
    return [name for name in data.names(FOLDER) if _kind(data.data_root() / FOLDER / f"{name}.yaml") == "failures"]


def _kind(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("kind:")), "")


def load_failures(name: str) -> FailureModel:
    """A shipped record by name, or a YAML file by path.

    Raises
    ------
    ConfigError
        If there is none of that name, or with everything that is wrong in it.
    """
    return read_failures(name)


def read_failures(value: str | Mapping[str, Any], base: Path | None = None) -> FailureModel:
    """What ``failures:`` of a scenario says: the name of a record, or a mapping.

    Parameters
    ----------
    value
        ``record`` names a record whose other keys the mapping replaces; without it ``mtbf`` (``per`` accelerator or
        node), ``counts`` with ``observed``, or a ``trace`` says what fails.
    base
        Folder that relative paths start from.

    Raises
    ------
    ConfigError
        With everything that is wrong, by key.
    """
    if isinstance(value, str):
        value = {"record": value}
    written = dict(value)
    record: dict[str, Any] = {}
    if "record" in written:
        record = _record(str(written["record"]), base)
    # A cause that is written replaces the record's cause.
    if {"mtbf", "counts", "trace"} & set(written):
        record = {k: v for k, v in record.items() if k not in {"mtbf", "counts", "trace", "observed", "software"}}
    found = _Reading({**record, **{k: v for k, v in written.items() if k != "record"}}, base).model()
    # Rates of a record are those of another site; what somebody writes of their own is taken at its word.
    foreign = record and not {"mtbf", "counts", "trace"} & set(written)
    return replace(found, site_spread=BETWEEN_SITES) if foreign else found


def _record(name: str, base: Path | None) -> dict[str, Any]:
    local = base / name if base is not None else None
    known = failure_records()
    if local is not None and local.suffix in {".yaml", ".yml"} and local.is_file():
        path = local
    elif name in known or Path(name).suffix in {".yaml", ".yml"}:
        path = data.find_file(FOLDER, name, "failure record")
    else:
        raise ConfigError(unknown_name("failure record", name, known))
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or document.get("kind") != "failures":
        raise ConfigError(f"'{path}' is no failure record: it needs 'kind: failures'")
    return document


class _Reading:
    """Reads a mapping, collecting what is wrong."""

    def __init__(self, written: dict[str, Any], base: Path | None) -> None:
        self.written, self.base = written, base
        self.issues: list[Issue] = []
        for key in written:
            if key not in _KEYS:
                self.error(key, f"unknown key, {did_you_mean(key, _KEYS) or 'known: ' + ', '.join(_KEYS)}")

    def error(self, key: str, message: str) -> None:
        self.issues.append(Issue("", 0, 0, key, message))

    def quantity(self, key: str, value: object, dimension: str = "time", least: float = 0.0) -> float:
        """A quantity of at least ``least``; NaN and an error otherwise."""
        try:
            number = parse_quantity(value, dimension)
        except UnitError as error:
            self.error(key, str(error))
            return math.nan
        if number < least or (least == 0.0 and key.startswith("mtbf") and number == 0.0):
            what = "must be above 0" if key.startswith("mtbf") else f"must be at least {least:g}"
            self.error(key, f"{value} is not possible, it {what}")
        return number

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.written.get(key) or {}
        if not isinstance(value, Mapping):
            self.error(key, f"needs a mapping, have {value!r}")
            return {}
        return dict(value)

    def model(self) -> FailureModel:
        """The model, or every error at once."""
        w = self.written
        times, assumed = dict(_DEFAULTS), []
        for key in _TIMES:
            if key in w:
                times[key] = self.quantity(key, w[key])
            else:
                assumed.append(f"failures.{key} is not given: assumed {times[key]:g} s")
        kinds = self._kinds()
        trace = None
        if "trace" in w:
            path = Path(str(w["trace"]))
            path = self.base / path if self.base is not None and not path.is_absolute() else path
            try:
                trace = read_node_events(path, system=str(w.get("system", "")))
            except ConfigError as error:
                self.issues += [Issue("", 0, 0, "trace", i.message) for i in error.issues]
        elif not kinds and not self.issues:
            self.error("", "needs what fails: 'record', 'mtbf', 'counts' with 'observed', or a 'trace'")
        shape = self._shape()
        repair, observed = self._repair(assumed), self._observed(trace)
        spares = w.get("spares")
        if spares is not None and (not isinstance(spares, int) or isinstance(spares, bool) or spares < 0):
            self.error("spares", f"{spares!r} is not a number of nodes of at least 0")
        if self.issues:
            raise ConfigError(self.issues)
        assumes = w.get("assumes") or ()
        assumes = (assumes,) if isinstance(assumes, str) else tuple(map(str, assumes))
        return FailureModel(
            name=str(w.get("name", "failures")), kinds=() if trace is not None else kinds, shape=shape, trace=trace,
            repair=repair, spares=spares, observed=observed, source=str(w.get("source", "")),
            assumes=(*assumes, *assumed), **times,
        )  # fmt: skip

    def _observed(self, trace: NodeEvents | None) -> float:
        """Failures behind the rates."""
        if trace is not None:
            return float(len(trace))
        seen = self.mapping("observed")
        if "failures" in seen:
            return self.quantity("observed.failures", seen["failures"], "ratio")
        counts = self.mapping("counts")
        return sum(self.quantity(f"counts.{k}", v, "ratio") for k, v in counts.items()) if counts else math.inf

    def _shape(self) -> float:
        law = self.written.get("law", "exponential")
        if law not in ("exponential", "weibull"):
            self.error("law", f"'{law}' is not one of exponential, weibull")
        if law != "weibull":
            return 1.0
        shape = self.quantity("shape", self.written.get("shape", 1.0), "ratio")
        if shape == 0.0:
            self.error("shape", "0 is not possible, it must be above 0 (below 1: failures come in bursts)")
        return shape

    def _repair(self, assumed: list[str]) -> Repair:
        value = self.written.get("repair")
        if value is None:
            assumed.append("failures.repair is not given: a failed node is back at once")
            return Repair()
        if isinstance(value, Mapping):
            sigma = self.quantity("repair.sigma", value.get("sigma", 0.0), "ratio")
            return Repair(self.quantity("repair.median", value.get("median", 0)), sigma)
        return Repair(self.quantity("repair", value))

    def _kinds(self) -> tuple[FailureKind, ...]:
        w, kinds = self.written, list[FailureKind]()
        per = self._per()
        if "mtbf" in w:
            rates = w["mtbf"] if isinstance(w["mtbf"], Mapping) else {"failure": w["mtbf"]}
            software = set(w.get("software") or ())
            kinds += [
                FailureKind(str(k), self.quantity(f"mtbf.{k}", v) * per, replaces_node=k not in software)
                for k, v in rates.items()
            ]
        counts = {str(k): self.quantity(f"counts.{k}", v, "ratio") for k, v in self.mapping("counts").items()}
        if counts:
            seen = self.mapping("observed")
            window = self.quantity("observed.window", seen.get("window", 0))
            exposure = window * self.quantity("observed.accelerators", seen.get("accelerators", 0), "ratio")
            if not exposure > 0:
                self.error("observed", "counts need 'observed: {window: 54 d, accelerators: 16384}'")
                return ()
            software, planned = set(w.get("software") or ()), set(w.get("planned") or ())
            for name in sorted((software | planned) - set(counts)):
                self.error("software" if name in software else "planned", f"'{name}' is not among the counts")
            kinds += [
                FailureKind(k, exposure / n, replaces_node=k not in software | planned, planned=k in planned)
                for k, n in counts.items()
                if n
            ]
        for name, entry in self.mapping("degraded").items():
            if not isinstance(entry, Mapping) or not {"mtbf", "speed"} <= set(entry):
                self.error(f"degraded.{name}", "needs {mtbf: ..., speed: ...}, the speed that is left between 0 and 1")
                continue
            speed = self.quantity(f"degraded.{name}.speed", entry["speed"], "ratio")
            if not 0 < speed < 1:
                self.error(f"degraded.{name}.speed", f"{entry['speed']} is not between 0 and 1")
            mtbf = self.quantity(f"mtbf of degraded.{name}", entry["mtbf"]) * per
            kinds.append(FailureKind(str(name), mtbf, slows_to=speed))
        return tuple(kinds)

    def _per(self) -> float:
        """Accelerators that one ``mtbf`` stands for."""
        per = self.written.get("per", "accelerator")
        if per == "accelerator":
            return 1.0
        if isinstance(per, Mapping) and set(per) == {"node"}:
            return self.quantity("per.node", per["node"], "ratio", 1.0)
        self.error("per", f"'{per}' is neither 'accelerator' nor {{node: ACCELERATORS}}")
        return math.nan
