"""Every shipped scenario asks a question, says what to look at, and names commands that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from simulator.cli.app import app
from simulator.data import names
from simulator.plot import FIGURES, SWEEP_FIGURES

FOLDER = Path(__file__).resolve().parents[2] / "scenarios"
SCENARIOS = [name for name in names("scenarios") if name != "template"]
VERBS = {(command.name or command.callback.__name__).replace("_", "-") for command in app.registered_commands}


def head(name: str) -> list[str]:
    """Lines of the comment on top."""
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return [line.lstrip("# ") for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]]


def test_the_library_is_worth_the_name() -> None:
    assert len(SCENARIOS) >= 20


@pytest.mark.parametrize("name", SCENARIOS)
def test_it_asks_a_question_and_says_what_to_look_at(name: str) -> None:
    text = " ".join(head(name))
    assert "?" in text or "published" in text
    assert "Look at:" in text


@pytest.mark.parametrize("name", SCENARIOS)
def test_its_commands_exist_and_are_about_it(name: str) -> None:
    for line in (line for line in head(name) if line.startswith("fmsim ")):
        swept = saved = ""
        for command in line.split(" && "):
            _, verb, subject, *rest = shlex.split(command)
            assert verb in VERBS, command
            if verb in ("report", "plot", "explain"):
                assert subject == saved, f"{command}: nothing was saved there"
                known = SWEEP_FIGURES if swept else FIGURES
                assert verb != "plot" or rest[0] in known, command
            else:
                assert subject == name, command
                swept = subject if verb == "sweep" else ""
                saved = rest[rest.index("-o") + 1] if "-o" in rest else ""


@pytest.mark.parametrize("name", SCENARIOS)
def test_paths_that_its_comment_changes_exist(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    for path in re.findall(r"-s (workloads[.\w-]+)=", " ".join(head(name))):
        assert path.split(".")[1].isdigit() or f": {path.split('.')[1]}" in text, path
