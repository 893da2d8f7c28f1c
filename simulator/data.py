"""Where the shipped data files are: hardware profiles, workloads and scenarios.

In a checkout they are the top-level folders; in an installed wheel they lie inside the package as ``_data``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from simulator.errors import ConfigError, did_you_mean, unknown_name

__all__ = ["data_root", "find_file", "names"]

_SUFFIXES = {".yaml", ".yml", ".json"}


@cache
def data_root() -> Path:
    """The folder that holds ``hardware_profiles/``, ``workloads/`` and ``scenarios/``."""
    package = Path(__file__).resolve().parent
    installed = package / "_data"
    return installed if installed.is_dir() else package.parent


def names(folder: str) -> list[str]:
    """Names (file stems) of the shipped YAML files in ``folder``, e.g. ``hardware_profiles/accelerators``."""
    return sorted(p.stem for p in (data_root() / folder).glob("*.yaml"))


def find_file(folder: str, name: str, kind: str) -> Path:
    """The YAML file for ``name``: a path to an existing file, or a shipped name.

    Raises
    ------
    ConfigError
        If there is no such file; the message names the near ones.
    """
    path, shipped = Path(name), data_root() / folder / f"{name}.yaml"
    is_path = path.suffix in _SUFFIXES or path.parent != Path()
    if not is_path and shipped.is_file():
        return shipped
    if path.is_file():
        return path
    if is_path or path.is_dir():
        raise ConfigError(_no_file(path, kind, folder))
    raise ConfigError(unknown_name(kind, name, names(folder)))


def _no_file(path: Path, kind: str, folder: str) -> str:
    """Why this path is none, and what may be meant."""
    if path.is_dir():
        inside = sorted(p.name for p in path.glob("*.yaml"))[:3]
        return f"'{path}' is a folder: name a {kind} file" + (f" like {', '.join(inside)}" if inside else "")
    beside = [p.name for p in path.parent.glob("*") if p.suffix in _SUFFIXES]
    hint = did_you_mean(path.name, beside) or did_you_mean(path.stem, names(folder))
    return f"there is no {kind} file '{path}'" + (f", {hint}" if hint else "")
