"""The commented scenario that ``fmsim new`` writes: the shipped template, cut to what it is about."""

from __future__ import annotations

import re
from typing import Literal

from simulator.data import find_file

__all__ = ["template"]


def template(kind: Literal["training", "serving", "cluster"] = "cluster") -> str:
    """Text of a scenario of a training job, of a deployment, or of both on one cluster."""
    text = find_file("scenarios", "template", "scenario").read_text(encoding="utf-8")
    if kind == "cluster":
        return text
    head, *workloads = re.split(r"(?m)^(?=  - (?:training|serving):)", text)
    return head.replace("count: 2}", "count: 1}") + next(w for w in workloads if w.startswith(f"  - {kind}:"))
