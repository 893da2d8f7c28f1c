"""Export: the plan of a workload as the command that starts it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulator.data import names
from simulator.errors import ConfigError, unknown_name
from simulator.scenario.deploy.engines import ENGINES, engine_named, engine_of
from simulator.scenario.deploy.shell import script
from simulator.scenario.deploy.types import Setup, Written
from simulator.scenario.load import load_scenario
from simulator.scenario.types import Scenario
from simulator.workload.jobs import Deployment, TrainingJob
from simulator.workload.plan import Plan

__all__ = ["ENGINES", "LAUNCH", "Exported", "export_plan", "setup_of"]

LAUNCH = "launch.sh"
_PLAN = (
    "tensor_parallel", "sequence_parallel", "context_parallel", "pipeline_parallel", "virtual_stages", "data_parallel",
    "expert_parallel", "schedule", "zero_stage", "recompute", "precision", "offload",
)  # fmt: skip
_SERVING_PLAN = ("tensor_parallel", "sequence_parallel", "context_parallel", "pipeline_parallel", "data_parallel",
                 "expert_parallel", "precision")  # fmt: skip
_DEFAULTS = {
    "plan.context_parallel": 1, "plan.expert_parallel": 1, "deployment.plan.context_parallel": 1,
    "deployment.plan.sequence_parallel": False, "deployment.replicas": 1, "deployment.router": "round-robin",
    "deployment.admission": "always", "deployment.preemption": "recompute", "deployment.plan.data_parallel": 1,
    "deployment.plan.expert_parallel": 1, "plan.offload": "none",
}  # fmt: skip
"""Values that need not be said."""


@dataclass(frozen=True)
class Exported:
    """Files that start a workload.

    Attributes
    ----------
    files
        By name; ``launch.sh`` is the command.
    unsaid
        ``path=value`` of what the engine's arguments cannot say; it stands in ``launch.sh`` as marked comments.
    notes
        What differs from the plan or has to be done by hand.
    """

    engine: str
    version: str
    workload: str
    files: Mapping[str, str]
    unsaid: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "engine": self.engine, "version": self.version, "workload": self.workload, "files": dict(self.files),
            "unsaid": list(self.unsaid), "notes": list(self.notes),
        }  # fmt: skip


def export_plan(
    source: str | Path | Mapping[str, Any] | Scenario,
    overrides: Iterable[str] = (),
    *,
    engine: str | None = None,
    workload: str | None = None,
) -> Exported:
    """The arguments of an engine for one workload.

    Parameters
    ----------
    source
        A scenario in any of its forms, the folder of a run, a row of a sweep (``FOLDER#3``), or an answer of
        ``fmsim recommend --json``.
    overrides
        Changes as on the command line.
    engine
        ``megatron``, ``deepspeed``, ``vllm``, ``sglang`` or ``tensorrt-llm``; by the workload's framework otherwise.
    workload
        Which, if there are several.

    Raises
    ------
    ConfigError
        If the source cannot be read, or engine and workload do not go together.
    """
    scenario = source if isinstance(source, Scenario) else load_scenario(*_document(source, overrides))
    every: dict[str, TrainingJob | Deployment] = {job.name: job for job in scenario.training}
    every |= {deployment.name: deployment for deployment in scenario.deployments}
    if workload is None and len(every) > 1:
        raise ConfigError(f"say which workload to export with --workload; there are: {', '.join(every)}")
    name = workload or next(iter(every))
    if name not in every:
        raise ConfigError(unknown_name("workload", name, every))
    chosen = every[name]
    if isinstance(chosen, Deployment) and chosen.instances is not None:
        raise ConfigError(
            f"'{name}' has a plan that follows its instances, and a launch command has one: leave deployment.instances "
            "out and write the plan to export"
        )
    setup = setup_of(scenario, chosen)
    module = engine_of(setup.framework) if engine is None else engine_named(engine, setup.kind)
    if isinstance(chosen, TrainingJob) and chosen.plan.stages:
        raise ConfigError(
            f"{module.version} gives every pipeline stage the same mesh, and this plan has stages of its own: "
            f"{'; '.join(map(str, chosen.plan.stages))}. Leave plan.stages out to export the plan of equal stages"
        )
    written = module.write(setup)
    unsaid = tuple(_marks(scenario, name, setup, written))
    title = (f"'{name}' of the scenario '{scenario.name}' for {module.version}, as 'fmsim export' writes it.",
             *written.notes, "What the arguments cannot say ('fmsim new --from' reads it again):")  # fmt: skip
    launch = script(title, unsaid, written.command, _lines(written))
    files = {LAUNCH: launch, **written.files}
    return Exported(module.name, module.version, name, files, unsaid, tuple(written.notes))


def _lines(written: Written) -> list[str]:
    return [name if value is None else f"{name} {shlex.quote(value)}" for name, value in written.arguments]


def _document(
    source: str | Path | Mapping[str, Any], overrides: Iterable[str]
) -> tuple[str | Path | Mapping[str, Any], list[str]]:
    """What to load, and with which changes."""
    changes = list(overrides)
    if isinstance(source, Mapping):
        return source, changes
    folder, mark, number = str(source).rpartition("#")
    if mark and number.isdigit() and Path(folder).is_dir():
        from simulator.scenario.axes import point_texts
        from simulator.scenario.sweep_table import load_sweep

        sweep = load_sweep(folder)
        if int(number) >= len(sweep.points):
            raise ConfigError(f"the sweep '{folder}' has {len(sweep.points)} points, counted from 0")
        recipe = sweep.recipe()
        point = point_texts(sweep.points[int(number)])
        return recipe.source, [*recipe.changes, *point, "what_if={}", *changes]
    path = Path(source)
    if path.is_dir():
        from simulator.results.storage import load_result

        return load_result(path).document, changes
    if path.suffix == ".json" and path.is_file():
        return _answer(path), changes
    return source, changes


def _answer(path: Path) -> Mapping[str, Any]:
    """The scenario of the best of a recommendation, or a scenario written as JSON."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"'{path}' is not JSON: {error}") from None
    if isinstance(found, dict) and "best" in found:
        if found["best"] is None:
            raise ConfigError(f"'{path}': nothing was recommended")
        return dict(found["best"]["scenario"])
    if not isinstance(found, dict):
        raise ConfigError(f"'{path}' is neither a scenario nor an answer of 'fmsim recommend --json'")
    return found


def setup_of(scenario: Scenario, job: TrainingJob | Deployment) -> Setup:
    """A workload as an engine sees it."""
    place = scenario.placement(job.name)
    per_node = scenario.cluster_of(job.name).groups[0].node.accelerators
    if isinstance(job, TrainingJob):
        values = _plan_values("plan", job.plan, _PLAN) | {
            "batch.global_batch_size": job.batch.global_batch_size, "steps": job.steps,
            "batch.micro_batch_size": job.batch.micro_batch_size, "batch.sequence_length": job.batch.sequence_length,
        }  # fmt: skip
        return Setup("training", job.model, job.framework, values, place.nodes, min(per_node, job.plan.accelerators))
    from simulator.registry import lookup

    own_cache = getattr(lookup("batching", job.batching), "kv_policy", "")
    values = _plan_values("deployment.plan", job.plan, _SERVING_PLAN) | {
        "deployment.replicas": job.replicas, "deployment.batching": job.batching, "deployment.router": job.router,
        "deployment.kv_cache": job.kv_cache or own_cache, "deployment.admission": job.admission,
        "deployment.max_batched_tokens": job.max_num_batched_tokens, "deployment.max_num_seqs": job.max_num_seqs,
        "deployment.max_model_len": job.max_model_len, "deployment.block_size": job.block_size,
        "deployment.memory_utilization": job.memory_utilization, "deployment.kv_dtype": job.kv_dtype,
        "deployment.preemption": job.preemption,
        **{f"deployment.options.{name}": thawed(value) for name, value in job.options},
    }  # fmt: skip
    return Setup("serving", job.model, job.framework, values, place.nodes, min(per_node, job.plan.accelerators))


def _plan_values(prefix: str, plan: Plan, fields: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {f"{prefix}.{name}": getattr(plan, name) for name in fields}
    return found | {f"{prefix}.options.{name}": thawed(value) for name, value in plan.options}


def thawed(value: object) -> Any:
    """A frozen option as it is written: pairs are a mapping again."""
    if isinstance(value, tuple):
        if value and all(isinstance(v, tuple) and len(v) == 2 and isinstance(v[0], str) for v in value):
            return {name: thawed(item) for name, item in value}
        return [thawed(v) for v in value]
    return value


def _marks(scenario: Scenario, name: str, setup: Setup, written: Written) -> Iterator[str]:
    """``path=value`` of everything that makes the scenario and that the arguments do not say."""

    def mark(path: str, value: Any) -> str:
        return f"{path}={json.dumps(value, ensure_ascii=False)}"

    document = scenario.document
    for key in ("name", "seed", "failures", "until", "record"):
        if document.get(key) is not None:
            yield mark(key, document[key])
    yield mark("cluster", _cluster(scenario, name, setup))
    section = next(w for w in document["workloads"] if name in (w.get("training"), w.get("serving")))
    for key, value in section.items():
        if key not in ("plan", "batch", "steps", "deployment", "nodes"):
            yield mark(f"workloads.0.{key}", value)
    for path, value in setup.values.items():
        if path not in written.said and _DEFAULTS.get(path) != value:
            yield mark(f"workloads.0.{path}", value)


def _cluster(scenario: Scenario, name: str, setup: Setup) -> dict[str, Any]:
    """The cluster as written, but with the nodes of this workload only."""
    written = dict(scenario.document["cluster"])
    shipped = names("hardware_profiles/nodes")
    groups: dict[str, int] = {}
    replicas = setup.get("deployment.replicas", 1)
    taken: set[tuple[str, int]] = set()
    for replica in range(replicas):
        place, node = scenario.placement(name, replica), scenario.cluster_of(name, replica).groups[0].node
        taken |= {(node.name, place.first_node + i) for i in range(place.nodes)}
    for profile, _ in sorted(taken):
        groups[profile] = groups.get(profile, 0) + 1
    if all(profile in shipped for profile in groups):
        found = [{"profile": profile, "count": count} for profile, count in groups.items()]
        written["nodes"] = found[0] if len(found) == 1 else found
    return written
