"""Punica, S-LoRA and PetS: what they batch, what they pad, and what they share memory with."""

from __future__ import annotations

from typing import Protocol

from simulator.registry import register

__all__ = ["AdapterMethod", "PetS", "Punica", "SLora"]


class AdapterMethod(Protocol):
    """The backbone's GEMMs see the tokens of all tenants as one batch; a method says how the adapters follow."""

    name: str
    grouped: bool
    """One kernel for all adapters of a batch; else one per adapter."""
    padded: bool
    """All adapters computed and kept at the largest rank."""
    unified: bool
    """Adapters live in the KV cache's blocks, those in use only; else in slots set aside for them."""
    prefetches: bool
    """Adapters travel beside the computation; else an iteration waits for them."""


@register(
    "punica",
    kind="policy",
    area="serving",
    family="adapters",
    cites=("Chen et al. 2023 (Punica), arXiv 2310.18547",),
    catalogue=("Punica, S-LoRA",),
    validated_by="closed_form",
)
class Punica:
    """Segmented gather matrix-vector multiplication: one kernel over the adapters of a batch, all of one rank."""

    name: str
    grouped, padded, unified, prefetches = True, True, False, True


@register(
    "s-lora",
    kind="policy",
    area="serving",
    family="adapters",
    cites=("Sheng et al. 2023 (S-LoRA), arXiv 2311.03285",),
    catalogue=("Punica, S-LoRA",),
    validated_by="closed_form",
)
class SLora:
    """Adapters of any rank in one kernel, paged in one pool with keys and values, fetched ahead over the host link."""

    name: str
    grouped, padded, unified, prefetches = True, False, True, True


@register(
    "pets",
    kind="policy",
    area="serving",
    family="adapters",
    cites=("Zhou et al. 2022 (PetS), USENIX ATC 2022",),
    catalogue=("PetS",),
    validated_by="closed_form",
)
class PetS:
    """The small operators of each task as kernels of their own beside a shared backbone, all tasks resident."""

    name: str
    grouped, padded, unified, prefetches = False, False, False, False
