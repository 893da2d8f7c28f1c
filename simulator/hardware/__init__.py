"""Hardware: accelerators, links, nodes, clusters, storage, power and price.

Values live in ``hardware_profiles/{accelerators,nodes,networks,clusters}/*.yaml``, one file each, with sources;
this package reads them into frozen dataclasses in SI units. A new device is a new file, by name or by path:

>>> from simulator.hardware import load_accelerator
>>> h100 = load_accelerator("h100-sxm")
>>> f"{h100.peak('bf16') / 1e12:.1f} TFLOP/s dense, {h100.scale_up.link.bandwidth / 1e9:.0f} GB/s each way"
'989.4 TFLOP/s dense, 450 GB/s each way'
"""

from simulator.hardware.describe import FactRow, describe
from simulator.hardware.power import accelerator_power, cluster_power, node_power
from simulator.hardware.profiles import (
    accelerator_names,
    cluster_names,
    load_accelerator,
    load_cluster,
    load_link,
    load_network,
    load_node,
    network_names,
    node_names,
)
from simulator.hardware.types import (
    Accelerator,
    Cluster,
    Curve,
    Fabric,
    Link,
    NetworkProfile,
    Node,
    NodeGroup,
    PowerProfile,
    Price,
    ScaleUp,
    Site,
    Storage,
)

__all__ = [
    "Accelerator", "Cluster", "Curve", "Fabric", "FactRow", "Link", "NetworkProfile", "Node", "NodeGroup",
    "PowerProfile", "Price", "ScaleUp", "Site", "Storage", "accelerator_names", "accelerator_power", "cluster_names",
    "cluster_power", "describe", "load_accelerator", "load_cluster", "load_link", "load_network", "load_node",
    "network_names", "node_names", "node_power",
]  # fmt: skip
