"""One switch, or none: fabrics without links between switches."""

from __future__ import annotations

from simulator.hardware.types import Fabric
from simulator.network.links import NetworkBuilder
from simulator.network.wiring import Options, Ports, Wiring, register_topology

__all__ = ["ScaleUpOnly", "SingleSwitch"]


@register_topology("single-switch")
class SingleSwitch(Wiring):
    """Every port on one non-blocking switch: only the ports themselves are shared."""

    def __init__(self, builder: NetworkBuilder, ports: Ports, fabric: Fabric, options: Options) -> None:
        super().__init__(builder, ports, fabric, options)
        self.switch[:] = builder.vertices("switch")

    @classmethod
    def never_blocks(cls, fabric: Fabric) -> bool:
        """See :meth:`Wiring.never_blocks`."""
        return True


@register_topology("scale-up")
class ScaleUpOnly(SingleSwitch):
    """No network between nodes: one scale-up domain (a server, an NVL72 rack, a supernode) and its storage."""

    joins_domains = False
