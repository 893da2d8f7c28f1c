"""Verbs on scenarios: run, estimate, check, new, schema."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulator.cli.errors import INFEASIBLE, OK
from simulator.cli.options import AsJson, Override, ScenarioName, SkipBadRows, console, print_json

if TYPE_CHECKING:
    from simulator.results.tables import Result
    from simulator.scenario.types import Scenario

__all__ = ["check", "estimate", "new", "run", "schema"]

Output = Annotated[Path | None, typer.Option("-o", "--output", metavar="DIR", help="Save the result in this folder.")]


class Depth(StrEnum):
    """How deep an estimate goes."""

    estimate = "estimate"
    step = "step"


def run(
    scenario: ScenarioName,
    set_: Override = None,
    output: Output = None,
    parquet: Annotated[bool, typer.Option("--parquet", help="Save big tables as Parquet.")] = False,
    skip_bad_rows: SkipBadRows = False,
    as_json: AsJson = False,
) -> int:
    """Simulate a scenario on one clock: does it fit, how fast is it, what does it cost."""
    from simulator.cli.whatif import progress_bar
    from simulator.scenario.run import run_scenario

    loaded = _load(scenario, set_, skip_bad_rows)
    with progress_bar(as_json, "requests") as progress:
        answer = run_scenario(loaded, _command("run", scenario, set_), progress)
    return _answer(answer, output, parquet, as_json)


def estimate(
    scenario: ScenarioName,
    set_: Override = None,
    depth: Annotated[Depth, typer.Option(help="Bounds only, or one step executed on streams.")] = Depth.step,
    output: Output = None,
    as_json: AsJson = False,
) -> int:
    """Time, memory and traffic of the training jobs of a scenario, without the clock."""
    from simulator.scenario.run import estimate_scenario

    loaded = _load(scenario, set_, False)
    answer = estimate_scenario(loaded, depth.value, _command("estimate", scenario, set_))
    return _answer(answer, output, False, as_json)


def check(
    scenario: ScenarioName, set_: Override = None, skip_bad_rows: SkipBadRows = False, as_json: AsJson = False
) -> int:
    """Check a scenario and everything it names; all errors at once, nothing is simulated."""
    loaded = _load(scenario, set_, skip_bad_rows)
    jobs = [
        {"name": j.name, "kind": "training", "plan": str(j.plan), "accelerators": j.plan.accelerators}
        for j in loaded.training
    ]
    jobs += [
        {"name": d.name, "kind": "serving", "plan": str(d.plan), "accelerators": d.accelerators,
         "requests": len(d.requests)}
        for d in loaded.deployments
    ]  # fmt: skip
    per_node = loaded.cluster.groups[0].node.accelerators
    jobs += [
        {"name": q.name, "kind": "jobs", "plan": f"{q.queue}, {q.placement}", "accelerators": q.nodes * per_node,
         "jobs": len(q.jobs)}
        for q in loaded.queues
    ]  # fmt: skip
    jobs += [
        {"name": f.name, "kind": "functions", "plan": f.placement, "accelerators": sum(s.accelerators for s in f.sites),
         "calls": len(f.calls)}
        for f in loaded.functions
    ]  # fmt: skip
    if as_json:
        size = loaded.cluster.accelerator_count
        notes = list(loaded.warnings)
        print_json({"ok": True, "name": loaded.name, "accelerators": size, "workloads": jobs, "warnings": notes})
        return OK
    out = console()
    out.print(f"{loaded.name}: ok, {loaded.cluster.node_count} nodes, {loaded.cluster.accelerator_count} accelerators")
    for job in jobs:
        more = "".join(f", {job[what]:,} {what}" for what in ("requests", "calls", "jobs") if what in job)
        out.print(
            f"  {job['kind']} {job['name']}: {job['plan']} on {job['accelerators']} accelerators{more}", markup=False
        )
    for warning in loaded.warnings:
        out.print(f"note: {warning}", style="yellow", markup=False)
    return OK


class Kind(StrEnum):
    """What a new scenario is about."""

    training = "training"
    serving = "serving"
    cluster = "cluster"


def new(
    file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("scenario.yaml"),
    kind: Annotated[
        Kind, typer.Option("--kind", help="A training job, a deployment, or both on one cluster.")
    ] = Kind.cluster,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="SCRIPT|COMMAND",
            help="Read a launch script, a ds_config.json, or a quoted command such as 'vllm serve MODEL -tp 8'.",
        ),
    ] = None,
    model: Annotated[str, typer.Option("--model", help="With --from: the model, if the command does not tell.")] = "",
    node: Annotated[str, typer.Option("--node", help="With --from: the node profile that it runs on.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: AsJson = False,
) -> int:
    """Write a commented scenario to start from, or the one that a launch command means."""
    from simulator.errors import ConfigError

    if file.exists() and not force:
        raise ConfigError(f"'{file}' exists: choose another name, or overwrite it with --force")
    if from_ is None and (model or node):
        raise ConfigError("--model and --node are for --from; change the written file instead")
    notes: list[str] = []
    if from_ is not None:
        from simulator.scenario.deploy import import_arguments

        found = import_arguments(from_, model=model, node=node)
        text, notes = found.to_yaml(), list(found.notes)
    else:
        from simulator.scenario.template import template

        text = template(kind.value)
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"'{file}' cannot be written: {error.strerror}") from None
    if as_json:
        print_json({"scenario": str(file), "notes": notes})
        return OK
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"wrote {file}; try: fmsim run {file}")
    return OK


def schema(
    results: Annotated[bool, typer.Option("--results", help="Result tables as the page docs/results.md.")] = False,
) -> int:
    """Print the JSON Schema of scenario files, for completion in editors."""
    if results:
        from simulator.report.results_page import results_page

        print(results_page(), end="")
        return OK
    from simulator.scenario.schema import json_schema

    print_json(json_schema())
    return OK


def _load(name: str, changes: list[str] | None, skip_bad_rows: bool) -> Scenario:
    from simulator.scenario.load import load_scenario

    return load_scenario(name, changes or (), skip_bad_rows=skip_bad_rows)


def _command(verb: str, scenario: str, changes: list[str] | None) -> str:
    """The command as provenance: what decides the numbers, not where they are written."""
    import shlex

    return shlex.join(["fmsim", verb, scenario, *(part for change in changes or () for part in ("-s", change))])


def _answer(result: Result, output: Path | None, parquet: bool, as_json: bool) -> int:
    if output is not None:
        from simulator.results.storage import save_result

        save_result(result, output, parquet=parquet)
    if as_json:
        print_json(result.to_json(("summary", "time", "memory", "traffic", "costs")))
    else:
        from simulator.report.terminal import print_result

        print_result(result, console())
        if output is not None:
            print(f"saved in {output}", file=sys.stderr)
    return OK if result.feasible else INFEASIBLE
