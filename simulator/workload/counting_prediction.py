"""Counts of the modules for multi-token prediction, which are no part of the model that answers.

A module is one block like the model's last, a projection of two hidden states to one and three norms; embedding and
head are the main model's (DeepSeek-V3, arXiv 2412.19437 section 2.2; README_WEIGHTS.md of deepseek-ai/DeepSeek-V3).
"""

from __future__ import annotations

from dataclasses import replace

from simulator.workload.counting import forward_flops_per_token, layer_parameters
from simulator.workload.model import ModelSpec

__all__ = ["prediction_flops_per_token", "prediction_parameters"]


def prediction_parameters(model: ModelSpec, active: bool = False) -> int:
    """Parameters of the model's modules that it does not share; with ``active`` only what one token visits."""
    hidden = model.hidden_size
    each = layer_parameters(model.layers[-1][0], hidden, active) + 2 * hidden * hidden + 3 * hidden
    return model.num_nextn_predict_layers * each


def prediction_flops_per_token(model: ModelSpec, sequence_length: int, causal: bool = False) -> float:
    """Forward FLOPs of one module per token, the shared head included [FLOP/token]."""
    module = replace(model, layers=((model.layers[-1][0], 1),), encoder=None)
    return forward_flops_per_token(module, sequence_length, causal) + 4.0 * model.hidden_size**2
