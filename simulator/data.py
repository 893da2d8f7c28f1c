"""Where the shipped data files are: hardware profiles, workloads and scenarios.

In a checkout they are the top-level folders; in an installed wheel they lie inside the package as ``_data``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from simulator.errors import ConfigError, unknown_name

__all__ = ["data_root", "find_file", "names"]


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
    path = Path(name)
    if path.suffix in {".yaml", ".yml", ".json"} or path.parent != Path():
        if path.is_file():
            return path
        raise ConfigError(f"there is no {kind} file '{name}'")
    shipped = data_root() / folder / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    raise ConfigError(unknown_name(kind, name, names(folder)))
