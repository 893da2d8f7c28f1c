"""Runs every case, on several processes, and keeps what was answered so that a stopped validation resumes."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from simulator.data import data_root
from simulator.errors import ConfigError, Issue
from simulator.validation.cases import Case, Reading, Skipped, Subject
from simulator.validation.held_out import without_own_constants
from simulator.validation.read import measurement_files, read_file
from simulator.validation.rows import RowRecord, rows_of

__all__ = ["Outcome", "validate"]

Answer = tuple[dict[str, float], str]

CHUNK = 24
"""Cases per task: large enough that a worker reuses what it has priced, small enough that progress moves."""


FAILED = "the simulator failed:"
"""Start of the note of a case that raised; such an answer is not kept."""


@dataclass(frozen=True)
class Outcome:
    """Rows of every case and the records that were not simulated."""

    rows: list[RowRecord]
    skipped: list[Skipped]


def validate(
    paths: Sequence[str | Path], split: str = "", cache_folder: Path | None = None, workers: int = 0,
    progress: Callable[[int, int], None] | None = None, held_out: bool = False,
) -> Outcome:  # fmt: skip
    """Every record of the files, simulated and compared.

    Parameters
    ----------
    paths
        Files, or folders that are searched for known formats.
    split
        Only records of this split (``dev``), all if empty.
    cache_folder
        Answers are kept here by inputs and version of the simulator; ``None`` keeps nothing.
    workers
        Processes, 0 = one per core.
    progress
        Called with (done, all) cases.
    held_out
        Score every source without the constants that were fitted on it.

    Returns
    -------
    Outcome
        In the order of the files, whatever the number of processes.
    """
    files = measurement_files(paths)
    given = (tuple(str(f) for f in files), split, held_out)
    reading = _read_all(*given)
    keys = [subject_key(case.subject) for case in reading.cases]
    answers = _known(keys, cache_folder)
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    unanswered = sorted(index for key, index in first.items() if key not in answers)
    total, done = len(first), len(first) - len(unanswered)
    if progress:
        progress(done, total)
    for index, answer in _answers(unanswered, given, workers):
        answers[keys[index]] = answer
        if not answer[1].startswith(FAILED):
            _keep(keys[index], answer, cache_folder)
        done += 1
        if progress:
            progress(done, total)
    rows = [
        row for case, key in zip(reading.cases, keys, strict=True) for row in rows_of(case, *answers[key], key[:12])
    ]
    return Outcome(rows, reading.skipped)


Given = tuple[tuple[str, ...], str, bool]


@cache
def _read_all(files: tuple[str, ...], split: str, held_out: bool) -> Reading:
    whole, issues = Reading(), list[Issue]()
    for name in files:
        try:
            part = read_file(Path(name))
        except ConfigError as error:
            issues += error.issues
            continue
        whole.cases += [c for c in part.cases if not split or c.split == split]
        whole.skipped += [s for s in part.skipped if not split or s.split == split]
    if issues:
        raise ConfigError(issues)
    if held_out:
        whole.cases = [without_own_constants(c) or c for c in whole.cases]
    return whole


def _answers(unanswered: Sequence[int], given: Given, workers: int) -> Iterator[tuple[int, Answer]]:
    """Answers in any order. Workers read the files themselves, so that only numbers travel between processes."""
    count = workers or os.cpu_count() or 1
    if count == 1 or len(unanswered) <= CHUNK:
        yield from _work(given, tuple(unanswered))
        return
    chunks = [tuple(unanswered[i : i + CHUNK]) for i in range(0, len(unanswered), CHUNK)]
    with ProcessPoolExecutor(count) as pool:
        for task in as_completed([pool.submit(_listed, given, chunk) for chunk in chunks]):
            yield from task.result()


def _work(given: Given, indices: tuple[int, ...]) -> Iterator[tuple[int, Answer]]:
    cases = _read_all(*given).cases
    return ((i, answer_case(cases[i])) for i in indices)


def _listed(given: Given, indices: tuple[int, ...]) -> list[tuple[int, Answer]]:
    return list(_work(given, indices))


def runners() -> dict[str, Callable[[Subject], Answer]]:
    """What runs a subject, by ``Subject.runner``."""
    from simulator.validation import (
        cluster_runs,
        offload_runs,
        pool_runs,
        power_runs,
        production_runs,
        serving_runs,
        step_runs,
        trace_runs,
        training_runs,
        vidur_runs,
    )

    return {
        "training": training_runs.run_training,
        "training_layer": training_runs.run_layer,
        "bubble": training_runs.run_bubble,
        "step": step_runs.run_step,
        "serving": serving_runs.run_serving,
        "pools": pool_runs.run_pools,
        "static_batch": serving_runs.run_static,
        "capacity": serving_runs.run_capacity,
        "production": production_runs.run_production,
        "block_schedule": offload_runs.run_block_schedule,
        "vidur": vidur_runs.run_vidur,
        "training_power": power_runs.run_training_power,
        "kernel": trace_runs.run_kernel,
        "slow_down": step_runs.run_slow_down,
        "failures": cluster_runs.run_failures,
        "checkpoint": cluster_runs.run_checkpoint,
    }


def answer_case(case: Case) -> Answer:
    """Prediction of one case. An error of the simulator becomes a note: one record must not stop the others."""
    try:
        found, reason = runners()[case.subject.runner](case.subject)
    except Exception as error:  # reported in the table, by record
        return {}, f"{FAILED} {type(error).__name__}: {error}"
    return {k: v for k, v in found.items() if not math.isnan(v)}, reason


# -- what is kept --------------------------------------------------------------------------------------------------


def subject_key(subject: Subject) -> str:
    """Hash of everything that a prediction depends on: the subject, the code and the profiles."""
    job = subject.job and replace(subject.job, name="")
    deployment = subject.deployment and replace(subject.deployment, name="")
    text = repr((subject.runner, subject.cluster, job, deployment, subject.settings))
    return hashlib.sha256((version_key() + text).encode()).hexdigest()


@cache
def version_key() -> str:
    """Hash of the simulator's sources and of the data it ships."""
    root = data_root()
    package = Path(__file__).parents[1]
    files = [
        *package.rglob("*.py"),
        *(root / "hardware_profiles").rglob("*.yaml"),
        *(root / "workloads").rglob("*.yaml"),
    ]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _known(keys: Sequence[str], folder: Path | None) -> dict[str, Answer]:
    if folder is None or not (folder / _store_name()).is_file():
        return {}
    wanted, found = set(keys), dict[str, Answer]()
    for line in (folder / _store_name()).read_text(encoding="utf-8").splitlines():
        try:
            key, prediction, note = json.loads(line)
        except ValueError:  # the last line of a killed run
            continue
        if key in wanted:
            found[key] = (prediction, note)
    return found


def _store_name() -> str:
    return f"answers-{version_key()[:12]}.jsonl"


def _keep(key: str, answer: Answer, folder: Path | None) -> None:
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _store_name()).open("a", encoding="utf-8") as file:
        file.write(json.dumps([key, *answer]) + "\n")
