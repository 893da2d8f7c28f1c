"""What the pages of published runs say of their launches and the entries made of them do not.

``published_launches.csv``: an entry, a field of it, the value of the page, and where that stands. Pages of GPUStack's
performance lab were read in gpustack/gpustack ``docs/performance-lab`` (@47277d7 and the commits around it). Nothing
here is a constant: each row is a word of a command, or what the command makes the engine do.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["CHAT_SOURCES", "as_launched"]

CHAT_SOURCES = ("gpustack",)
"""Sources whose clients send messages: every page of GPUStack's runs ``vllm bench serve --backend openai-chat``."""


@cache
def _known() -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["id"], []).append(row)
    return found


def as_launched(entry: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The entry as its run was launched, and what was mended, in words."""
    mended, words = dict(entry), list[str]()
    for row in _known().get(str(entry["id"]), ()):
        field, value = row["field"], row["value"]
        mended[field] = int(value) if value.isdigit() else value
        words.append(f"{field} {value}: {row['source']}")
    return mended, words
