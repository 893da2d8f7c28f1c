"""Import: the command that starts a workload, as a scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulator.errors import ConfigError, IssueCollector
from simulator.scenario.deploy.engines import ENGINES, command_of
from simulator.scenario.deploy.flags import parse
from simulator.scenario.deploy.shell import marked, statements
from simulator.scenario.deploy.types import Engine, Read, nested
from simulator.scenario.document import apply_overrides
from simulator.yaml_marks import load_yaml

__all__ = ["Imported", "import_arguments"]

NODE = "dgx-h100"
REQUESTS: Mapping[str, Any] = {"trace": "azure-2023-conv", "rate": "2 /s", "count": 2000}
"""What is asked of a deployment, about which its arguments say nothing."""
_LARGEST_FILE = 1_000_000


@dataclass(frozen=True)
class Imported:
    """A scenario made from arguments.

    Attributes
    ----------
    engine
        Whose arguments they are.
    document
        The scenario.
    notes
        What was assumed, and what of the arguments is not simulated.
    ignored
        Flags without a bearing on a simulation, as written.
    """

    engine: str
    document: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = field(default=())

    def to_yaml(self) -> str:
        """The scenario file, its notes as comments."""
        import yaml

        lines = [f"# From arguments of {self.engine}. 'fmsim check' says whether it can run, 'fmsim run' answers."]
        lines += [f"# - {note}" for note in self.notes]
        if self.ignored:
            lines.append(f"# Without a bearing here: {', '.join(self.ignored)}")
        return "\n".join(lines) + "\n" + yaml.safe_dump(dict(self.document), sort_keys=False, width=110)


def import_arguments(source: str | Path, *, model: str = "", node: str = "") -> Imported:
    """A scenario from a launch script, a DeepSpeed configuration, or a command.

    Parameters
    ----------
    source
        ``launch.sh``, ``ds_config.json``, or the command itself: ``"vllm serve meta-llama/... -tp 8"``.
    model
        The shipped name or file of the model, where the command does not tell.
    node
        The node profile that it runs on, about which a command says nothing.

    Raises
    ------
    ConfigError
        If no engine is started there, or with every flag that the engine does not have.
    """
    text, folder, alone = _read(source)
    engine, words = _command(text, alone)
    given = parse(engine.version, words, engine.flags, engine.known)
    read = engine.read(given, model, _files(words, folder))
    read.notes += [f"{name} is not simulated: {why}" for name, why in engine.unmodelled.items() if name in given]
    document = _document(engine, read, node)
    if marks := marked(text):
        document = _with_marks(document, marks, str(source))
    return Imported(
        engine.version, document, (*read.notes, *(() if marks else read.assumed)), tuple(given.ignored)
    )  # fmt: skip


def _read(source: str | Path) -> tuple[str, Path, str]:
    """The text, the folder that file names in it are relative to, and the name of a DeepSpeed configuration."""
    path = Path(source)
    try:
        is_file = path.is_file()
    except OSError:  # a long command is no file name
        is_file = False
    if is_file:
        if path.suffix == ".json":
            return "", path.parent, path.name
        return path.read_text(encoding="utf-8"), path.parent, ""
    if len(str(source).split()) < 2:
        raise ConfigError(f"'{source}' is neither a file nor a command")
    return str(source), Path(), ""


def _command(text: str, configuration: str) -> tuple[Engine, list[str]]:
    if configuration:
        return ENGINES["deepspeed"], ["--deepspeed_config", configuration]
    found = [command for statement in statements(text) if (command := command_of(statement)) is not None]
    if not found:
        raise ConfigError("no command starts torchrun, deepspeed, vllm serve, sglang.launch_server or trtllm-serve")
    if len(found) > 1:
        raise ConfigError(f"{len(found)} commands start an engine: give one of them")
    return found[0]


def _files(words: Sequence[str], folder: Path) -> dict[str, str]:
    """Small files that words of the command name."""
    found = {}
    for word in (part for each in words for part in (each, each.partition("=")[2])):
        path = folder / word
        if not word or path.suffix not in (".json", ".yaml", ".yml") or not path.is_file():
            continue
        if path.stat().st_size < _LARGEST_FILE:
            found[word] = path.read_text(encoding="utf-8")
    return found


def _document(engine: Engine, read: Read, node: str) -> dict[str, Any]:
    """The scenario; what the arguments do not tell is assumed."""
    from simulator.hardware.profiles import load_node

    notes = read.assumed
    profile = node or NODE
    per_node = load_node(profile).accelerators
    if not node:
        notes.append(f"the arguments do not name the hardware: {profile} is assumed (--node, cluster.nodes.profile)")
    if read.per_node not in (None, per_node):
        notes.append(f"{read.per_node} processes per node, but {profile} has {per_node} accelerators")
    section = nested(read.values)
    workload: dict[str, Any]
    if engine.area == "training":
        workload = {"training": "pretrain", "model": read.model, "framework": read.framework}
        world = (read.nodes or 1) * (read.per_node or per_node)
        count = max(1, -(-world // per_node))
        if read.per_node is None:
            notes.append(f"the arguments do not say on how many accelerators: {world} are assumed")
            section.get("plan", {}).pop("data_parallel", None)
            section["batch"].setdefault("global_batch_size", section["batch"]["micro_batch_size"] * world)
    else:
        workload = {"serving": "chat", "model": read.model, "framework": read.framework, "requests": dict(REQUESTS)}
        notes.append("the arguments do not tell the traffic: see requests, and give an slo")
        plan = section["deployment"].get("plan", {})
        size = plan.get("tensor_parallel", 1) * plan.get("pipeline_parallel", 1) * plan.get("data_parallel", 1)
        replicas = section["deployment"].get("replicas", 1)
        count = replicas * -(-size // per_node) if size > per_node else -(-replicas // (per_node // size))
    return {
        "name": f"{read.model} as its {engine.name} command says", "seed": 1,
        "cluster": {"nodes": {"profile": profile, "count": count}}, "workloads": [{**workload, **section}],
    }  # fmt: skip


def _with_marks(document: dict[str, Any], marks: Sequence[str], name: str) -> dict[str, Any]:
    import json

    tree = load_yaml(json.dumps(document), name=name)
    workload = tree.value["workloads"].value[0].value
    named = {mark.partition("=")[0].rpartition(".")[2] for mark in marks if mark.startswith("workloads.0.")}
    for kind in ("training", "serving"):
        if kind in named and kind not in workload:
            raise ConfigError(f"{name}: the marked lines are about {kind}, the command is not")
    issues = IssueCollector(name)
    apply_overrides(tree, marks, issues)
    issues.raise_if_any()
    found: dict[str, Any] = tree.to_plain()
    return found
