"""*I have one node*: a user's own logs, and what they teach.

A CSV has one row per training run, JSON is what the benchmarks of vLLM and SGLang write; each becomes observations of
:mod:`simulator.calibration.learning`.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from simulator.calibration.learning import LogFit, Observation, learn
from simulator.calibration.learnt_files import write_framework, write_overlay
from simulator.constants import Constant
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

__all__ = ["fit_logs"]

_NEEDED = ("model", "global_batch_size", "micro_batch_size", "sequence_length", "step_time")
_PLAN = (
    "tensor_parallel", "pipeline_parallel", "data_parallel", "context_parallel", "expert_parallel", "virtual_stages",
    "zero_stage",
)  # fmt: skip
_WORDS = ("recompute", "precision", "schedule")


def fit_logs(
    logs: Sequence[Path], node: str, framework: str, out: Path | None = None, out_node: Path | None = None
) -> LogFit:
    """Learn from training CSVs and serving JSONs.

    With ``out`` the framework's new preset is written; with ``out_node`` a node profile with what was learnt about the
    device, its kernels and its collectives. Scenarios name both.

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
    for path in logs:
        if not path.is_file():
            issues.add(f"there is no file '{path}'")
        elif path.suffix in (".json", ".jsonl"):
            _serving(path, where, engine, observations, constants, issues)
        else:
            _training(path, where, engine, observations, constants, issues)
    issues.raise_if_any()
    if not observations:
        raise ConfigError("the logs hold no runs")
    found = learn(observations, constants)
    if out is not None:
        write_framework(out, engine, found)
        found.written.append(out)
    if out_node is not None:
        write_overlay(out_node, where, _reference(node), engine, out.stem if out is not None else engine.name, found)
        found.written.append(out_node)
    return found


def _reference(node: str) -> str:
    """How another profile names the node: by name, or by a path that holds wherever it lies."""
    return str(Path(node).resolve()) if node.endswith(".yaml") else node


def _training(
    path: Path, node: Node, framework: Framework, observations: list[Observation], constants: dict[str, Constant],
    issues: IssueCollector,
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
        if reason := _too_fast(step_time, pipeline.floor()):
            issues.add(reason, "step_time", number, 1, str(path))
            continue
        constants |= pipeline.constants.entries
        observations.append(Observation(job.name, step_time, _step_seconds(job, cluster)))
        if "peak_memory" in row:
            peak = float(row["peak_memory"])
            observations.append(Observation(f"{job.name} memory", peak, _peak_bytes(job, cluster), "B"))


def _too_fast(seconds: float, floor: float) -> str:
    """Why a measured time cannot be one of these runs: it lies below the datasheet's peak rates."""
    if seconds >= floor:
        return ""
    least = f"{floor:.4g} s that peak rates allow"
    return f"{seconds:.4g} s is less than the {least}: check the sizes, plan, node and unit [s]"


def _step_seconds(job: TrainingJob, cluster: Cluster) -> Callable[[Mapping[str, float]], float]:
    return lambda scale: float(PipelinedJob(job, cluster, scale).run().seconds)


def _peak_bytes(job: TrainingJob, cluster: Cluster) -> Callable[[Mapping[str, float]], float]:
    """Memory of the fullest device, which rests on constants of the framework alone."""
    known: dict[tuple[float, ...], float] = {}

    def predict(scale: Mapping[str, float]) -> float:
        own = job.framework.constants
        factors = tuple(scale.get(c.id, 1.0) for c in own.values())
        if factors not in known:
            moved = {key: replace(c, value=c.value * f) for (key, c), f in zip(own.items(), factors, strict=True)}
            pipeline = PipelinedJob(replace(job, framework=replace(job.framework, constants=moved)), cluster)
            known[factors] = pipeline.memory().worst.peak
        return known[factors]

    return predict


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
    """Results of ``vllm bench serve`` (one) or ``sglang.bench_serving`` (one per line) under a fixed load."""
    text = path.read_text(encoding="utf-8")
    try:
        found = json.loads(text)
        runs = found if isinstance(found, list) else [found]
    except ValueError:
        try:
            runs = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            issues.add("is not JSON", file=str(path))
            return
    for number, run in enumerate(runs, start=1):
        name = path.name if len(runs) == 1 else f"{path.name}:{number}"
        if not isinstance(run, dict):
            issues.add("is not the result of a benchmark", line=number, file=str(path))
            continue
        try:
            observation, used = _served(run, name, node, framework)
        except (ConfigError, ValueError) as error:
            issues.add(str(error), line=number if len(runs) > 1 else 0, file=str(path))
            continue
        observations.append(observation)
        constants |= used


def _served(
    run: dict[str, Any], name: str, node: Node, framework: Framework
) -> tuple[Observation, dict[str, Constant]]:
    """The mean time per output token of a benchmark, and the constants that it rests on.

    A sequence waits for the prompts of the others: over its output of o tokens every other slot starts one request, so
    the mean is that of a decode step plus (b - 1)/o times what a prompt adds to a step.
    """
    if isinstance(run.get("server_info"), dict):  # SGLang with details: what the server was started with
        run = {**run["server_info"], **run}
    model = str(run.get("model", run.get("model_id", run.get("model_path", "")))).rpartition("/")[2].lower()
    tpot = next((float(run[k]) for k in _TPOT if run.get(k)), 0.0) * 1e-3
    completed = int(run.get("completed", run.get("num_prompts", 0)) or 0)
    concurrency = round(float(run.get("max_concurrency") or run.get("concurrency") or 0))
    if not model or not tpot or not completed or not concurrency:
        known = {"model_id": model, "mean_tpot_ms": tpot, "completed": completed, "max_concurrency": concurrency}
        raise ConfigError(
            f"needs {', '.join(k for k, v in known.items() if not v)}: run the benchmark with --max-concurrency, and "
            "add what it does not write itself (vLLM: --metadata tensor_parallel_size=8; otherwise by hand)"
        )
    prompt, output = (float(run.get(f"total_{kind}_tokens", 0)) / completed for kind in ("input", "output"))
    plan = Plan(tensor_parallel=int(run.get("tensor_parallel_size", run.get("tp_size", 1)) or 1))
    spec = load_model(model.removesuffix("-instruct"))
    fabric = _cluster(node, plan.accelerators).fabric
    context = round(concurrency * (prompt + output / 2))
    decode = BatchShape((), concurrency, context)
    mixed = BatchShape(((max(1, round(prompt)), 0),), concurrency, context)
    share = (concurrency - 1) / output if output and prompt else 0.0

    def seconds(cost: ReplicaCost) -> float:
        step = cost.iteration(decode)
        return step + share * (cost.iteration(mixed) - step) if share else step

    cost = ReplicaCost(spec, plan, framework, node, fabric)
    if reason := _too_fast(tpot, cost.floor(decode)):
        raise ConfigError(f"mean time per output token: {reason}")
    seconds(cost)
    everything = {**cost.device.constants.entries, **cost.network.constants.entries}
    everything |= {c.id: c for c in framework.constants.values()}
    used = {i: c for i, c in everything.items() if i in cost.used}
    predict = lambda scale: seconds(ReplicaCost(spec, plan, framework, node, fabric, scale=scale))  # noqa: E731
    return Observation(name, tpot, predict), used
