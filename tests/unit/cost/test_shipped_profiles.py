"""Every shipped accelerator and node can be priced, and says where its constants come from."""

from __future__ import annotations

import pytest

from simulator.constants import Trust
from simulator.cost.device import DeviceCost
from simulator.cost.network import CommGroup, NetworkCost
from simulator.data import names
from simulator.hardware.profiles import load_accelerator, load_node
from simulator.hardware.types import Fabric
from simulator.workload.ops import OpKind, Work

HEADS, KV_HEADS, HEAD = 64, 8, 128


def works(dtype: str) -> list[Work]:
    attention = {"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD}
    prompt, context = 4096, 8192.0
    cache = 4.0 * 32 * context * KV_HEADS * HEAD
    return [
        Work(OpKind.GEMM, dtype, 2.0 * 4096**3, 6.0 * 4096**2, 4096, 4096, 4096),
        Work(OpKind.GROUPED_GEMM, dtype, 2.0 * 256 * 2048 * 4096, 2.0 * 64 * 2048 * 4096, 256, 2048, 4096, 64),
        Work(OpKind.ATTENTION, dtype, 2.0 * prompt**2 * HEADS * HEAD, 4.0 * prompt * HEADS * HEAD, batch=1,
             q_len=prompt, kv_len=prompt / 2, causal=True, **attention),
        Work(OpKind.ATTENTION, dtype, 4.0 * 32 * context * HEADS * HEAD, cache, batch=32, q_len=1, kv_len=context,
             **attention),
        Work(OpKind.ELEMENTWISE, dtype, 0.0, 1e9),
    ]  # fmt: skip


@pytest.mark.parametrize("name", names("hardware_profiles/accelerators"))
def test_every_accelerator_prices_every_kind_of_kernel(name: str) -> None:
    device = load_accelerator(name)
    cost = DeviceCost(device)
    for dtype in ("bf16", "fp8", "fp4"):
        for work in works(dtype):
            price = cost.price(work)
            assert price.floor <= price.seconds < 100 * price.floor
            assert price.trust != Trust.DATASHEET, "a relative with curves is always there to lend"
    for constant in cost.constants.entries.values():
        assert constant.sigma > 0
        assert constant.trust != Trust.BORROWED or "borrowed from" in constant.source


@pytest.mark.parametrize("name", names("hardware_profiles/nodes"))
def test_every_node_prices_every_collective(name: str) -> None:
    node = load_node(name)
    cost = NetworkCost(node, Fabric("fat-tree", node.nic))
    per_node = node.accelerators
    for nodes in (1, 2, 16):
        if per_node * nodes < 2 or (nodes > 1 and node.nics == 0):
            continue
        for operation in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv"):
            for size in (256.0, 1e6, 1e9):
                work = Work(OpKind.COLLECTIVE, "bf16", collective=operation, message=size)
                price = cost.price(work, CommGroup(per_node * nodes, per_node, nodes))
                assert 0 < price.floor <= price.seconds < 10
                assert price.constants
