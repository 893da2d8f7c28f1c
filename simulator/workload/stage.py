"""A pipeline stage that differs from the others: its layers, its degrees, where it runs."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["LAYER_KEYS", "LayerGroup", "Stage"]

LAYER_KEYS = ("recompute", "precision", "zero_stage", "offload")
"""What layers of one stage may differ in: decisions that leave its mesh as it is."""


@dataclass(frozen=True)
class LayerGroup:
    """``layers`` neighbouring layers of a stage and their own decisions; ``None`` is what the stage has."""

    layers: int
    recompute: str | None = None
    precision: str | None = None
    zero_stage: int | None = None
    offload: str | None = None

    def changes(self) -> dict[str, object]:
        """What the layers have instead of the decisions of their stage."""
        return {name: value for name in LAYER_KEYS if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Stage:
    """One pipeline rank of a plan; ``None`` is what the plan has.

    Attributes
    ----------
    layers
        Layers of each of its model chunks, in the order the model reaches them.
    places
        Which part of the model each chunk is, counted over all chunks of all stages. Empty: where the schedule puts it.
    tensor_parallel, sequence_parallel, context_parallel, data_parallel, expert_parallel, zero_stage
        Its own degrees and sharding. It takes part in every micro-batch: with another data-parallel degree than the
        plan its ranks take more or fewer sequences of each.
    recompute, precision
        Of all its layers.
    accelerator
        Name of the node or the accelerator it runs on; empty: the next that are free.
    groups
        Layers that differ from the others of the stage, in model order; empty: none do.
    """

    layers: tuple[int, ...]
    places: tuple[int, ...] = ()
    tensor_parallel: int | None = None
    sequence_parallel: bool | None = None
    context_parallel: int | None = None
    data_parallel: int | None = None
    expert_parallel: int | None = None
    zero_stage: int | None = None
    recompute: str | None = None
    precision: str | None = None
    accelerator: str = ""
    groups: tuple[LayerGroup, ...] = ()

    def changes(self) -> dict[str, object]:
        """Fields of the plan that the stage has its own value of."""
        apart = ("layers", "places", "accelerator", "groups")
        return {f.name: v for f in fields(self) if f.name not in apart and (v := getattr(self, f.name)) is not None}

    def __str__(self) -> str:
        short = {"tensor_parallel": "tp", "context_parallel": "cp", "data_parallel": "dp", "expert_parallel": "ep"}
        parts = ["+".join(map(str, self.layers)) + (f"@{'+'.join(map(str, self.places))}" if self.places else "")]
        for name, value in self.changes().items():
            if name == "sequence_parallel":
                parts.append("sp" if value else "no-sp")
            else:
                parts.append(f"{short[name]}{value}" if name in short else f"{name}={value}")
        parts += [f"on {self.accelerator}"] * bool(self.accelerator)
        for group in self.groups:
            told = ",".join(f"{name}={value}" for name, value in group.changes().items())
            parts.append(f"{group.layers}({told or 'same'})")
        return " ".join(parts)
