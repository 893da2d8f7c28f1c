"""How a collective is put on the wire: compressed, cut or bundled, executed now and then."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PLAIN", "Wire"]


@dataclass(frozen=True, slots=True)
class Wire:
    """Deviations of a collective from "its tensors, whole, as they are, in every step".

    Attributes
    ----------
    volume
        Bytes sent over bytes of the tensors: below 1 when compressed or sparse, above where servers relay.
    piece
        Size of the pieces the message is cut into or bundled into [B]; 0 = the message as it is.
    every
        Executed once in so many steps (local steps in between).
    blocks
        Neighbouring blocks whose messages travel as one.
    prefetch
        Gathers only: how many such messages ahead of its use it may be issued.
    """

    volume: float = 1.0
    piece: float = 0.0
    every: int = 1
    blocks: int = 1
    prefetch: int = 1


PLAIN = Wire()
"""Whole, as it is, in every step."""
