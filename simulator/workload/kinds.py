"""Words for tensors and Ops: what a tensor is for and where it lies; kernel, part of the step and stream of an Op."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Collective", "OpKind", "Phase", "Stream", "TensorClass", "Tier"]


class TensorClass(StrEnum):
    """What a tensor is for; memory bars are stacked in this order."""

    PARAM = "param"
    GRAD = "grad"
    OPTIM = "optim"
    ACTIVATION = "activation"
    KV = "kv"
    WORKSPACE = "workspace"


class Tier(StrEnum):
    """Where bytes reside."""

    HBM = "hbm"
    PEER = "peer"
    HOST = "host"
    NVME = "nvme"
    REMOTE = "remote"


class OpKind(StrEnum):
    """Kind of kernel, which selects the cost curve."""

    GEMM = "gemm"
    GROUPED_GEMM = "grouped_gemm"
    ATTENTION = "attention"
    ELEMENTWISE = "elementwise"
    COLLECTIVE = "collective"
    P2P = "p2p"
    COPY = "copy"


class Phase(StrEnum):
    """Part of a step: backward is split into input gradient (B) and weight gradient (W)."""

    FORWARD = "forward"
    RECOMPUTE = "recompute"
    BACKWARD = "backward"
    WEIGHT_GRADIENT = "weight_gradient"
    OPTIMIZER = "optimizer"


class Stream(StrEnum):
    """In-order queues of one device that run side by side."""

    COMPUTE = "compute"
    SCALE_UP = "scale_up"
    SCALE_OUT = "scale_out"
    H2D = "h2d"
    D2H = "d2h"
    NVME = "nvme"


class Collective(StrEnum):
    """Collective operations; ``bytes`` of a collective is the size of the full (gathered) buffer, as in nccl-tests."""

    ALL_REDUCE = "all_reduce"
    ALL_GATHER = "all_gather"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_TO_ALL = "all_to_all"
    BROADCAST = "broadcast"
    SEND_RECV = "send_recv"
