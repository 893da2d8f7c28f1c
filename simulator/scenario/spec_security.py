"""Keys of security: what it costs, as parameters. No cryptography is simulated."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from simulator.scenario.fields import Bandwidth, Count, Data, Ratio
from simulator.scenario.spec_base import Strict

__all__ = ["ConfidentialSpec", "DpSgdSpec", "EncryptedLinksSpec", "SecuritySpec"]


class ConfidentialSpec(Strict):
    """Accelerators in confidential mode: they are slower by a share, and their host link has an encrypted bandwidth."""

    slow_down: Annotated[Ratio, Field(ge=0, lt=1)] = 0.06
    host_link: Annotated[Bandwidth, Field(gt=0)] | None = None


class EncryptedLinksSpec(Strict):
    """Bytes that encryption adds to every frame of the network between nodes."""

    overhead: Annotated[Data, Field(ge=0)] = 32.0
    frame: Annotated[Data, Field(gt=0)] = 4096.0


class DpSgdSpec(Strict):
    """Differentially private training: backward passes per step, 2 with ghost clipping."""

    backward_passes: Annotated[Count, Field(ge=1)] = 2


class SecuritySpec(Strict):
    """What is protected; a section that is left out costs nothing."""

    confidential: ConfidentialSpec | None = None
    encrypted_links: EncryptedLinksSpec | None = None
    dp_sgd: DpSgdSpec | None = None
    isolation: bool = False
