"""Loading a scenario: read, change from the command line, validate, resolve; every error at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from simulator.data import find_file
from simulator.errors import ConfigError, Issue, IssueCollector
from simulator.scenario.document import Loc, apply_overrides, dotted, place_of
from simulator.scenario.problems import issues_of, prune
from simulator.scenario.requests import read_requests_of
from simulator.scenario.resolve import Resolver
from simulator.scenario.spec import RequestsSpec, ScenarioSpec
from simulator.scenario.types import Scenario
from simulator.yaml_marks import MarkedNode, load_yaml

__all__ = ["load_scenario"]

FOLDER = "scenarios"


def load_scenario(
    source: str | Path | Mapping[str, Any], overrides: Iterable[str] = (), *, skip_bad_rows: bool = False
) -> Scenario:
    """The scenario of a file, a shipped name, or a mapping, ready to run.

    Parameters
    ----------
    source
        ``quickstart`` (shipped), ``my/scenario.yaml``, or a mapping with the same keys.
    overrides
        Changes as on the command line: ``cluster.nodes.count=64``, ``workloads.pretrain.plan.tp=4``.
    skip_bad_rows
        Go on without the bad rows of request traces; how many were left out is a warning of the scenario.

    Raises
    ------
    ConfigError
        With everything that is wrong: unknown keys, units, names, degrees, divisibility, bad rows of traces; each
        with file, line, column, path and cure.
    """
    tree, base = _read(source)
    issues = IssueCollector(tree.file)
    apply_overrides(tree, overrides, issues)
    document = tree.to_plain()
    spec, wrong = _validate(document, tree, base, issues)
    scenario = None
    if spec is not None:
        resolver = Resolver(spec, tree, issues, wrong, base, skip_bad_rows)
        scenario = resolver.scenario(document)
    else:
        _check_requests(document, tree, wrong, issues, base, skip_bad_rows)
    issues.raise_if_any()
    assert scenario is not None  # a scenario is missing only where an issue says why
    return scenario


def _read(source: str | Path | Mapping[str, Any]) -> tuple[MarkedNode, Path | None]:
    if isinstance(source, Mapping):
        import json

        # Through JSON, so that a mapping is read by the very rules of a file.
        return load_yaml(json.dumps(source), name="scenario"), None
    path = find_file(FOLDER, str(source), "scenario")
    return load_yaml(path, name=_shown(path)), path.parent


def _shown(path: Path) -> str:
    """The path as people type it: relative to the working folder when it lies below."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _validate(
    document: Any, tree: MarkedNode, base: Path | None, issues: IssueCollector
) -> tuple[ScenarioSpec | None, list[tuple[str | int, ...]]]:
    """The validated document; where it has errors, what is left without the wrong values, and their paths."""
    if not isinstance(document, dict):
        message = "a scenario is a mapping with the keys name, cluster, workloads ..."
        raise ConfigError([Issue(tree.file, tree.line, tree.column, "", message)])
    context = {"base": base}
    try:
        return ScenarioSpec.model_validate(document, context=context), []
    except ValidationError as error:
        issues.extend(issues_of(error, tree))
        kept, wrong = prune(document, error)
    try:
        return ScenarioSpec.model_validate(kept, context=context), wrong
    except ValidationError:
        return None, wrong


def _check_requests(
    document: Any,
    tree: MarkedNode,
    wrong: list[tuple[str | int, ...]],
    issues: IssueCollector,
    base: Path | None,
    skip_bad_rows: bool,
) -> None:
    """Read the requests of every deployment, which rest on nothing else: a wrong model must not hide a wrong trace."""
    for index, workload in enumerate(document.get("workloads") or ()):
        written = workload.get("requests") if isinstance(workload, dict) else None
        loc = ("workloads", index, "requests")
        if not isinstance(written, dict) or any(bad[: len(loc)] == loc for bad in wrong):
            continue
        try:
            read_requests_of(RequestsSpec.model_validate(written, context={"base": base}), 0, base, skip_bad_rows)
        except ConfigError as error:
            for issue in error.issues:
                at: Loc = (*loc, *filter(None, issue.path.split(".")))
                issues.extend([issue if issue.file else Issue(*place_of(tree, at), dotted(at), issue.message)])
