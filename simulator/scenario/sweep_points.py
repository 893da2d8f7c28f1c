"""One point of a sweep: load it, compute it, and answer with plain rows whatever happens."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from simulator.errors import ConfigError
from simulator.results.tables import Result
from simulator.scenario.axes import Point, point_texts

__all__ = ["Answer", "Depth", "Recipe", "answer_point", "prepare_worker", "result_of"]

Depth: TypeAlias = Literal["estimate", "step", "run"]
Answer: TypeAlias = dict[str, Any]
"""``status`` (ok, infeasible or error), ``reason``, and ``rows``: the summary rows of the workloads."""


@dataclass(frozen=True)
class Recipe:
    """What all points of a sweep share.

    Attributes
    ----------
    source, changes
        The scenario and the changes that hold everywhere.
    depth
        ``estimate``, ``step`` or ``run``.
    skip_bad_rows
        As in :func:`simulator.scenario.load.load_scenario`.
    """

    source: str | Path | Mapping[str, Any]
    changes: tuple[str, ...] = ()
    depth: Depth = "run"
    skip_bad_rows: bool = False


def result_of(recipe: Recipe, point: Point, *, record: str | None = None) -> Result:
    """The result of one point.

    Raises
    ------
    ConfigError
        If the point is not a valid scenario.
    """
    from simulator.scenario.load import load_scenario
    from simulator.scenario.run import estimate_scenario, run_scenario

    changes = [*recipe.changes, *point_texts(point), "what_if={}", *([f"record={record}"] if record else [])]
    scenario = load_scenario(recipe.source, changes, skip_bad_rows=recipe.skip_bad_rows)
    return run_scenario(scenario) if recipe.depth == "run" else estimate_scenario(scenario, recipe.depth)


def answer_point(recipe: Recipe, point: Point) -> Answer:
    """The answer of one point; an error is an answer as well, so that it never loses the others."""
    # Long tables of an estimate are not kept by a sweep: do not make them.
    record = None if recipe.depth == "run" else "summary"
    try:
        result = result_of(recipe, point, record=record)
    except ConfigError as error:
        return {"status": "error", "reason": "; ".join(_said(i.path, i.message) for i in error.issues), "rows": []}
    except Exception as error:  # whatever goes wrong in one point must not end the sweep
        return {"status": "error", "reason": f"{type(error).__name__}: {error}", "rows": []}
    rows = result.rows("summary")
    return {
        "status": "ok" if result.feasible else "infeasible",
        "reason": "; ".join(str(row["reason"]) for row in rows if row["reason"]),
        "rows": rows,
    }


def _said(path: str, message: str) -> str:
    return f"{path}: {message}" if path else message


def prepare_worker(parent: int) -> None:
    """Leave Ctrl-C to the process that started this one, and end with it even if it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
