"""All comparisons of ``fmsim verify``: every case is run in several passes, all other cases in between.

So the measurements of a case lie minutes apart, as calibration and verification do: what they differ by is the machine,
and no prediction can be nearer than that. Every second pass goes in reverse order, and in each some kernels of the
profile are timed again, too. Which measurements count is said in :mod:`simulator.calibration.passes`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from simulator.calibration.passes import PASSES, Machine, Taken, Verdict, verdict
from simulator.calibration.retimed import Retimed, chosen, compare_kernels, retime
from simulator.calibration.timing import CLOCKS
from simulator.calibration.torch_setup import keep_pages
from simulator.calibration.verify import (
    Comparison,
    Seen,
    TrainingCase,
    compare_training,
    run_training,
    training_cases,
)
from simulator.calibration.verify_parallel import compare_parallel, rank_node, run_parallel
from simulator.calibration.verify_serving import ServingCase, compare_serving, run_serving, serving_cases
from simulator.data import names
from simulator.errors import ConfigError
from simulator.hardware.profiles import load_node
from simulator.hardware.types import Node

__all__ = ["Verified", "find_node", "verify_all"]

MORE = 2
"""More passes at most over the cases that the machine disturbed, """
MORE_SHARE = 0.15
"""and time for them as a share of what all others took."""


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


@dataclass(frozen=True)
class Verified:
    """Comparisons, kernels of the profile timed again, and what was left out with the reason."""

    comparisons: list[Comparison]
    kernels: list[Retimed]
    left_out: list[str]


def verify_all(
    device: str,
    profile: str,
    quick: bool = False,
    seconds: float = 2.0,
    parallel: bool = True,
    clock: str = "wall",
    progress: Callable[[int, int, str], None] = lambda done, all_, what: None,
) -> Verified:
    """Run everything and compare it.

    Parameters
    ----------
    profile
        Node profile of the machine.
    quick
        Few small cases.
    seconds
        For one training case, all passes together.
    clock
        As for calibration; two processes are always timed by the wall.
    parallel
        Two processes as well, if a profile of one rank lies beside the node's.
    """
    node, start = find_node(profile), time.perf_counter()
    keep_pages()
    cases: list[TrainingCase | ServingCase] = [*training_cases(quick), *serving_cases(quick)]
    again, reason = chosen(node.accelerator, device), _no_ranks(profile) if parallel else ""
    left_out, parallel = [f"two processes: {reason}"] if reason else [], parallel and not reason
    machine, whole = Machine(device), len(cases) + 2
    first: list[Seen] = []
    taken: list[list[Taken]] = [[] for _ in cases]
    kernels: list[list[float]] = []
    ranks: list[list[Taken]] = []

    def run(index: int, look: bool) -> None:
        seen, reference = machine.beside(partial(_run, cases[index], device, seconds / PASSES, clock, look))
        taken[index].append(Taken.of(seen.timing, reference))
        if look:
            first.append(seen)

    def run_ranks() -> None:
        timings, reference = machine.beside(partial(run_parallel, device, quick, seconds / PASSES))
        ranks.append([Taken.of(timing, reference) for timing in timings])

    for number in range(PASSES):
        order = range(len(cases)) if number % 2 == 0 else reversed(range(len(cases)))
        for done, index in enumerate(order):
            progress(number * whole + done, PASSES * whole, cases[index].name)
            run(index, look=number == 0)
        progress((number + 1) * whole - 2, PASSES * whole, "kernels of the profile")
        kernels.append(retime(again, device, CLOCKS[clock]))
        progress((number + 1) * whole - 1, PASSES * whole, "two processes")
        if parallel:
            try:
                run_ranks()
            except ConfigError as error:
                parallel = False
                left_out.append(f"two processes: {error}")
    until = time.perf_counter() + MORE_SHARE * (time.perf_counter() - start)
    for _ in range(MORE):
        for index in [i for i, mine in enumerate(taken) if not verdict(mine, machine.usual).quiet]:
            if time.perf_counter() > until:
                break
            progress(PASSES * whole, PASSES * whole, f"again {cases[index].name}")
            run(index, look=False)
    verdicts = [verdict(mine, machine.usual) for mine in taken]
    found = [_compare(case, node, device, seen, one) for case, seen, one in zip(cases, first, verdicts, strict=True)]
    if parallel:
        found += compare_parallel(profile, device, quick, [verdict(p, machine.usual) for p in zip(*ranks, strict=True)])
    return Verified(found, compare_kernels(again, kernels), left_out + _disturbances(found))


def _no_ranks(profile: str) -> str:
    """Why two processes cannot be compared, or an empty string."""
    try:
        rank_node(profile)
    except ConfigError as error:
        return str(error)
    return ""


def _disturbances(found: Sequence[Comparison]) -> list[str]:
    """What the machine did besides, one line each."""
    aside, busy = sum(c.set_aside for c in found), sum(not c.quiet for c in found)
    whole = aside + sum(len(c.passes) for c in found)
    lines = [f"{aside} of {whole} measurements were set aside: the machine was disturbed"] if aside else []
    if busy:
        lines.append(f"{busy} of {len(found)} cases never had the machine to themselves: expect more noise")
    return lines


def _run(case: TrainingCase | ServingCase, device: str, seconds: float, clock: str, look: bool) -> Seen:
    if isinstance(case, TrainingCase):
        return run_training(case, device, seconds, clock, look)
    return run_serving(case, device, seconds / 2, clock)


def _compare(case: TrainingCase | ServingCase, node: Node, device: str, seen: Seen, found: Verdict) -> Comparison:
    if isinstance(case, TrainingCase):
        return compare_training(case, node, device, seen, found)
    return compare_serving(case, node, device, found)
