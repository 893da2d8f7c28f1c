"""The keys of a training job's ``goal``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from simulator.scenario.fields import Ratio, TokenQuantity
from simulator.scenario.spec_base import Strict

__all__ = ["COMPUTE_OPTIMAL", "GoalSpec"]

COMPUTE_OPTIMAL = "compute-optimal"


class GoalSpec(Strict):
    """What the job is to reach, and what batch size and strategies cost of it; ``tokens`` or ``target_loss``.

    ``critical_batch_size`` is the gradient noise scale in tokens, ``reference_batch_size`` the batch for which
    ``tokens`` is enough. ``extra_tokens`` declares what staleness or compression costs, ``because`` its source.
    """

    tokens: Annotated[Any, TokenQuantity(words=(COMPUTE_OPTIMAL,))] = None
    target_loss: Annotated[float, Field(gt=0)] | None = None
    critical_batch_size: Annotated[Any, TokenQuantity()] = None
    reference_batch_size: Annotated[Any, TokenQuantity()] = None
    extra_tokens: Annotated[Ratio, Field(ge=0)] = 0.0
    because: str = ""
