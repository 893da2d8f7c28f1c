"""Element types and named dimensions: what shapes are made of."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DTYPE_BYTES", "Dim"]

DTYPE_BYTES: dict[str, float] = {
    "fp64": 8, "fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1, "fp4": 0.5, "int4": 0.5, "bool": 1,
    "mxfp4": 0.53125, "int32": 4, "e5m6": 1.5,
}  # fmt: skip
"""Bytes per element. Block scales of fp8/fp4 are separate tensors where a strategy has them; ``mxfp4`` is stored with
its own, 8 bits for 32 elements (OCP Microscaling Formats v1.0)."""


@dataclass(frozen=True, slots=True)
class Dim:
    """A named dimension made of indivisible units.

    ``parts`` are ``(units, unit_size)`` pairs: the fused QKV dimension of grouped-query attention is
    ``((heads, head_dim), (kv_heads, head_dim), (kv_heads, head_dim))``. Split over n ranks each part gives
    ``ceil(units / n)`` whole units to the fullest rank and at least one: this is how KV heads get replicated
    when the tensor-parallel degree exceeds their number.
    """

    name: str
    parts: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, name: str, size: int) -> Dim:
        """A dimension that may be cut anywhere."""
        return cls(name, ((size, 1),))

    @property
    def size(self) -> int:
        """Full size."""
        total = 0
        for units, unit in self.parts:
            total += units * unit
        return total

    def local(self, ranks: int) -> int:
        """Size on the fullest of ``ranks`` ranks."""
        if ranks == 1:
            return self.size
        total = 0
        for units, unit in self.parts:
            total += max(1, -(-units // ranks)) * unit
        return total
