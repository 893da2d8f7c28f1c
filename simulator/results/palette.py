"""Colours that colour-blind readers can tell apart, and which of them a class, part or link has in every figure."""

from __future__ import annotations

__all__ = ["OKABE_ITO", "ROLES"]

OKABE_ITO = {
    "black": "#000000", "orange": "#E69F00", "sky": "#56B4E9", "green": "#009E73", "yellow": "#F0E442",
    "blue": "#0072B2", "vermillion": "#D55E00", "purple": "#CC79A7", "grey": "#BDBDBD",
}  # fmt: skip
"""Okabe & Ito (2008), Color Universal Design, and a neutral grey for what is not a category."""

ROLES = {
    # memory
    "param": "blue", "grad": "sky", "optim": "green", "activation": "orange", "kv": "purple",
    "workspace": "yellow", "fragmentation": "grey", "reserve": "black",
    # time
    "forward": "blue", "backward": "green", "recompute": "yellow", "tensor_parallel": "orange",
    "context_parallel": "purple", "expert_parallel": "purple", "data_parallel": "vermillion",
    "pipeline_p2p": "purple", "bubble": "grey", "optimizer": "sky", "host": "black", "compute": "blue",
    # pipeline tasks: blue forward, green whole backward; a split backward is orange and yellow
    "input_gradient": "orange", "weight_gradient": "yellow", "evict": "purple", "load": "black",
    # latency
    "ttft": "blue", "tpot": "vermillion", "e2e": "green", "running": "blue", "waiting": "vermillion",
    "kv_occupancy": "purple",
    # links
    "hbm": "blue", "scale_up": "green", "scale_out": "orange", "nvme": "purple", "wan": "vermillion",
}  # fmt: skip
"""Colour by name of a class of memory, a part of the time, a metric of latency or a link."""
