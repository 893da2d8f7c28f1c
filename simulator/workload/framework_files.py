"""Reads ``workloads/frameworks/*.yaml`` into :class:`~simulator.workload.framework.Framework`."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from simulator.constants import Constant, Trust
from simulator.data import data_root, find_file, names
from simulator.errors import ConfigError, IssueCollector, did_you_mean, unknown_name
from simulator.units import UnitError, parse_quantity
from simulator.workload.framework import Framework
from simulator.yaml_marks import MarkedNode, load_yaml

__all__ = ["CONSTANTS", "framework_names", "load_framework"]

FOLDER = "workloads/frameworks"

CONSTANTS = {
    "host_per_layer": "time", "host_per_step": "time", "host_per_sequence": "time", "memory_reserve": "data",
    "memory_reserve_alone": "data",
    "fragmentation": "ratio", "compute_interference": "ratio", "optimizer_workspace": "data",
    "host_per_operator": "time", "host_per_collective": "time", "host_per_check": "time",
    "host_per_check_inside": "time", "host_per_slice": "time",
    "host_per_message": "time",
    "host_per_launch": "time", "host_per_prompt_layer": "time", "host_per_latent_layer": "time",
    "host_per_expert_layer": "time", "host_per_unpacked_expert_layer": "time",
    "launch_exposed": "ratio",
    "front_end_per_request": "time", "front_end_per_token": "time",
    "front_end_per_chat": "time", "front_end_latency": "time",
    "gemm_share_fp16": "ratio", "gemm_share_int8": "ratio", "gemm_share_unpacked": "ratio", "vector_bytes": "data",
    "unpack_bytes": "data", "cache_bytes": "data",
    "index_per_row": "time", "front_end_tokenizers": "ratio",
    "latent_decode_hopper": "time", "sparse_decode_hopper": "time", "sparse_share_hopper": "ratio",
}  # fmt: skip
"""Constants a framework may have, with their dimension; each needs value, sigma, trust and source."""

_UNITS = {"time": "s", "data": "B", "ratio": ""}


def framework_names() -> list[str]:
    """Names of the shipped frameworks, aliases included."""
    return sorted([*names(FOLDER), *_aliases()])


def load_framework(name: str) -> Framework:
    """A framework by shipped name (``vllm-0.10``), alias (``vllm``) or path of a YAML file.

    Raises
    ------
    ConfigError
        If there is no such framework, or with everything that is wrong in its file.
    """
    target = name if name in names(FOLDER) else _aliases().get(name, name)
    try:
        path = find_file(FOLDER, target, "framework")
    except ConfigError:
        if Path(name).suffix or "/" in name:
            raise
        raise ConfigError(unknown_name("framework", name, framework_names())) from None
    return _load(path.resolve())


@cache
def _aliases() -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted((data_root() / FOLDER).glob("*.yaml")):
        if "\naliases:" in path.read_text(encoding="utf-8"):  # spares parsing the others
            node = load_yaml(path).child("aliases")
            found |= {str(alias.text): path.stem for alias in node or ()}
    return found


@cache
def _load(path: Path) -> Framework:
    root = load_yaml(path)
    issues = IssueCollector(str(path))
    if root.kind != "mapping":
        raise ConfigError(f"{path}: a framework is a mapping of keys to values")
    hints = get_type_hints(Framework)
    fields = {f.name: f for f in dataclasses.fields(Framework)}
    values: dict[str, Any] = {}
    for key, node in root.value.items():
        if key == "constants":
            values[key] = _constants(node, str(root.value["name"].text) if "name" in root.value else path.stem, issues)
        elif key in fields:
            values[key] = _value(node, hints[key], key, issues)
        elif key != "aliases":
            known = [*fields, "aliases"]
            hint = did_you_mean(key, known) or f"known: {', '.join(known)}"
            issues.add(f"unknown key '{key}', {hint}", key, *root.key_position(key))
    for key, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and key not in values:
            issues.add(f"'{key}' is missing", key, root.line, root.column)
    issues.raise_if_any()
    return Framework(**values)


def _value(node: MarkedNode, hint: Any, key: str, issues: IssueCollector) -> Any:
    """A field's value, checked against its annotation."""

    def wrong(what: str) -> None:
        issues.add(f"{node.to_plain()!r} is not {what}", key, node.line, node.column)

    if get_origin(hint) is Literal:
        options = get_args(hint)
        if node.text not in options:
            hint_text = did_you_mean(node.text, options) or f"known: {', '.join(options)}"
            issues.add(f"'{node.text}' is not known here, {hint_text}", key, node.line, node.column)
        return node.text
    if hint is bool or hint == (bool | None):
        if not isinstance(node.value, bool):
            wrong("true or false")
        return node.value
    if hint is int:
        if not isinstance(node.value, int) or isinstance(node.value, bool) or node.value < 0:
            wrong("a whole number of at least 0")
        return node.value
    if hint is float:
        if not isinstance(node.value, int | float) or isinstance(node.value, bool):
            wrong("a number")
        return node.value
    if get_origin(hint) is tuple:
        if node.kind != "sequence":
            wrong("a list of texts")
            return ()
        return tuple(n.text for n in node.value)
    if node.kind != "scalar":
        wrong("a text")
    return node.text


def _constants(node: MarkedNode, framework: str, issues: IssueCollector) -> dict[str, Constant]:
    if node.kind != "mapping":
        issues.add("must be a mapping of names to {value, sigma, trust, source}", "constants", node.line, node.column)
        return {}
    found: dict[str, Constant] = {}
    for key, entry in node.value.items():
        path = f"constants.{key}"
        if key not in CONSTANTS:
            hint = did_you_mean(key, CONSTANTS) or f"known: {', '.join(CONSTANTS)}"
            issues.add(f"unknown constant '{key}', {hint}", path, *node.key_position(key))
            continue
        constant = _constant(entry, f"{framework}.{key}", CONSTANTS[key], path, issues)
        if constant is not None:
            found[key] = constant
    return found


def _constant(node: MarkedNode, name: str, dimension: str, path: str, issues: IssueCollector) -> Constant | None:
    parts = {k: node.child(k) for k in ("value", "sigma", "trust", "source")}
    missing = [k for k, child in parts.items() if child is None]
    if node.kind != "mapping" or missing:
        issues.add(f"needs {', '.join(missing or parts)}", path, node.line, node.column)
        return None
    extra = [k for k in node.value if k not in (*parts, "correlations")]
    for key in extra:
        issues.add(f"unknown key '{key}', known: {', '.join(parts)}, correlations", path, *node.key_position(key))
    value, sigma, trust, source = (child for child in parts.values() if child is not None)
    try:
        number = parse_quantity(value.value, dimension)
    except UnitError as error:
        issues.add(str(error), f"{path}.value", value.line, value.column)
        return None
    spread = sigma.value if isinstance(sigma.value, int | float) and not isinstance(sigma.value, bool) else math.nan
    if not spread >= 0:
        issues.add(
            "must be a relative standard deviation, a number of at least 0", f"{path}.sigma", sigma.line, sigma.column
        )
    if trust.text not in list(Trust):
        issues.add(f"'{trust.text}' is not one of {', '.join(Trust)}", f"{path}.trust", trust.line, trust.column)
        return None
    correlated = _correlated(node, path, issues)
    return Constant(name, number, _UNITS[dimension], float(spread), Trust(trust.text), source.text, correlated)


def _correlated(node: MarkedNode, path: str, issues: IssueCollector) -> tuple[tuple[str, float], ...]:
    """Optional ``correlations`` with other constants by id, as ``fmsim fit`` writes them."""
    found = node.child("correlations")
    if found is None:
        return ()
    shares = found.to_plain()
    if not isinstance(shares, dict) or not all(isinstance(r, int | float) and abs(r) <= 1 for r in shares.values()):
        issues.add("must be id: number from -1 to 1", f"{path}.correlations", found.line, found.column)
        return ()
    return tuple((str(i), float(r)) for i, r in shares.items())
