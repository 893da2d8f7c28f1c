"""What DeepSpeed's own estimators print for model states, to compare with: they differ from the ZeRO paper.

Its gradients are fp32 and its ZeRO-2 code and the example printed in its documentation disagree (deepspeed
``estimate_zero2_model_states_mem_needs``, ``estimate_zero3_model_states_mem_needs``; docs page "Memory Requirements").
"""

from __future__ import annotations

__all__ = ["deepspeed_zero2_bytes", "deepspeed_zero3_bytes"]


def deepspeed_zero2_bytes(
    parameters: float, ranks: int, cpu_optimizer: bool = False, documented: bool = False
) -> float:
    """Bytes per GPU with ZeRO-2: 2 + 18/d per parameter; 4 + 16/d as documented; 2 with a CPU optimizer."""
    if cpu_optimizer:
        return 2 * parameters
    return (4 + 16 / ranks) * parameters if documented else (2 + 18 / ranks) * parameters


def deepspeed_zero3_bytes(parameters: float, largest_layer: float, ranks: int) -> float:
    """Bytes per GPU with ZeRO-3: 18/d per parameter, and 4 for each parameter of the largest layer."""
    return 18 * parameters / ranks + 4 * largest_layer
