"""From a Hugging Face ``config.json`` to a :class:`~simulator.workload.model.ModelSpec`.

Every family (``model_type``) is one small function in an ``hf_*`` module beside this one. Keys that the file leaves
out take the defaults of the ``transformers`` library, as they would when the file is loaded there; which ones did is
kept in ``ModelSpec.extra`` under ``defaults``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from simulator.errors import ConfigError, Issue, IssueCollector, did_you_mean
from simulator.workload import hf_decoders, hf_encoders, hf_llama, hf_moe, hf_multimodal, hf_recurrent
from simulator.workload.hf_reader import FAMILIES, ConfigReader
from simulator.workload.model import ModelSpec

__all__ = ["from_hf_config", "known_families"]

# Importing a module enters its families; the tuple keeps the imports in use.
_FAMILY_MODULES = (hf_decoders, hf_encoders, hf_llama, hf_moe, hf_multimodal, hf_recurrent)


def known_families() -> list[str]:
    """The ``model_type`` values that can be read, sorted."""
    return sorted(FAMILIES)


def _model_type(config: Mapping[str, object]) -> object:
    # diffusers writes _class_name where transformers writes model_type.
    return config.get("model_type") or config.get("_class_name")


def from_hf_config(config: Mapping[str, object], name: str, file: str = "") -> ModelSpec:
    """Read a ``config.json`` as it is.

    Parameters
    ----------
    config
        The parsed JSON (or the ``config:`` block of a model file).
    name
        Name of the model.
    file
        File it came from, for error messages.

    Returns
    -------
    ModelSpec
        With ``sources`` and published figures left empty.

    Raises
    ------
    ConfigError
        With every issue found: an unknown ``model_type``, values of the wrong type, shapes that do not divide,
        misspelt keys.
    """
    issues = IssueCollector(file)
    model_type = _model_type(config)
    if model_type not in FAMILIES:
        known = known_families()
        if model_type is None:
            message = "there is no model_type (nor a diffusers _class_name); it says how to read the other keys"
        else:
            hint = did_you_mean(str(model_type), known)
            message = f"unknown model_type '{model_type}'{', ' + hint if hint else ''}"
        raise ConfigError([Issue(file, 0, 0, "model_type", f"{message}; known: {', '.join(known)}")])
    reader = ConfigReader(config, name, issues)
    model = FAMILIES[str(model_type)](reader)
    issues.extend(reader.typos())
    issues.raise_if_any()
    defaults = tuple(f"{key}={value}" for key, value in sorted(reader.defaults.items()))
    return dataclasses.replace(model, extra=(*model.extra, ("defaults", defaults)))
