"""The register of strategies refuses what could not be made, and a name that is taken."""

import subprocess
import sys
from abc import ABC, abstractmethod

import pytest

from simulator.registry import load_all, lookup, register, strategies


class _Router(ABC):
    @abstractmethod
    def route(self) -> int:
        """Which replica."""


class _HalfDone(_Router):
    """Forgot to route."""


class _Complete(_Router):
    def route(self) -> int:
        return 0


def test_an_incomplete_strategy_is_refused_when_it_is_registered() -> None:
    with pytest.raises(TypeError, match=r"'half-done' of family 'router' is incomplete: _HalfDone lacks route"):
        register("half-done", kind="policy", area="serving", family="router")(_HalfDone)
    assert "half-done" not in [record.name for record in strategies(family="router")]


def test_a_name_belongs_to_one_class() -> None:
    load_all()
    with pytest.raises(ValueError, match="'kv-aware' of family 'router' is registered twice"):
        register("kv-aware", kind="policy", area="serving", family="router")(_Complete)
    assert lookup("router", "kv-aware") is not _Complete


def test_a_scenario_imports_the_families_it_names() -> None:
    """A name is looked up in its own family: planners of training are not imported to check a batching policy."""
    code = (
        "import sys, simulator; simulator.load('llama3-70b-chat');"
        "print(*(m for m in sys.modules if m.startswith('simulator.strategies.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[2] for name in done.stdout.split()}
    assert "batching" in loaded
    assert not loaded & {"planner", "site_placement", "job_queue", "keep_alive"}
