"""Writes what own runs have taught: a framework preset, and a node profile on top of a shipped one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from simulator.calibration.learning import LogFit
from simulator.constants import Constant
from simulator.cost.host import OWN
from simulator.hardware.types import Node
from simulator.workload.framework import Framework

__all__ = ["write_framework", "write_overlay"]

UNMOVED = 0.01
"""Constants whose value and sigma changed by less than this share are left as they are."""

UNCORRELATED = 0.02


def write_framework(path: Path, framework: Framework, found: LogFit) -> None:
    """The framework's preset with its learnt constants; what all frameworks share becomes its own."""
    mine = _of_framework(framework, found)
    lines = [f"name: {path.stem}"]
    for f in fields(Framework):
        value = getattr(framework, f.name)
        if f.name in ("name", "constants") or value is None:
            continue
        lines.append(f"{f.name}: {json.dumps(list(value) if isinstance(value, tuple) else value)}")
    lines.append("constants:")
    for key, old in mine.items():
        c = found.constants.get(old.id, old)
        unit = {"s": " s", "B": " B"}.get(c.unit, "")
        others = {
            f"{path.stem}.{k}": found.correlations.get(old.id, {}).get(other.id, 0.0) for k, other in mine.items()
        }
        shown = _correlations(others)
        lines.append(
            f"  {key}: {{value: {c.value:.6g}{unit}, sigma: {c.sigma:.4g}, trust: {c.trust.value}, "
            f"source: {json.dumps(c.source)}" + (f", correlations: {{{shown}}}" if shown else "") + "}"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_overlay(path: Path, node: Node, reference: str, framework: Framework, preset: str, found: LogFit) -> None:
    """The node ``reference`` with what was learnt about its device, kernels and collectives.

    Parameters
    ----------
    preset
        Name of the framework that was written beside it, whose constants the correlations refer to.
    """
    host = {c.id: f"{preset}.{key}" for key, c in _of_framework(framework, found).items()}
    moved = [name for name in found.constants if name not in host and _moved(found, name)]
    lines = [f"name: {path.stem}", f"based_on: {reference}", "learnt:" if moved else "learnt: {}"]
    for name in moved:
        old, new = found.prior[name], found.constants[name]
        lines += [f"  {name}: # {old.value:.4g} {old.unit}, sigma {old.sigma:.3g} before".rstrip()]
        lines += [f"    factor: {new.value / old.value:.4g}", f"    sigma: {new.sigma:.4g}"]
        others = {host.get(i, i): r for i, r in found.correlations.get(name, {}).items() if i in host or i in moved}
        if shown := _correlations(others):
            lines += [f"    correlations: {{{shown}}}"]
    lines += ["sources:", f"  - {json.dumps(found.described(node.name, framework.name))}"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _of_framework(framework: Framework, found: LogFit) -> dict[str, Constant]:
    """Constants that the preset states, and those of :mod:`simulator.cost.host` that the runs rest on, by local key."""
    shared = {OWN[name]: c for name, c in found.prior.items() if name in OWN}
    return {**framework.constants, **{key: c for key, c in shared.items() if key not in framework.constants}}


def _correlations(others: Mapping[str, float]) -> str:
    return ", ".join(f"{i}: {r:.3f}" for i, r in sorted(others.items()) if abs(r) > UNCORRELATED)


def _moved(found: LogFit, name: str) -> bool:
    old, new = found.prior[name], found.constants[name]
    return abs(new.value / old.value - 1) > UNMOVED or abs(new.sigma / old.sigma - 1) > UNMOVED
