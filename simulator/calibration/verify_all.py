"""All comparisons of ``fmsim verify``, one after another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from simulator.calibration.torch_setup import keep_pages
from simulator.calibration.verify import Comparison, compare_training, training_cases
from simulator.calibration.verify_parallel import compare_parallel
from simulator.calibration.verify_serving import compare_serving, serving_cases
from simulator.data import names
from simulator.errors import ConfigError
from simulator.hardware.profiles import load_node
from simulator.hardware.types import Node

__all__ = ["find_node", "verify_all"]


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
        For one training case.
    clock
        As for calibration; two processes are always timed by the wall.
    parallel
        Two processes as well, if a profile of one rank lies beside the node's.
    """
    node = find_node(profile)
    keep_pages()
    training, serving = training_cases(quick), serving_cases(quick)
    whole = len(training) + len(serving) + (3 if parallel else 0)
    found: list[Comparison] = []
    left_out: list[str] = []
    for case in training:
        progress(len(found), whole, case.name)
        found.append(compare_training(case, node, device, seconds, clock))
    for one in serving:
        progress(len(found), whole, one.name)
        found.append(compare_serving(one, node, device, seconds / 2, clock))
    if parallel:
        progress(len(found), whole, "two processes")
        try:
            found += compare_parallel(profile, device, quick, seconds)
        except ConfigError as error:
            left_out.append(f"two processes: {error}")
    return found, left_out
