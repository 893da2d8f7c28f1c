"""All comparisons of ``fmsim verify``: every case is run, then every case once more, then all are predicted.

So the two measurements of a case lie minutes apart, as calibration and verification do: what they differ by is the
machine, and no prediction can be nearer than that.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from simulator.calibration.torch_setup import keep_pages
from simulator.calibration.verify import (
    Comparison,
    Seen,
    TrainingCase,
    compare_training,
    run_training,
    training_cases,
)
from simulator.calibration.verify_parallel import compare_parallel
from simulator.calibration.verify_serving import ServingCase, compare_serving, run_serving, serving_cases
from simulator.data import names
from simulator.errors import ConfigError
from simulator.hardware.profiles import load_node
from simulator.hardware.types import Node

__all__ = ["find_node", "verify_all"]

PASSES = 2
"""Measurements of every case."""


def find_node(profile: str) -> Node:
    """The node profile called ``profile``; with a cure if nobody has calibrated yet.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if "/" not in profile and not profile.endswith(".yaml") and profile not in names("hardware_profiles/nodes"):
        made = Path("hardware_profiles/nodes") / f"{profile}.yaml"
        if made.is_file():
            return load_node(str(made))
        raise ConfigError(
            f"there is no profile '{profile}': run 'fmsim calibrate' first, or name one with --profile "
            "(a file that calibrate wrote under nodes/)"
        )
    return load_node(profile)


def verify_all(
    device: str,
    profile: str,
    quick: bool = False,
    seconds: float = 2.0,
    parallel: bool = True,
    clock: str = "wall",
    progress: Callable[[int, int, str], None] = lambda done, all_, what: None,
) -> tuple[list[Comparison], list[str]]:
    """Comparisons, and what was left out with the reason.

    Parameters
    ----------
    profile
        Node profile of the machine.
    quick
        Few small cases.
    seconds
        For one training case, both measurements together.
    clock
        As for calibration; two processes are always timed by the wall.
    parallel
        Two processes as well, if a profile of one rank lies beside the node's.
    """
    node = find_node(profile)
    keep_pages()
    cases: list[TrainingCase | ServingCase] = [*training_cases(quick), *serving_cases(quick)]
    whole = PASSES * len(cases) + (3 if parallel else 0)
    passes: list[list[Seen]] = []
    for number in range(PASSES):
        seen = []
        for index, case in enumerate(cases):
            progress(number * len(cases) + index, whole, case.name)
            seen.append(_run(case, device, seconds / PASSES, clock, look=number == 0))
        passes.append(seen)
    found = [_compare(case, node, device, *both) for case, *both in zip(cases, *passes, strict=True)]
    left_out: list[str] = []
    if parallel:
        progress(PASSES * len(cases), whole, "two processes")
        try:
            found += compare_parallel(profile, device, quick, seconds)
        except ConfigError as error:
            left_out.append(f"two processes: {error}")
    busy = sum(not c.quiet for c in found)
    if busy:
        left_out.append(f"{busy} of {len(found)} cases never had the machine to themselves: expect more noise")
    return found, left_out


def _run(case: TrainingCase | ServingCase, device: str, seconds: float, clock: str, look: bool) -> Seen:
    if isinstance(case, TrainingCase):
        return run_training(case, device, seconds, clock, look)
    return run_serving(case, device, seconds / 2, clock)


def _compare(case: TrainingCase | ServingCase, node: Node, device: str, first: Seen, second: Seen) -> Comparison:
    if isinstance(case, TrainingCase):
        return compare_training(case, node, device, first, second)
    return compare_serving(case, node, device, first, second)
