"""Hand-built devices and networks, so that the tests of the cost floor do not move with the profiles."""

from __future__ import annotations

from simulator.constants import Constant, Trust
from simulator.hardware.types import Accelerator, Fabric, Link, NetworkProfile, Node, PowerProfile, ScaleUp


def constants(prefix: str, values: dict[str, float], sigma: float = 0.1) -> dict[str, Constant]:
    return {k: Constant(f"{prefix}.{k}", v, "", sigma, Trust.FITTED, "test") for k, v in values.items()}


CURVES = {
    "gemm.bf16.launch": 4e-6, "gemm.bf16.compute": 0.8, "gemm.bf16.memory": 0.85, "gemm.bf16.sharpness": 2.0,
    "attention_prefill.bf16.launch": 12e-6, "attention_prefill.bf16.compute": 0.6,
    "attention_prefill.bf16.half_length": 1000.0,
    "attention_decode.bf16.launch": 11e-6, "attention_decode.bf16.memory": 0.9,
    "attention_decode.bf16.per_sequence_head": 25e-9,
    "elementwise.launch": 3e-6, "elementwise.memory": 0.8,
}  # fmt: skip


def accelerator(
    name: str = "chip", architecture: str = "hopper", year: int = 2022, vendor: str = "nvidia", peak: float = 1e15,
    bandwidth: float = 3e12, curves: dict[str, float] | None = None, scale_up: ScaleUp | None = None, sms: int = 132,
) -> Accelerator:  # fmt: skip
    return Accelerator(
        name=name, vendor=vendor, architecture=architecture, year=year,
        peak_flops={"bf16": peak, "fp16": peak, "fp8": 2 * peak, "fp32": peak / 16},
        memory_capacity=80e9, memory_usable=80e9, memory_bandwidth=bandwidth,
        scale_up=scale_up or ScaleUp(Link("fast", 450e9, 3e-6), 8), host_link=Link("pcie", 64e9, 10e-6, 0.85),
        power=PowerProfile(70, 700), sm_count=sms, efficiency=constants(name, CURVES if curves is None else curves),
    )  # fmt: skip


LIBRARY = NetworkProfile(
    "library", "library",
    constants=constants(
        "library",
        {
            "base_latency.ring.ll": 6.6e-6, "base_latency.tree.ll": 6.8e-6,
            "hardware_latency.nvlink.ring.ll": 0.6e-6, "hardware_latency.nvlink.tree.ll": 0.6e-6,
            "hardware_latency.pci.ring.ll": 1e-6, "hardware_latency.pci.tree.ll": 1e-6,
            "hardware_latency.net.ring.ll": 2.7e-6, "hardware_latency.net.tree.ll": 5e-6,
        },
    ),
)  # fmt: skip


def node(scale_up: ScaleUp | None = None, nics: int = 8, nic: float = 50e9, accelerators: int = 8) -> Node:
    domain = scale_up or ScaleUp(Link("fast", 450e9, 3e-6), 8)
    chip = accelerator(scale_up=domain, architecture="other")
    return Node("node", chip, accelerators, domain, Link("nic", nic, 2.8e-6), nics, 1e12, 3e11)


FABRIC = Fabric("fat-tree", Link("cable", 50e9, 2.8e-6))
