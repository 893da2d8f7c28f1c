"""Recurrent mixers under context parallelism: every rank scans its own tokens, states travel between ranks.

A scan is linear in its state, so each rank scans as if its first state were zero, and what the ranks before it left is
added once their states are there: a readout of one state per token. The state has a fixed size, whatever the length of
the sequence (Sun et al., LASP, arXiv 2404.02882; LASP-2, arXiv 2502.07563). The backward passes the gradients of the
states the other way. A short convolution needs the last tokens of the rank before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from simulator.workload.ops import Collective, Dim, Op, OpKind, Phase, Stream, Tensor, TensorClass

__all__ = ["AXIS", "pass_states"]

AXIS = "cp"

READOUT = 2.0
"""FLOPs per element of the state and token that adding an earlier state takes: one multiply-add."""


def pass_states(op: Op, ranks: int, pieces: int, how: Literal["ring", "gather"]) -> Iterator[Op]:
    """``op`` with the messages that recurrence needs; any other Op as it is.

    Parameters
    ----------
    ranks, pieces
        Ranks that share a sequence, and runs of neighbouring tokens on each: 1, or 2 where a rank has a chunk from the
        front and its mirror image (the two in the middle are on one rank).
    how
        ``ring``: one state after another from rank to rank; ``gather``: one all-gather of all states.
    """
    if "taps" in op.tags and op.phase is Phase.FORWARD:
        yield _halo(op, pieces * (int(op.tags["taps"]) - 1))
        yield op
    elif "state" in op.tags:
        yield from _scan(op, ranks, pieces, how)
    else:
        yield op


def _halo(op: Op, tokens: int) -> Op:
    """The last tokens of the rank before, for the first outputs of a convolution."""
    source = op.reads[0]
    few = replace(
        source, dims=(source.dims[0], Dim.of("halo", tokens), *source.dims[2:]),
        sharding=tuple(s for s in source.sharding if s[1] != AXIS),
    )  # fmt: skip
    return _message(op, "halo.send", few, replace(few, name=f"{op.name}.halo"), Collective.SEND_RECV)


def _message(op: Op, name: str, read: Tensor, write: Tensor, kind: Collective) -> Op:
    p2p = kind is Collective.SEND_RECV
    return Op(
        f"{op.name}.{name}", OpKind.P2P if p2p else OpKind.COLLECTIVE, op.phase, read.dtype, (read,), (write,),
        collective=kind, axis=AXIS, stream=Stream.SCALE_UP, recomputable=op.recomputable,
    )  # fmt: skip


def _scan(op: Op, ranks: int, pieces: int, how: Literal["ring", "gather"]) -> Iterator[Op]:
    heads, size = (int(x) for x in op.tags["state"].split("x"))
    target = op.writes[0]
    kept = tuple(s for s in target.sharding if s[0] == "heads")
    state = Tensor(
        f"{op.name}.state", TensorClass.ACTIVATION, (target.dims[0], Dim("heads", ((heads, size),))), "fp32", kept
    )
    local = replace(target, name=f"{target.name}|local")
    yield replace(op, writes=(local, *op.writes[1:], state))
    if how == "gather":
        before = replace(state, name=f"{state.name}|all", dims=(*state.dims, Dim.of("states", pieces * ranks)))
        yield _message(op, "state.all_gather", state, before, Collective.ALL_GATHER)
    else:
        before = state
        for index in range(pieces * (ranks - 1)):
            arrived = replace(state, name=f"{state.name}{index + 1}")
            yield _message(op, f"state.send{index}", before, arrived, Collective.SEND_RECV)
            before = arrived
    tokens = tuple(d for d in op.flop_dims if d.name != "heads")
    yield Op(
        f"{op.name}.carry", OpKind.ELEMENTWISE, op.phase, op.dtype, (local, before), (target,),
        (*tokens, state.dims[-1]), READOUT, sharding=op.sharding, recomputable=op.recomputable,
    )  # fmt: skip
