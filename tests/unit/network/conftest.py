from collections.abc import Callable
from typing import Any

import pytest

from simulator.hardware.types import (
    Accelerator,
    Cluster,
    Fabric,
    Link,
    Node,
    NodeGroup,
    PowerProfile,
    ScaleUp,
    Storage,
)  # fmt: skip

GB = 1e9


@pytest.fixture(scope="session")
def make_cluster() -> Callable[..., Cluster]:
    """A cluster of 8-GPU nodes in round numbers: 400 GB/s scale-up, 50 GB/s ports and cables, 64 GB/s host links."""

    def make(
        nodes: int = 4, topology: str = "single-switch", *, gpus: int = 8, nics: int = 8, domain: int = 8,
        scale_up: Any = "switch", oversubscription: float = 1.0, storage: tuple[Storage, ...] = (),
        port: float = 50 * GB, per_host_link: int = 1, **options: object,
    ) -> Cluster:  # fmt: skip
        fast = ScaleUp(Link("scale-up", 400 * GB, 3e-6), domain, scale_up)
        accelerator = Accelerator(
            "gpu", "vendor", "arch", 2024, {"bf16": 1e15}, 80e9, 80e9, 3e12, fast, Link("pcie", 64 * GB, 1e-6),
            PowerProfile(100, 700),
        )  # fmt: skip
        drive = Storage("nvme", "nvme", 20 * GB, 10 * GB)
        node = Node("node", accelerator, gpus, fast, Link("ndr", port, 2.8e-6), nics, 1e12, 1e11, drive, per_host_link)
        fabric = Fabric(topology, Link("cable", 50 * GB, 0.0), oversubscription, tuple(options.items()))
        return Cluster("test", (NodeGroup(node, nodes),), fabric, storage)

    return make
