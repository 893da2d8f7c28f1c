"""*I have one node*: constants learnt from a user's own runs, and the interval that is left.

Every constant c is a factor exp(x) on its value with prior x ~ N(0, σ²), σ being its stated relative sigma. Runs add
log(measured) = log(predicted(x)) + noise. The most probable x is found by Gauss-Newton, its covariance is
(JᵀJ/σ_noise² + diag(1/σ²))⁻¹: so constants that the runs say nothing about keep their sigma, and those they do shrink.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simulator.constants import Constant
from simulator.cost.sensitivity import Z80
from simulator.errors import ConfigError, IssueCollector, did_you_mean
from simulator.hardware.profiles import load_node
from simulator.hardware.types import Cluster, Fabric, Node, NodeGroup
from simulator.serving.iteration import ReplicaCost
from simulator.strategies.protocols import BatchShape
from simulator.training.pipelined import PipelinedJob
from simulator.training.step import check_job
from simulator.workload.framework import Framework
from simulator.workload.framework_files import load_framework
from simulator.workload.jobs import Batch, TrainingJob
from simulator.workload.model_files import load_model
from simulator.workload.plan import SHORT_NAMES, Plan

__all__ = ["LogFit", "Observation", "fit_logs", "learn"]

NOISE = 0.03
"""Relative spread of a step time from run to run on one machine; published pairs of equal runs differ by 1-5 %."""

ROUNDS = 4

_NEEDED = ("model", "global_batch_size", "micro_batch_size", "sequence_length", "step_time")
_PLAN = (
    "tensor_parallel", "pipeline_parallel", "data_parallel", "context_parallel", "expert_parallel", "virtual_stages",
    "zero_stage",
)  # fmt: skip
_WORDS = ("recompute", "precision", "schedule")


@dataclass(frozen=True)
class Observation:
    """A measured time [s] and a function that predicts it under factors on constants by id."""

    name: str
    measured: float
    predict: Callable[[Mapping[str, float]], float]


@dataclass
class LogFit:
    """What was learnt.

    Attributes
    ----------
    constants
        Moved constants with their new value and sigma, by id.
    prior
        The same before.
    points
        (run, measured, predicted before, predicted after) [s].
    width_before, width_after
        Median half width of the 80 % interval of the runs' predictions, relative.
    memory
        (run, measured, predicted) bytes, where the log says.
    """

    constants: dict[str, Constant] = field(default_factory=dict)
    prior: dict[str, Constant] = field(default_factory=dict)
    points: list[tuple[str, float, float, float]] = field(default_factory=list)
    width_before: float = math.nan
    width_after: float = math.nan
    memory: list[tuple[str, float, float]] = field(default_factory=list)
    written: Path | None = None

    def errors(self, after: bool) -> float:
        """Median |error| of the runs."""
        return float(np.median([abs((new if after else old) / got - 1) for _, got, old, new in self.points]))

    def rows(self) -> dict[str, Any]:
        """For JSON."""
        moved = {
            i: {
                "before": self.prior[i].value,
                "after": c.value,
                "sigma_before": self.prior[i].sigma,
                "sigma_after": c.sigma,
            }
            for i, c in self.constants.items()
        }
        names = ("run", "measured_s", "before_s", "after_s")
        return {
            "runs": [dict(zip(names, p, strict=True)) for p in self.points], "constants": moved,
            "interval_before": self.width_before, "interval_after": self.width_after,
        }  # fmt: skip

    def lines(self) -> list[str]:
        """For people: the constants that moved or narrowed most first."""
        found = [
            f"{len(self.points)} runs: median error {self.errors(False):.1%} before, {self.errors(True):.1%} after; "
            f"80 % interval ±{self.width_before:.1%} before, ±{self.width_after:.1%} after"
        ]
        narrowed = sorted(self.constants, key=lambda i: self.constants[i].sigma / max(self.prior[i].sigma, 1e-12))
        for name in narrowed[:8]:
            old, new = self.prior[name], self.constants[name]
            found.append(
                f"  {name}: {old.value:.4g} → {new.value:.4g} {new.unit} (sigma {old.sigma:.0%} → {new.sigma:.0%})"
            )
        found += [
            f"  {run}: {got / 2**30:.2f} GiB of memory measured, {said / 2**30:.2f} predicted ({said / got - 1:+.0%})"
            for run, got, said in self.memory
        ]
        return [*found, *([f"wrote {self.written}"] if self.written else [])]


def learn(observations: Sequence[Observation], constants: Mapping[str, Constant], noise: float = NOISE) -> LogFit:
    """Most probable constants and what remains uncertain."""
    names = sorted(i for i, c in constants.items() if c.sigma > 0 and c.value > 0)
    prior = np.array([constants[i].sigma for i in names])
    measured = np.log([o.measured for o in observations])

    def predicted(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        factors = dict(zip(names, np.exp(x).tolist(), strict=True))
        return np.log([o.predict(factors) for o in observations])

    x = np.zeros(len(names))
    start = here = predicted(x)
    first: np.ndarray[Any, Any] | None = None
    for _ in range(ROUNDS):
        slopes = _slopes(predicted, x, here, prior)
        first = slopes if first is None else first
        precision = slopes.T @ slopes / noise**2 + np.diag(1 / prior**2)
        target = slopes.T @ (measured - here + slopes @ x) / noise**2
        moved = np.linalg.solve(precision, target)
        step = np.clip(moved - x, -1.0, 1.0)
        x = x + step
        here = predicted(x)
        if np.abs(step / prior).max(initial=0.0) < 0.05:
            break
    covariance = np.linalg.inv(slopes.T @ slopes / noise**2 + np.diag(1 / prior**2))
    result = LogFit(prior={i: constants[i] for i in names})
    for index, name in enumerate(names):
        old = constants[name]
        sigma, source = (
            float(math.sqrt(covariance[index, index])),
            f"{old.source}; updated from {len(measured)} own runs",
        )
        result.constants[name] = Constant(name, old.value * float(np.exp(x[index])), old.unit, sigma, old.trust, source)
    result.points = [
        (o.name, o.measured, float(np.exp(a)), float(np.exp(b)))
        for o, a, b in zip(observations, start, here, strict=True)
    ]
    assert first is not None
    result.width_before = float(Z80 * np.median(np.sqrt(((first * prior) ** 2).sum(axis=1))))
    result.width_after = float(Z80 * np.median(np.sqrt(np.einsum("ij,jk,ik->i", slopes, covariance, slopes))))
    return result


def _slopes(
    predicted: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]],
    x: np.ndarray[Any, Any],
    here: np.ndarray[Any, Any],
    prior: np.ndarray[Any, Any],
) -> np.ndarray[Any, Any]:
    columns = []
    for index in range(len(x)):
        step = 0.2 * prior[index]
        moved = x.copy()
        moved[index] += step
        columns.append((predicted(moved) - here) / step)
    return np.array(columns).T


def fit_logs(logs: Sequence[Path], node: str, framework: str, out: Path | None = None) -> LogFit:
    """Learn from training CSVs and serving JSONs; with ``out`` the framework's new preset is written.

    Raises
    ------
    ConfigError
        With everything that is wrong in the logs, or what is missing.
    """
    if not node or not framework:
        raise ConfigError("name the machine and the software that the logs are of: --node dgx-h100 --framework fsdp")
    where, engine = load_node(node), load_framework(framework)
    issues = IssueCollector()
    observations: list[Observation] = []
    constants: dict[str, Constant] = {}
    memory: list[tuple[str, float, float]] = []
    for path in logs:
        if not path.is_file():
            issues.add(f"there is no file '{path}'")
        elif path.suffix == ".json":
            _serving(path, where, engine, observations, constants, issues)
        else:
            _training(path, where, engine, observations, constants, memory, issues)
    issues.raise_if_any()
    if not observations:
        raise ConfigError("the logs hold no runs")
    found = learn(observations, constants)
    found.memory = memory
    if out is not None:
        _write(out, engine, found)
        found.written = out
    return found


def _training(
    path: Path, node: Node, framework: Framework, observations: list[Observation], constants: dict[str, Constant],
    memory: list[tuple[str, float, float]], issues: IssueCollector,
) -> None:  # fmt: skip
    """One row per run: model, batch, plan, ``step_time`` [s] and perhaps ``peak_memory`` [B] of the fullest device."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, start=2):
        row = {SHORT_NAMES.get(key, key): value for key, value in row.items() if value}
        missing = [key for key in _NEEDED if key not in row]
        known = {*_NEEDED, *_PLAN, *_WORDS, "peak_memory", "name"}
        unknown = [f"'{k}', {did_you_mean(k, known)}" for k in row if k not in known]
        if missing or unknown:
            what = [f"needs {', '.join(missing)}"] * bool(missing) + [f"unknown column {u}" for u in unknown]
            issues.add("; ".join(what), line=number, column=1, file=str(path))
            continue
        try:
            job = _job(row, framework, f"{path.name}:{number}")
            step_time = float(row["step_time"])
        except (ValueError, ConfigError) as error:
            issues.add(str(error), line=number, column=1, file=str(path))
            continue
        cluster = _cluster(node, job.plan.accelerators)
        if reasons := check_job(job, cluster):
            issues.add("; ".join(reasons), line=number, column=1, file=str(path))
            continue
        pipeline = PipelinedJob(job, cluster)
        pipeline.run()
        constants |= pipeline.constants.entries
        observations.append(Observation(job.name, step_time, _step_seconds(job, cluster)))
        if "peak_memory" in row:
            memory.append((job.name, float(row["peak_memory"]), pipeline.memory().worst.peak))


def _step_seconds(job: TrainingJob, cluster: Cluster) -> Callable[[Mapping[str, float]], float]:
    return lambda scale: float(PipelinedJob(job, cluster, scale).run().seconds)


def _job(row: Mapping[str, str], framework: Framework, name: str) -> TrainingJob:
    numbers = {key: int(row[key]) for key in _PLAN if key in row}
    words = {key: row[key] for key in _WORDS if key in row}
    batch = Batch(*(int(row[k]) for k in ("global_batch_size", "micro_batch_size", "sequence_length")))
    return TrainingJob(
        row.get("name", name), load_model(row["model"]), framework, batch, Plan().with_(**numbers, **words)
    )


def _cluster(node: Node, accelerators: int) -> Cluster:
    count = max(1, math.ceil(accelerators / node.accelerators))
    return Cluster(node.name, (NodeGroup(node, count),), Fabric("single-switch", node.nic))


_TPOT = ("mean_tpot_ms", "median_tpot_ms", "mean_itl_ms")


def _serving(
    path: Path, node: Node, framework: Framework, observations: list[Observation], constants: dict[str, Constant],
    issues: IssueCollector,
) -> None:  # fmt: skip
    """A result of ``vllm bench serve`` or ``sglang.bench_serving``: mean time per output token under a fixed load."""
    try:
        run = json.loads(path.read_text(encoding="utf-8").strip().splitlines()[-1])
    except (ValueError, IndexError):
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            issues.add("is not JSON", file=str(path))
            return
    if isinstance(run.get("server_info"), dict):  # SGLang with details: what the server was started with
        run = {**run["server_info"], **run}
    model = str(run.get("model", run.get("model_id", run.get("model_path", "")))).rpartition("/")[2].lower()
    tpot = next((float(run[k]) for k in _TPOT if run.get(k)), 0.0)
    completed = int(run.get("completed", run.get("num_prompts", 0)) or 0)
    concurrency = int(run.get("max_concurrency") or run.get("concurrency") or 0)
    if not model or not tpot or not completed or not concurrency:
        known = {"model_id": model, "mean_tpot_ms": tpot, "completed": completed, "max_concurrency": concurrency}
        issues.add(
            f"needs {', '.join(k for k, v in known.items() if not v)}: run the benchmark with --max-concurrency, and "
            "add what it does not write itself (vLLM: --metadata tensor_parallel_size=8; otherwise by hand)",
            file=str(path),
        )
        return
    context = (
        float(run.get("total_input_tokens", 0)) / completed + float(run.get("total_output_tokens", 0)) / completed / 2
    )
    plan = Plan(tensor_parallel=int(run.get("tensor_parallel_size", run.get("tp_size", 1)) or 1))
    try:
        spec = load_model(model.removesuffix("-instruct"))
    except ConfigError as error:
        issues.add(str(error), file=str(path))
        return
    cluster = _cluster(node, plan.accelerators)
    shape = BatchShape((), concurrency, round(concurrency * context))

    def predict(scale: Mapping[str, float]) -> float:
        return ReplicaCost(spec, plan, framework, node, cluster.fabric, scale=scale).iteration(shape)

    cost = ReplicaCost(spec, plan, framework, node, cluster.fabric)
    cost.iteration(shape)
    everything = {**cost.device.constants.entries, **cost.network.constants.entries}
    everything |= {c.id: c for c in framework.constants.values()}
    constants |= {i: c for i, c in everything.items() if i in cost.used}
    observations.append(Observation(path.name, tpot * 1e-3, predict))


def _write(path: Path, framework: Framework, found: LogFit) -> None:
    """The framework's preset with its learnt constants."""
    from dataclasses import fields

    lines = [f"name: {path.stem}"]
    for f in fields(Framework):
        value = getattr(framework, f.name)
        if f.name in ("name", "constants") or value is None:
            continue
        lines.append(f"{f.name}: {json.dumps(list(value) if isinstance(value, tuple) else value)}")
    lines.append("constants:")
    for key, old in framework.constants.items():
        c = found.constants.get(old.id, old)
        unit = {"s": " s", "B": " B"}.get(c.unit, "")
        lines.append(
            f"  {key}: {{value: {c.value:.6g}{unit}, sigma: {c.sigma:.4g}, trust: {c.trust.value}, "
            f"source: {json.dumps(c.source)}}}"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
