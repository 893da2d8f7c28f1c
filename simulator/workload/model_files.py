"""Finding and loading models: shipped YAML files, YAML files of the user, and Hugging Face ``config.json`` files.

A model file is ``name``, ``config`` (the keys of ``config.json``), ``published`` figures with their source,
``sources``, and optionally ``aliases`` (other names for the same shapes) and ``notes``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from simulator.data import data_root, names
from simulator.errors import ConfigError, Issue, IssueCollector, did_you_mean, unknown_name
from simulator.workload.hf_config import from_hf_config
from simulator.workload.model import ModelSpec
from simulator.yaml_marks import MarkedNode, load_yaml

__all__ = ["load_model", "model_aliases", "model_names"]

_FOLDER = "workloads/models"
_KEYS = ("name", "config", "published", "sources", "aliases", "notes")
_PUBLISHED_KEYS = ("parameters", "active", "source")
_ALIASES = re.compile(r"^aliases:\s*\[(.*)\]", re.MULTILINE)


def model_names() -> list[str]:
    """Names of the shipped models, sorted (without aliases)."""
    return names(_FOLDER)


@cache
def model_aliases() -> dict[str, str]:
    """Other names of shipped models, e.g. ``llama2-7b`` for ``llama-2-7b``."""
    found: dict[str, str] = {}
    for path in sorted((data_root() / _FOLDER).glob("*.yaml")):
        # A line of text, not a parse: this runs only for a name that is no file, and must stay quick.
        match = _ALIASES.search(path.read_text(encoding="utf-8"))
        for alias in match[1].split(",") if match else ():
            found[alias.strip()] = path.stem
    return found


def load_model(name_or_path: str | Path) -> ModelSpec:
    """The model of a shipped name or alias, a YAML model file, a ``config.json`` or a folder that holds one.

    Parameters
    ----------
    name_or_path
        ``llama-3.1-70b``, ``my/model.yaml``, ``checkpoints/llama`` or ``checkpoints/llama/config.json``.

    Raises
    ------
    ConfigError
        If there is no such model (near names are given), or with everything that is wrong in the file, each with
        file, line and column.
    """
    path = _find(str(name_or_path))
    return _load(path, path.stat().st_mtime_ns)


def _find(name: str) -> Path:
    path = Path(name)
    if path.is_dir() and (path / "config.json").is_file():
        return path / "config.json"
    if path.suffix in {".yaml", ".yml", ".json"} or path.parent != Path():
        if path.is_file():
            return path
        if path.is_dir():
            raise ConfigError(f"folder '{name}' holds no config.json")
        raise ConfigError(f"there is no model file '{name}'")
    shipped = data_root() / _FOLDER / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    aliases = model_aliases()
    if name in aliases:
        return data_root() / _FOLDER / f"{aliases[name]}.yaml"
    raise ConfigError(unknown_name("model", name, [*model_names(), *aliases]))


@cache
def _load(path: Path, modified: int) -> ModelSpec:
    node = load_yaml(path)
    if node.kind != "mapping":
        raise ConfigError([Issue(str(path), node.line, node.column, "", "must be a mapping of keys to values")])
    if "config" not in node.keys:
        name = path.parent.name if path.name == "config.json" and path.parent.name else path.stem
        return _from_node(node, node, (), name, str(path))
    return _from_model_file(node, path)


def _from_node(root: MarkedNode, config: MarkedNode, prefix: tuple[str, ...], name: str, file: str) -> ModelSpec:
    try:
        return from_hf_config(config.to_plain(), name, file)
    except ConfigError as error:
        raise ConfigError(_placed(root, prefix, error.issues, file)) from None


def _placed(root: MarkedNode, prefix: tuple[str, ...], issues: Iterable[Issue], file: str) -> list[Issue]:
    """The issues with the line and column their path has in the document."""
    placed = []
    for issue in issues:
        path = (*prefix, *filter(None, issue.path.split(".")))
        parent = root.get(path[:-1]) if path else None
        known = parent is not None and parent.kind == "mapping" and path[-1] in parent.keys
        line, column = parent.key_position(path[-1]) if parent is not None and known else root.position(path)
        placed.append(Issue(file, line, column, ".".join(path), issue.message))
    return placed


def _from_model_file(node: MarkedNode, path: Path) -> ModelSpec:
    issues = IssueCollector(str(path))
    _check_keys(node, _KEYS, "", issues)
    config, published = node.value["config"], node.child("published")
    plain = node.to_plain()
    if config.kind != "mapping":
        issues.add("must hold the keys of a config.json", "config", *node.key_position("config"))
    if published is not None:
        if published.kind == "mapping":
            _check_keys(published, _PUBLISHED_KEYS, "published", issues)
            _check_figures(published, issues)
        else:
            issues.add("must be a mapping", "published", *node.key_position("published"))
    for key in ("sources", "aliases"):
        if key in plain and not (isinstance(plain[key], list) and all(isinstance(s, str) for s in plain[key])):
            issues.add("must be a list of texts", key, *node.key_position(key))
    for key in ("name", "notes"):
        if key in plain and not isinstance(plain[key], str):
            issues.add("must be text (quote it)", key, *node.key_position(key))
    issues.raise_if_any()
    model = _from_node(node, config, ("config",), plain.get("name", path.stem), str(path))
    figures = plain.get("published") or {}
    source = figures.get("source")
    return dataclasses.replace(
        model,
        published_parameters=float(figures.get("parameters", 0.0)),
        published_active_parameters=float(figures.get("active", 0.0)),
        sources=(*plain.get("sources", ()), *([source] if source else [])),
        notes=plain.get("notes", ""),
    )


def _check_keys(node: MarkedNode, known: tuple[str, ...], path: str, issues: IssueCollector) -> None:
    for key in node.value:
        if key not in known:
            hint = did_you_mean(key, known) or f"known: {', '.join(known)}"
            issues.add(f"unknown key '{key}', {hint}", f"{path}.{key}".lstrip("."), *node.key_position(key))


def _check_figures(published: MarkedNode, issues: IssueCollector) -> None:
    for key in ("parameters", "active"):
        child = published.child(key)
        if child is None:
            continue
        if isinstance(child.value, bool) or not isinstance(child.value, int | float) or not child.value > 0:
            issues.add("must be a positive count, e.g. 70.55e9", f"published.{key}", child.line, child.column)
    if published.child("source") is None:
        issues.add("a published figure needs its source", "published.source", published.line, published.column)
