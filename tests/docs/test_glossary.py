"""Every key of a scenario stands in the glossary."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import simulator.scenario
from simulator.scenario.spec_base import Strict

GLOSSARY = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text(encoding="utf-8")


def keys() -> list[tuple[str, str]]:
    """(class, key) of everything that may be written."""
    found = set()
    for module in pkgutil.iter_modules(simulator.scenario.__path__):
        if module.name.startswith("spec"):
            for cls in vars(importlib.import_module(f"simulator.scenario.{module.name}")).values():
                if isinstance(cls, type) and issubclass(cls, Strict) and cls is not Strict:
                    found |= {(cls.__name__, field.alias or name) for name, field in cls.model_fields.items()}
    return sorted(found)


def test_every_key_of_a_scenario_is_in_the_glossary() -> None:
    words = set("".join(c if c.isalnum() or c == "_" else " " for c in GLOSSARY).split())
    assert not [f"{cls}.{key}" for cls, key in keys() if key not in words]
