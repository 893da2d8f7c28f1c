"""The base of everything a scenario file may contain."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Strict"]


class Strict(BaseModel):
    """Unknown keys are errors: a typo must never be a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, protected_namespaces=())
