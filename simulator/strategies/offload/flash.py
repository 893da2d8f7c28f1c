"""Flash as main memory: the accelerator works on what streams in from drives of its own."""

from __future__ import annotations

from types import MappingProxyType

from simulator.registry import register
from simulator.strategies.offload.placement import StateOffload
from simulator.workload.ops import TensorClass, Tier
from simulator.workload.plan import Plan

__all__ = ["Behemoth"]


@register(
    "behemoth", kind="pass", area="training", family="offload",
    cites=("Kim et al. 2021 (Behemoth), FAST 21",), catalogue=("Behemoth",), validated_by="closed_form",
)  # fmt: skip
class Behemoth(StateOffload):
    """Everything lives on flash behind the accelerator; device memory buffers the layers at work, host memory nothing.

    Parameters, gradients, optimizer states and saved activations (``offload_activations: none`` keeps these) travel
    between drives and device directly, and the device updates them. ``nvme`` of the node is the flash; with its
    ``endurance`` given the result says how long it lasts (``flash_lifetime``).
    """

    tiers = MappingProxyType(dict.fromkeys((TensorClass.PARAM, TensorClass.GRAD, TensorClass.OPTIM), Tier.NVME))
    activations = "nvme"
    direct = True
    updates_on_device = True

    def notes(self, plan: Plan) -> tuple[str, ...]:
        """Flash wears out."""
        return (
            *super().notes(plan),
            f"{self.name}: states and activations are written to flash in every step; flash_lifetime holds where the "
            "node's nvme has an endurance",
        )
