"""Every shipped profile loads, and states only what physics and the datasheets allow."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from simulator.constants import Trust
from simulator.data import data_root
from simulator.hardware import (
    accelerator_names,
    cluster_names,
    describe,
    load_accelerator,
    load_cluster,
    load_link,
    load_network,
    load_node,
    network_names,
    node_names,
)
from simulator.hardware.accelerators import IDLE_RULE, USABLE_RULE_ECC, WATTS_PER_TERAFLOPS

# Tensor FLOP per cycle and core (SM or CU), dense, 16-bit: architecture white papers of NVIDIA and AMD.
FLOP_PER_CYCLE = {
    "v100-sxm-32gb": 1024, "a100-sxm-80gb": 2048, "h100-sxm": 4096, "h800-sxm": 4096, "t4": 1024, "a10": 1024,
    "a40": 1024, "l4": 1024, "l40s": 1024, "rtx-4090": 512, "rtx-5090": 512, "rtx-6000-ada": 1024, "mi210": 1024,
    "mi250x": 1024, "mi300x": 2048, "mi325x": 2048, "mi355x": 4096, "mi350x": 4096, "a30": 2048, "rtx-a6000": 1024,
    "rtx-3090": 512, "l40": 512, "p100-sxm": 256,
}  # fmt: skip
NVLINK = {
    "nvlink2": (6, 25e9),
    "nvlink3": (12, 25e9),
    "nvlink4": (18, 25e9),
    "nvlink5": (18, 50e9),
    "nvlink6": (36, 50e9),
}


@pytest.mark.parametrize("name", accelerator_names())
def test_accelerator_is_physical(name: str) -> None:
    a = load_accelerator(name)
    assert a.name == name
    assert a.sources
    assert all(peak > 0 for peak in a.peak_flops.values())
    assert a.peak("bf16") <= a.peak("fp8")
    assert a.peak("fp8" if "fp4" in a.peak_flops else "bf16") <= a.peak("fp4")  # without units: unpacked to 16 bit
    assert 0.9 * a.memory_capacity < a.memory_usable <= a.memory_capacity / 1e9 * 2**30
    assert 0 < a.power.idle < a.power.peak
    assert a.host_link.bandwidth > 0
    assert (a.scale_up.topology == "none") == (a.scale_up.domain == 1)
    for link in (a.scale_up.link, a.host_link):
        assert 0 < link.efficiency <= 1
        assert link.latency > 0
    for low, high in filter(None, (a.price.purchase, a.price.rental)):
        assert 0 < low <= high
        assert a.price.as_of
        assert a.price.source


@pytest.mark.parametrize("name", accelerator_names())
def test_cost_constants_never_beat_the_roofline(name: str) -> None:
    for key, constant in load_accelerator(name).efficiency.items():
        leaf = key.rpartition(".")[2]
        assert constant.id == f"{name}.{key}"
        assert constant.source
        assert 0 < constant.sigma < (2 if leaf == "launch" else 1)
        if leaf in ("compute", "memory", "cast", "sustained", "accumulated"):
            assert 0 < constant.value <= 1, key
            assert constant.unit == ""
        elif leaf in ("sharpness", "cached", "unaligned"):
            assert constant.value >= 1, key
        elif leaf in ("launch", "per_sequence_head"):
            assert 0 < constant.value < 1e-4, key
        elif leaf in ("between", "between_recorded"):
            assert 0 <= constant.value < 1e-4, key
            assert constant.unit == "s"
        else:
            assert leaf == "half_length"
            assert constant.unit == "token"


@pytest.mark.parametrize(("name", "flop"), FLOP_PER_CYCLE.items())
def test_peak_is_dense_cores_times_clock(name: str, flop: int) -> None:
    """Sparse figures would be twice the product."""
    a = load_accelerator(name)
    assert a.peak("fp16") == pytest.approx(a.sm_count * a.boost_clock * flop, rel=0.015)


@pytest.mark.parametrize(("name", "links"), NVLINK.items())
def test_nvlink_is_one_direction(name: str, links: tuple[int, float]) -> None:
    assert load_link(name).bandwidth == links[0] * links[1]
    users = [a for a in map(load_accelerator, accelerator_names()) if a.scale_up.link.name == name]
    assert users
    assert {a.scale_up.link.bandwidth for a in users} == {links[0] * links[1]}


CABLES = [m for n in network_names() if (m := re.fullmatch(r"(?:[fehnx]dr|roce|tcpxo?|dcn)(\d+)", n))]


@pytest.mark.parametrize("cable", CABLES, ids=lambda m: m[0])
def test_cables_are_named_after_their_gigabits(cable: re.Match[str]) -> None:
    assert load_link(cable[0]).bandwidth == int(cable[1]) * 1e9 / 8


@pytest.mark.parametrize("name", network_names())
def test_network_is_physical(name: str) -> None:
    n = load_network(name)
    assert n.name == name
    assert n.sources
    assert n.scope == "library" or (n.link.bandwidth > 0 and n.link.latency > 0)
    assert 0 < n.link.efficiency <= 1
    for constant in n.constants.values():
        assert constant.id.startswith(f"{name}.")
        assert constant.value >= 0
        assert 0 < constant.sigma < 1
        assert constant.trust in Trust
    for operation, family in n.curves.items():
        for ranks, curve in family.items():
            assert ranks > 1
            assert len(curve.x) == len(curve.seconds), operation
            assert all(0 < t < 1 for t in curve.seconds)


@pytest.mark.parametrize("name", [n for n in network_names() if load_network(n).scope == "scale_up"])
def test_measured_gathers_do_not_beat_the_wire(name: str) -> None:
    """In-network reduction can lift all-reduce above the wire; gathering and scattering have no such help."""
    n = load_network(name)
    for operation in ("all_gather", "reduce_scatter", "all_to_all"):
        for ranks, curve in n.curves.get(operation, {}).items():
            busiest = max(x * (ranks - 1) / ranks / t for x, t in zip(*curve, strict=True))
            assert busiest <= n.link.bandwidth, (operation, ranks)


@pytest.mark.parametrize("name", node_names())
def test_node_is_physical(name: str) -> None:
    n = load_node(name)
    assert n.name == name
    assert n.sources
    busy = n.accelerators * n.accelerator.power.peak
    assert n.power_overhead > 0
    assert busy + n.power_overhead <= n.power_peak * 1.0001
    assert n.host_memory > 0
    assert n.host_memory_bandwidth > 0
    assert n.cpu_flops > 0
    assert n.nics > 0
    if n.scale_up.domain > n.accelerators:
        assert n.scale_up.domain % n.accelerators == 0
    if n.nvme is not None:
        assert 0 < n.nvme.write <= n.nvme.read


def test_every_accelerator_is_in_some_node() -> None:
    assert {load_node(n).accelerator.name for n in node_names()} == set(accelerator_names())


@pytest.mark.parametrize(
    ("name", "accelerators"),
    [
        ("selene", 4480), ("eos", 4608), ("meta-rsc", 16000), ("meta-24k-roce", 24576), ("meta-24k-ib", 24576),
        ("deepseek-v3-h800", 2048), ("fire-flyer-2", 10000), ("cloudmatrix384", 384), ("megascale-12k", 12288),
        ("xai-colossus-100k", 100000),
    ],
)  # fmt: skip
def test_cluster_sizes(name: str, accelerators: int) -> None:
    c = load_cluster(name)
    assert c.accelerator_count == accelerators
    assert c.sources
    assert c.fabric.link.bandwidth == c.groups[0].node.nic.bandwidth or name == "fire-flyer-2"


def test_all_clusters_are_covered_above() -> None:
    assert len(cluster_names()) == 10


def test_nvl72_is_a_domain_of_trays() -> None:
    tray = load_node("gb200-nvl72")
    assert (tray.accelerators, tray.scale_up.domain, tray.accelerators_per_host_link) == (4, 72, 2)
    assert tray.nic_bandwidth_per_accelerator == 50e9


def test_node_overrides_the_scale_up_network() -> None:
    assert load_node("dgx-1-v100").scale_up.topology == "cube-mesh"
    assert load_node("dgx-2").scale_up.topology == "switch"


def test_rules_fill_what_a_profile_leaves_out_and_say_so() -> None:
    l40s, h20, v5e = (load_accelerator(n) for n in ("l40s", "h20", "tpu-v5e"))
    assert l40s.memory_usable == 45 * 2**30  # 48 GiB less the sixteenth that holds ECC
    assert l40s.estimated["memory.usable"] == USABLE_RULE_ECC
    assert h20.power.idle == pytest.approx(40)
    assert h20.estimated["power.idle"] == IDLE_RULE
    assert v5e.power.peak == pytest.approx(197 * WATTS_PER_TERAFLOPS)
    assert "power.peak" in v5e.estimated


@pytest.mark.parametrize(
    ("load", "name"),
    [(load_accelerator, n) for n in accelerator_names()] + [(load_node, n) for n in node_names()]
    + [(load_network, n) for n in network_names()] + [(load_cluster, n) for n in cluster_names()],
)  # fmt: skip
def test_every_figure_has_a_source(load: Callable[..., object], name: str) -> None:
    rows = describe(load(name))  # type: ignore[arg-type]
    assert rows
    assert all(row.value and row.source for row in rows)
    assert len({row.field for row in rows}) == len(rows)


def test_describe_shows_estimates_and_origins() -> None:
    rows = {row.field: row for row in describe(load_accelerator("h100-sxm"))}
    assert rows["power.idle"].estimated
    assert not rows["memory.bandwidth"].estimated
    assert rows["peak_flops.bf16"].value == "989.4 TFLOP/s"
    assert rows["scale_up.bandwidth"].value == "450 GB/s per direction"
    assert re.match(r"fitted, sigma \d+\.\d%: own fit to", rows["efficiency.gemm.bf16.compute"].source)
    whole = {row.field: row for row in describe(load_accelerator("v100-sxm-32gb"))}
    assert whole["peak_flops.fp16"].estimated  # the section is listed, so all below it is


def test_estimated_fields_exist() -> None:
    """A misspelt entry would silently estimate nothing."""
    for load, found in (
        (load_accelerator, accelerator_names()), (load_node, node_names()),
        (load_network, network_names()), (load_cluster, cluster_names()),
    ):  # fmt: skip
        for name in found:
            profile = load(name)
            fields = [row.field for row in describe(profile)]
            for entry in profile.estimated:
                assert any(f == entry or f.startswith((f"{entry}.", f"{entry}[")) for f in fields), (name, entry)


def test_no_profile_lies_outside_its_folder() -> None:
    root = data_root() / "hardware_profiles"
    assert {p.parent.name for p in root.rglob("*.yaml")} == {"accelerators", "nodes", "networks", "clusters", "parts"}
    assert not math.isnan(load_accelerator(root / "accelerators" / "h100-sxm.yaml").memory_bandwidth)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        (data_root() / "hardware_profiles/accelerators/t4.yaml").read_text().replace("name: t4", "name: mine")
    )
    node = (data_root() / "hardware_profiles/nodes/t4-1x.yaml").read_text()
    node = node.replace("name: t4-1x", "name: box").replace("accelerator: t4\n", f"accelerator: {tmp_path}/mine.yaml\n")
    (tmp_path / "box.yaml").write_text(node)
    first = load_node(tmp_path / "box.yaml")
    assert load_node(tmp_path / "box.yaml") is first
    text = (tmp_path / "mine.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("320 GB/s", "640 GB/s"))
    os.utime(tmp_path / "mine.yaml", ns=(1, 1))
    assert load_node(tmp_path / "box.yaml").accelerator.memory_bandwidth == 2 * first.accelerator.memory_bandwidth


def test_import_stays_light() -> None:
    """The command line loads this package before it knows whether it needs arrays or tables."""
    code = "import sys, simulator.hardware; print(*({'numpy', 'pandas', 'scipy', 'simpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_drives_may_say_what_they_endure(tmp_path: Path) -> None:
    text = (data_root() / "hardware_profiles/nodes/dgx-a100-640.yaml").read_text(encoding="utf-8")
    path = tmp_path / "dgx-a100-640.yaml"
    path.write_text(text.replace("nvme: {", "nvme: {endurance: 280 PB, "), encoding="utf-8")
    drives = load_node(str(path)).nvme
    assert drives is not None and drives.endurance == 280e15
    before = load_node("dgx-a100-640").nvme
    assert before is not None and before.endurance == 0
