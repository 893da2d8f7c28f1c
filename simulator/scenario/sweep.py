"""Sweeps: many variants of one scenario in one tidy table; resumable, in parallel, failures isolated."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from pathlib import Path
from typing import Any

from simulator.errors import ConfigError, Issue
from simulator.scenario.axes import Axes, Point, changes_of, parse_axes
from simulator.scenario.document import apply_overrides
from simulator.scenario.load import FOLDER
from simulator.scenario.sweep_executors import make_executor
from simulator.scenario.sweep_journal import Journal, fingerprint, point_key
from simulator.scenario.sweep_points import Answer, Depth, Recipe, answer_point
from simulator.scenario.sweep_table import Sweep, sweep_rows
from simulator.scenario.types import Scenario
from simulator.yaml_marks import load_yaml

__all__ = ["Progress", "compute_points", "plan_sweep", "sweep"]

Progress = Callable[[int, int], None]
"""Called with the points done and the points in all."""

Variants = Mapping[str, Sequence[Any]] | Iterable[str]


def sweep(
    source: str | Path | Mapping[str, Any] | Scenario,
    vary: Variants = (),
    *,
    depth: Depth = "run",
    output: str | Path | None = None,
    jobs: int | None = None,
    executor: str | Executor = "local",
    progress: Progress | None = None,
    skip_bad_rows: bool = False,
) -> Sweep:
    """Compute every variant of a scenario.

    Parameters
    ----------
    source
        A scenario file, a shipped name, a mapping or a loaded scenario; its ``what_if`` section is multiplied out.
    vary
        Further alternatives, values by path or texts as on the command line (``cluster.nodes.count=1:16``); a text
        with a single value is a change that holds everywhere.
    depth
        ``estimate`` (bounds), ``step`` (one step or iteration) or ``run`` (everything on the clock).
    output
        Folder that keeps every finished point at once; the same sweep started again goes on there.
    jobs, executor
        Processes (all cores by default), ``local`` or ``ray``, or any :class:`concurrent.futures.Executor`.

    Returns
    -------
    Sweep
        One row per point and workload in the order of the points, infeasible and wrong ones with their reason.

    Raises
    ------
    ConfigError
        If the scenario or the alternatives cannot be read, or if every single point is wrong input.
    """
    recipe, axes, document, base = plan_sweep(source, vary, depth, skip_bad_rows)
    points = axes.points()
    folder = None if output is None else Path(output)
    common = fingerprint({k: v for k, v in document.items() if k != "what_if"}, recipe.changes, depth, base)
    keys = [point_key(common, point, base) for point in points]
    with Journal(folder) as journal:
        missing = [i for i, key in enumerate(keys) if key not in journal.answers]
        known = len(points) - len(missing)
        if progress is not None:
            progress(known, len(points))

        def done(count: int, index: int, answer: Answer) -> None:
            journal.add(keys[missing[index]], answer)
            if progress is not None:
                progress(known + count, len(points))

        compute_points(recipe, [points[i] for i in missing], done, jobs, executor)
        answers = [journal.answers[key] for key in keys]
        _refuse_if_all_wrong(answers)
        found = Sweep(
            axes=tuple(axes.names), rows=tuple(sweep_rows(points, answers, axes.names)), points=tuple(points),
            depth=depth, source=str(recipe.source) if isinstance(recipe.source, str | Path) else "",
            changes=recipe.changes, document=document,
        )  # fmt: skip
        if folder is not None:
            found.save(folder)
    return found


def plan_sweep(
    source: str | Path | Mapping[str, Any] | Scenario, vary: Variants, depth: Depth, skip_bad_rows: bool = False
) -> tuple[Recipe, Axes, Mapping[str, Any], Path | None]:
    """What is common to all points, the axes, the document as written, and the folder its paths are relative to."""
    from simulator.data import find_file

    plain: str | Path | Mapping[str, Any] = source.document if isinstance(source, Scenario) else source
    fixed: list[str] = []
    given: dict[str, Sequence[Any]] = {}
    if isinstance(vary, Mapping):
        given = {path: list(values) for path, values in vary.items()}
        if empty := [path for path, values in given.items() if not values]:
            raise ConfigError(f"no values are given for {', '.join(empty)}")
    else:
        fixed, given = changes_of(vary)  # type: ignore[assignment]
    base = None
    if isinstance(plain, Mapping):
        document: Any = dict(plain)
    else:
        path = find_file(FOLDER, str(plain), "scenario")
        tree, base = load_yaml(path, name=str(plain)), path.parent
        from simulator.errors import IssueCollector

        issues = IssueCollector(str(plain))
        apply_overrides(tree, [text for text in fixed if text.startswith("what_if")], issues)
        issues.raise_if_any()
        document = tree.to_plain()
    section = document.get("what_if") if isinstance(document, Mapping) else None
    if section is not None and not isinstance(section, Mapping):
        raise ConfigError("what_if: needs a mapping from paths to lists of values")
    axes = parse_axes(section or {}, given, fixed)
    return Recipe(plain, tuple(fixed), depth, skip_bad_rows), axes, document, base


def _refuse_if_all_wrong(answers: Sequence[Answer]) -> None:
    """A sweep without one valid point is a mistake in its description, not a table of mistakes."""
    if all(answer["status"] == "error" for answer in answers):
        reasons = dict.fromkeys(str(answer["reason"]) for answer in answers)
        shown = [Issue("", 0, 0, "", reason) for reason in list(reasons)[:5]]
        note = f"none of the {len(answers)} points is a valid scenario"
        raise ConfigError([*shown, Issue("", 0, 0, "", note)])


def compute_points(
    recipe: Recipe,
    points: Sequence[Point],
    done: Callable[[int, int, Answer], None],
    jobs: int | None = None,
    executor: str | Executor = "local",
) -> None:
    """Compute points in any order; ``done(how many so far, index, answer)`` is called in this thread for each.

    A worker that dies (out of memory, killed) takes nothing with it: its pool is made anew and what was under way is
    computed again, one by one; only a point that kills its worker a second time is given up, as an error.
    """
    if not points:
        return
    count = max(1, min(jobs or os.cpu_count() or 1, len(points)))
    if count > 1 and executor == "local":
        _warm_up(recipe, points[0])
    finished = 0

    def finish(index: int, answer: Answer) -> None:
        nonlocal finished
        finished += 1
        done(finished, index, answer)

    if isinstance(executor, Executor):
        lost = _drain(executor, recipe, points, deque(range(len(points))), 4 * count, finish)
    else:
        lost = deque(range(len(points)))
        alone = False
        while lost:
            wanted = deque([lost.popleft()]) if alone else lost
            rest = lost if alone else deque[int]()
            with make_executor(executor, count) as pool:
                again = _drain(pool, recipe, points, wanted, 1 if alone else 4 * count, finish)
            if alone and again:
                finish(again.popleft(), _DIED)
            lost, alone = rest + again, alone or bool(again)
    for index in lost:
        finish(index, _DIED)


_DIED: Answer = {"status": "error", "reason": "the worker process died, perhaps out of memory", "rows": []}


def _drain(
    pool: Executor,
    recipe: Recipe,
    points: Sequence[Point],
    waiting: deque[int],
    window: int,
    finish: Callable[[int, Answer], None],
) -> deque[int]:
    """Compute what waits; returns what is left if the pool broke, those under way first."""
    flying: dict[Future[Answer], int] = {}
    lost: list[int] = []
    try:
        while (waiting or flying) and not lost:
            while waiting and len(flying) < window:
                try:
                    flying[pool.submit(answer_point, recipe, points[waiting[0]])] = waiting[0]
                except BrokenExecutor:
                    lost.append(waiting[0])
                    waiting.popleft()
                    break
                waiting.popleft()
            if flying:
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    index = flying.pop(future)
                    try:
                        finish(index, future.result())
                    except BrokenExecutor:
                        lost.append(index)
                    except Exception as error:  # the executor gave this point up: the others go on
                        reason = f"the executor failed: {type(error).__name__}: {str(error).strip().splitlines()[0]}"
                        finish(index, {"status": "error", "reason": reason, "rows": []})
        for future, index in flying.items():  # the pool broke: some may have been finished all the same
            if future.done() and future.exception() is None:
                finish(index, future.result())
            else:
                lost.append(index)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    return deque([*sorted(lost), *waiting])


def _warm_up(recipe: Recipe, point: Point) -> None:
    """Load what all points share before workers are forked, so that it is read once."""
    from simulator.scenario.sweep_points import result_of

    try:
        result_of(Recipe(recipe.source, recipe.changes, "estimate", recipe.skip_bad_rows), point, record="summary")
    except Exception:  # the point itself will say so
        return
