"""Every command of the README runs as written, and its Python too."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    return [line.split("  #")[0].strip() for line in lines if line.startswith("$ fmsim") or line.startswith("fmsim")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One working folder for all commands: later ones use what earlier ones saved."""
    return tmp_path_factory.mktemp("readme")


def test_the_readme_has_commands() -> None:
    assert len(commands()) >= 8
    assert {"run", "explain", "plot", "trace", "estimate", "check", "list", "show"} <= set(
        re.findall(r"fmsim (\w+)", README)
    )


def test_commands_run_as_written(folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    assert shutil.which("fmsim", path=path), "fmsim is not installed beside this Python"
    for command in commands():
        done = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"


def test_the_python_runs_as_written() -> None:
    for block in blocks("python"):
        subprocess.run([sys.executable, "-c", block], check=True)


def test_the_pasted_output_is_what_the_quickstart_prints() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "simulator.cli", "run", "quickstart"], capture_output=True, text=True, check=True
    )
    pasted = next(b for b in blocks("text") if "finetune" in b)

    def words(text: str) -> list[str]:
        return [" ".join(line.split()) for line in text.strip().splitlines()]

    assert words(pasted) == words(done.stdout)
