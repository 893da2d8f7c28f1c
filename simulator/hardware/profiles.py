"""Loads hardware profiles by shipped name or path; every error of a file is reported at once, with its place.

A loaded profile is kept until it, or a profile it names, changes on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from simulator.data import find_file, names
from simulator.errors import IssueCollector
from simulator.hardware.accelerators import read_accelerator
from simulator.hardware.networks import read_network
from simulator.hardware.nodes import read_cluster, read_node
from simulator.hardware.reader import Reader
from simulator.hardware.types import Accelerator, Cluster, Link, NetworkProfile, Node
from simulator.yaml_marks import load_yaml

__all__ = [
    "accelerator_names", "cluster_names", "load_accelerator", "load_cluster", "load_link", "load_network", "load_node",
    "network_names", "node_names",
]  # fmt: skip

ACCELERATORS, NODES, NETWORKS, CLUSTERS = (
    f"hardware_profiles/{folder}" for folder in ("accelerators", "nodes", "networks", "clusters")
)

T = TypeVar("T")
_Stamp = tuple[Path, int]
_cache: dict[tuple[str, Path], tuple[frozenset[_Stamp], Any]] = {}
_reading: list[set[_Stamp]] = []


def load_accelerator(name: str | Path) -> Accelerator:
    """The accelerator called ``name`` (or the YAML file at that path).

    Raises
    ------
    ConfigError
        If there is no such profile, or with everything that is wrong in it.
    """
    return _load(ACCELERATORS, str(name), "accelerator", read_accelerator)


def load_node(name: str | Path) -> Node:
    """The node type called ``name``, with its accelerator and links resolved. Raises as :func:`load_accelerator`."""
    return _load(NODES, str(name), "node", lambda r, stem: read_node(r, stem, load_accelerator, load_link, load_node))


def load_network(name: str | Path) -> NetworkProfile:
    """The link or measured collectives called ``name``. Raises as :func:`load_accelerator`."""
    return _load(NETWORKS, str(name), "network", lambda r, stem: read_network(r, stem, load_link))


def load_link(name: str | Path) -> Link:
    """The link of a network profile, e.g. ``ndr400``. Raises as :func:`load_accelerator`."""
    return load_network(name).link


def load_cluster(name: str | Path) -> Cluster:
    """The named cluster, with its nodes resolved. Raises as :func:`load_accelerator`."""
    return _load(CLUSTERS, str(name), "cluster", lambda r, stem: read_cluster(r, stem, load_node, load_link))


def accelerator_names() -> list[str]:
    """Names of the shipped accelerators."""
    return names(ACCELERATORS)


def node_names() -> list[str]:
    """Names of the shipped node types."""
    return names(NODES)


def network_names() -> list[str]:
    """Names of the shipped links and measured collectives."""
    return names(NETWORKS)


def cluster_names() -> list[str]:
    """Names of the shipped clusters."""
    return names(CLUSTERS)


def _load(folder: str, name: str, kind: str, read: Callable[[Reader, str], T]) -> T:
    path = find_file(folder, name, kind).resolve()
    known = _cache.get((folder, path))
    if known is not None and all(_mtime(p) == stamp for p, stamp in known[0]):
        _note(known[0])
        profile: T = known[1]
        return profile
    issues = IssueCollector(_shown(path))
    with _dependencies(path) as used:
        profile = read(Reader(load_yaml(path, _shown(path)), issues), path.stem)
    issues.raise_if_any()
    _cache[folder, path] = (frozenset(used), profile)
    return profile


@contextmanager
def _dependencies(path: Path) -> Iterator[set[_Stamp]]:
    """Collects the files that are read while a profile is loaded, its own included."""
    used = {(path, _mtime(path))}
    _reading.append(used)
    try:
        yield used
    finally:
        _reading.pop()
        _note(used)


def _note(stamps: set[_Stamp] | frozenset[_Stamp]) -> None:
    if _reading:
        _reading[-1].update(stamps)


def _mtime(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return -1


def _shown(path: Path) -> str:
    """The path as people type it: relative to the working folder when it lies below."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
