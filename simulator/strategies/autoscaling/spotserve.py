"""SpotServe: decode on within the grace of a machine, and save what runs there in time."""

from __future__ import annotations

from simulator.errors import ConfigError
from simulator.registry import register

__all__ = ["SpotServe"]


@register(
    "spotserve",
    kind="planner",
    area="serving",
    family="autoscaling",
    cites=("Miao et al. 2023 (SpotServe), arXiv 2311.15566",),
    catalogue=("SpotServe",),
    validated_by="closed_form",
)
class SpotServe:
    """Says how long a replica decodes on after the notice (just-in-time arrangement).

    Parameters
    ----------
    grace
        Notice before an instance goes [s]; 30 by default, as in the paper's set-up.
    """

    name: str

    def __init__(self, grace: float = 30.0) -> None:
        if grace < 0.0:
            raise ConfigError(f"spotserve needs a grace from 0 on, not {grace:g} s")
        self.grace = grace

    def tokens_before(self, migration: float, iteration: float) -> int:
        """Decode iterations of so many seconds that fit the grace before a migration of so many has to begin."""
        return max(0, int((self.grace - migration) / iteration + 1e-9))
