"""Parts of a written scenario without the rest: what figures of a saved result need to know of its hardware."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulator.errors import ConfigError
from simulator.hardware.types import Accelerator, Cluster
from simulator.scenario.load import load_scenario
from simulator.scenario.types import Scenario

__all__ = ["device_of", "scenario_of"]


def scenario_of(document: Mapping[str, Any]) -> Scenario:
    """The scenario a result was made from, as it is saved with the result.

    Raises
    ------
    ConfigError
        If it is not known, or what it names is no longer there.
    """
    if not document:
        raise ConfigError("the result does not say from which scenario it was made")
    return load_scenario({key: value for key, value in document.items() if key != "what_if"})


def device_of(document: Mapping[str, Any], workload: str) -> Accelerator:
    """The accelerator a workload runs on; the first one where it is spread over several types."""
    cluster: Cluster = scenario_of(document).cluster_of(workload)
    return cluster.groups[0].node.accelerator
