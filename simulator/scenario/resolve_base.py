"""What every part of resolving a scenario needs: the document, where errors go, and shipped things by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.data import find_file
from simulator.errors import ConfigError, Issue, IssueCollector
from simulator.scenario import checks
from simulator.scenario.document import dotted, place_of
from simulator.scenario.spec import ScenarioSpec, ServingSpec, TrainingSpec
from simulator.workload.framework import Framework
from simulator.workload.model import ModelSpec
from simulator.yaml_marks import MarkedNode

if TYPE_CHECKING:
    pass

__all__ = ["Loc", "ResolverBase"]

Loc = tuple[str | int, ...]


class ResolverBase:
    """Builds a scenario from a validated document, adding to ``issues`` what does not work together.

    ``wrong`` are paths whose values were invalid and left out: checks that would rest on them are skipped, so
    that one mistake is reported once.
    """

    def __init__(
        self,
        spec: ScenarioSpec,
        tree: MarkedNode,
        issues: IssueCollector,
        wrong: list[Loc],
        base: Path | None,
        skip_bad_rows: bool,
    ) -> None:
        self.spec, self.tree, self.issues, self.wrong = spec, tree, issues, wrong
        self.base, self.skip_bad_rows = base, skip_bad_rows
        self.warnings: list[str] = []
        self.files: dict[str, str] = {}

    # -- reporting ------------------------------------------------------------------------------------------------

    def _error(self, loc: Loc, message: str) -> None:
        self.issues.extend([Issue(*place_of(self.tree, loc), dotted(loc), message)])

    def _tainted(self, *locs: Loc) -> bool:
        """Whether a value at or below one of the paths was invalid."""
        return any(bad[: len(loc)] == loc for bad in self.wrong for loc in locs)

    def _load(self, loc: Loc, folder: str, name: str, loader: Any) -> Any:
        """An object by name; its errors were reported when the key was checked."""
        with suppress(ConfigError):  # an alias or a folder has no single file to hash
            self.files[f"{folder}/{Path(name).name}"] = str(find_file(folder, name, folder))
        return loader(name)

    def _software(self, workload: TrainingSpec | ServingSpec, loc: Loc, area: str) -> tuple[ModelSpec, Framework]:
        from simulator.workload.framework_files import load_framework
        from simulator.workload.model_files import load_model

        model: ModelSpec = self._load(loc, "workloads/models", workload.model, load_model)
        framework: Framework = self._load(loc, "workloads/frameworks", workload.framework, load_framework)
        if framework.area != area:
            self._error(
                (*loc, "framework"), f"'{framework.name}' is a {framework.area} framework, this needs one for {area}"
            )
        return model, framework

    def _report(self, loc: Loc, problems: Iterator[checks.Problem] | list[checks.Problem]) -> None:
        for path, message in problems:
            self._error((*loc, *path), message)
