"""Validation errors of the schema as issues a user can act on: place, what is wrong, what is needed."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from simulator.errors import Issue, did_you_mean, unknown_name
from simulator.scenario.document import dotted, place_of
from simulator.scenario.spec import (
    FUNCTIONS_TAG,
    JOBS_TAG,
    KIND_TAGS,
    SERVING_TAG,
    TRAINING_TAG,
    WORKLOAD_KEYS,
    ScenarioSpec,
    ServingSpec,
    TrainingSpec,
)
from simulator.scenario.spec_functions import FunctionsSpec
from simulator.scenario.spec_jobs import JobsSpec
from simulator.workload.plan import SHORT_NAMES
from simulator.yaml_marks import MarkedNode

__all__ = ["issues_of", "prune"]

_TAGS: dict[str, type[BaseModel]] = {
    TRAINING_TAG: TrainingSpec, SERVING_TAG: ServingSpec, FUNCTIONS_TAG: FunctionsSpec,
    JOBS_TAG: JobsSpec,
}  # fmt: skip
_ALIASES = {
    "max_num_batched_tokens": "max_batched_tokens", "gpu_memory_utilization": "memory_utilization",
    "num_replicas": "replicas", "seq_length": "sequence_length", "gbs": "global_batch_size", "mbs": "micro_batch_size",
}  # fmt: skip
"""Keys of other tools that no spelling distance would find."""


def issues_of(error: ValidationError, tree: MarkedNode, root: type[BaseModel] = ScenarioSpec) -> list[Issue]:
    """One issue per error of the schema ``root``, in document order."""
    found = []
    for item in error.errors(include_url=False):
        loc = item["loc"]
        clean = [part for part in loc if part not in _TAGS]
        kind = item["type"]
        place = place_of(tree, clean, key=kind == "extra_forbidden")
        if kind == "config_error":  # of the file that is named here: its own places, or else this one
            inner = item["ctx"]["issues"]
            found += [i if i.file else Issue(*place, dotted(clean), i.message) for i in inner]
            continue
        found.append(Issue(place.file, place.line, place.column, dotted(clean), _message(kind, loc, item, root)))
    return found


def prune(document: Any, error: ValidationError) -> tuple[Any, list[tuple[str | int, ...]]]:
    """The document without the values that are wrong, and their paths: so that one error does not hide others."""
    bad = [tuple(part for part in item["loc"] if part not in _TAGS) for item in error.errors(include_url=False)]
    return _without(document, bad), bad


def _without(value: Any, bad: Sequence[tuple[str | int, ...]]) -> Any:
    if isinstance(value, dict):
        gone = {loc[0] for loc in bad if len(loc) == 1}
        return {
            k: _without(v, [loc[1:] for loc in bad if loc and loc[0] == k]) for k, v in value.items() if k not in gone
        }
    if isinstance(value, list):
        return [_without(v, [loc[1:] for loc in bad if loc and loc[0] == i]) for i, v in enumerate(value)]
    return value


def _message(kind: str, loc: Sequence[str | int], item: Mapping[str, Any], root: type[BaseModel]) -> str:
    context, have = item.get("ctx") or {}, item.get("input")
    if kind == "extra_forbidden":
        return _unknown_key(str(loc[-1]), _model_at(loc[:-1], root))
    if kind == "missing":
        return f"'{loc[-1]}' is missing"
    if kind == "value_error":
        return str(context["error"])
    if kind == "workload_kind":
        keys = ", ".join(have) if isinstance(have, dict) else repr(have)
        if isinstance(have, dict) and (several := [key for key in KIND_TAGS if key in have]):
            both = " and ".join(several)
            return f"a workload has one of {WORKLOAD_KEYS}, have {both}: write a workload for each"
        return f"a workload starts with {WORKLOAD_KEYS}, have: {keys}"
    if kind == "literal_error":
        allowed = [word.strip("' ") for word in str(context["expected"]).replace(" or ", ",").split(",")]
        return unknown_name("value", str(have), allowed)
    shown = _shown(have)
    bounds = {"greater_than_equal": ("at least", "ge"), "less_than_equal": ("at most", "le"),
              "greater_than": ("more than", "gt"), "less_than": ("less than", "lt")}  # fmt: skip
    if kind in bounds:
        words, key = bounds[kind]
        bound = f"{context[key]:,}" if isinstance(context[key], int) else f"{context[key]:g}"
        return f"needs {words} {bound}, have {shown}"
    needs = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "a text",
             "model": "a section with keys", "dict": "a section with keys", "list": "a list"}  # fmt: skip
    need = needs.get(kind.split("_")[0])
    if need:
        return f"needs {need}, have {shown}"
    return f"{item['msg'][:1].lower()}{item['msg'][1:]}, have {shown}"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unknown_key(key: str, model: type[BaseModel] | None) -> str:
    known = list(model.model_fields) if model else []
    full = SHORT_NAMES.get(key) or _ALIASES.get(key)
    if full in known:
        note = " (short forms are for the command line)" if key in SHORT_NAMES else ""
        return f"unknown key '{key}', write '{full}'{note}"
    hint = did_you_mean(key, known) or f"known here: {', '.join(known)}"
    return f"unknown key '{key}', {hint}"


def _model_at(loc: Sequence[str | int], root: type[BaseModel]) -> type[BaseModel] | None:
    """The model that the mapping at ``loc`` is read with."""
    model: type[BaseModel] | None = root
    for part in loc:
        if part in _TAGS:
            model = _TAGS[str(part)]
        elif isinstance(part, str) and model is not None and part in model.model_fields:
            inner = _models_in(model.model_fields[part].annotation)
            model = inner[0] if len(inner) == 1 else None if not inner else model
    return model


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in typing.get_args(annotation) for m in _models_in(arg)]
